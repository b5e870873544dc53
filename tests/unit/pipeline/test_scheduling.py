"""Runners that come, go and die at any step, over a log in memory."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.failing import Crashed
from support.ticking import TickingClock

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.kernels.run_history import RunHistory
from lakehouse_ray.model.schedules import ENDED, RUN_LOG, CatchUp, Schedule, make_schedule
from lakehouse_ray.model.timespan import MINUTE_US, parse_time, to_us
from lakehouse_ray.pipeline.run_rows import request_run
from lakehouse_ray.pipeline.scheduling import Manner, Scheduler
from lakehouse_ray.runtime.places import Ending, LocalProcesses
from lakehouse_ray.storage.event_log import Seen
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import plain_rows

START_US = parse_time("2024-03-01T12:00:30")


@dataclass
class MemoryLog:
    """What `EventLog` promises, without a lake. before, after: Of each adding."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def read(self) -> Seen:
        rows = pl.concat([frame_schema(RUN_LOG).to_frame(), *self.frames])
        return Seen(rows, frozenset(map(str, range(len(self.frames)))))

    def add(self, rows: Sequence[Mapping[str, object]], seen: Seen | None) -> bool:
        if self.before:
            self.before()
        if seen is not None and len(seen.files) != len(self.frames):
            return False
        self.frames.append(plain_rows(RUN_LOG, rows))
        if self.after:
            self.after()
        return True


@dataclass
class MemoryPlace:
    """Runs that go on until they are ended. They die with their runner unless they outlive it."""

    name: str = "local"
    outlives: bool = False
    started: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    endings: dict[str, Ending] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    arguments: dict[str, list[str]] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    obeys: bool = True

    def start(self, run_id: str, arguments: Sequence[str], metadata: Mapping[str, str]) -> None:
        if self.before:
            self.before()
        self.started.append(run_id)
        self.running.add(run_id)
        self.arguments[run_id] = list(arguments)
        if self.after:
            self.after()

    def ending(self, run_id: str) -> Ending | None:
        return self.endings.get(run_id)

    def stop(self, run_id: str, *, at_once: bool = False) -> None:
        self.stopped.append(run_id)
        if self.obeys or at_once:
            self.end(run_id, Ending(-9 if at_once else 143, "", lost=True))

    def end(self, run_id: str, ending: Ending) -> None:
        self.running.discard(run_id)
        self.endings.setdefault(run_id, ending)


@dataclass
class GivenLease:
    epoch: int | None = 1


def scheduled(
    name: str = "one", cron: str = "* * * * *", catch_up: CatchUp = "last", **more: object
) -> dict[str, Schedule]:
    return {name: make_schedule(name, cron, "build", {}, catch_up=catch_up, **more)}  # type: ignore[arg-type]


@dataclass
class Stage:
    """One log and one clock; runners by turns."""

    schedules: dict[str, Schedule]
    manner: Manner = field(default_factory=Manner)
    clock: TickingClock = field(default_factory=lambda: TickingClock(START_US))
    log: MemoryLog = field(default_factory=MemoryLog)
    place: MemoryPlace = field(default_factory=MemoryPlace)
    epoch: int = 0

    def runner(self) -> tuple[Scheduler, GivenLease]:
        """A new one, which has the lease."""
        self.epoch += 1
        lease = GivenLease(self.epoch)
        made = Scheduler(
            self.schedules, self.log, lease, self.place, self.clock, self.manner, f"r{self.epoch}"
        )
        return made, lease

    def forward(self, seconds: float) -> None:
        self.clock.now += round(seconds * 1e6)

    def lose_runner(self) -> None:
        """Processes of a runner die with it; nobody is left to say so."""
        if not self.place.outlives:
            self.place.running.clear()

    @property
    def history(self) -> RunHistory:
        return RunHistory(self.log.read().rows)

    def rows(self, *states: str) -> list[dict[str, object]]:
        found = self.log.read().rows.filter(pl.col("state").is_in(list(states)))
        return found.to_dicts()

    def states(self) -> Counter[str]:
        return Counter(self.log.read().rows["state"].to_list())


def test_a_schedule_counts_from_when_it_is_first_seen() -> None:
    stage = Stage(scheduled(catch_up="all"))
    runner, _ = stage.runner()
    runner.look()
    assert stage.place.started == []
    stage.forward(30)
    runner.look()
    assert stage.place.started == ["one-20240301T120100"]
    assert stage.place.arguments["one-20240301T120100"] == ["build"]


def test_no_run_begins_while_one_of_its_schedule_goes_on_unless_it_may_overlap() -> None:
    for overlap, expected in ((False, 1), (True, 3)):
        stage = Stage(scheduled(overlap=overlap))
        runner, _ = stage.runner()
        runner.look()
        for _ in range(3):
            stage.forward(60)
            runner.look()
        assert len(stage.place.running) == expected


def test_at_most_so_many_runs_go_on_at_once() -> None:
    stage = Stage({n: scheduled(n)[n] for n in ("a", "b", "c", "d")}, Manner(runs_max=3))
    runner, _ = stage.runner()
    runner.look()
    stage.forward(60)
    runner.look()
    runner.look()
    assert len(stage.place.running) == 3


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (Ending(0), "succeeded"),
        (Ending(5, "error: poor"), "failed"),
        (Ending(None, "no such job", lost=True), "interrupted"),
    ],
)
def test_the_end_of_a_run_is_written_down_with_how_long_it_took(ending: Ending, state: str) -> None:
    stage = Stage(scheduled())
    runner, _ = stage.runner()
    runner.look()
    stage.forward(60)
    runner.look()
    stage.forward(12.5)
    stage.place.end(stage.place.started[0], ending)
    runner.look()
    (row,) = stage.rows(*ENDED)
    assert (row["state"], row["duration_s"], row["exit_code"]) == (state, 12.5, ending.exit_code)
    assert ending.error in str(row["error"] or "")
    assert stage.history.open == ()


@pytest.mark.usefixtures("all_events")
def test_the_log_has_the_beginning_and_the_end_of_runs() -> None:
    stage = Stage(scheduled())
    runner, _ = stage.runner()
    runner.look()
    with capture_logs() as said:
        for ending in (Ending(0), Ending(7, "error: the archive is away")):
            stage.forward(60)
            runner.look()
            stage.forward(12.5)
            stage.place.end(stage.place.started[-1], ending)
            runner.look()
    first, second = stage.place.started
    assert [(one["event"], one["run_id"], one["schedule"]) for one in said] == [
        ("run started", first, "one"), ("run ended", first, "one"),
        ("run started", second, "one"), ("run failed", second, "one"),
    ]  # fmt: skip
    assert said[1]["state"] == "succeeded"
    assert said[1]["seconds"] == 12.5
    assert (said[3]["state"], said[3]["exit_code"]) == ("failed", 7)
    assert said[3]["error"] == "error: the archive is away"


def test_a_run_that_takes_too_long_is_told_to_end_and_then_ended() -> None:
    stage = Stage(scheduled(timeout_s=100.0), Manner(stop_s=5))
    stage.place.obeys = False
    runner, _ = stage.runner()
    runner.look()
    stage.forward(60)
    runner.look()
    stage.forward(100)
    runner.look()
    assert len(stage.place.stopped) == 1
    assert len(stage.place.running) == 1
    stage.forward(5)
    runner.look()
    runner.look()
    (row,) = stage.rows(*ENDED)
    assert row["state"] == "timed_out"
    assert "100 s" in str(row["error"])


def test_a_run_asked_for_begins_with_the_next_look_once_its_schedule_is_free() -> None:
    stage = Stage(scheduled(cron="0 0 1 1 *"))
    asked = [
        request_run(stage.log, stage.schedules["one"], stage.clock, "me", letter)
        for letter in ("a", "b")
    ]
    runner, _ = stage.runner()
    runner.look()
    runner.look()
    assert stage.place.started == asked[:1]
    stage.place.end(asked[0], Ending(0))
    runner.look()
    assert stage.place.started == asked


def test_a_run_asked_for_of_a_schedule_that_the_runner_has_not_fails_and_says_so() -> None:
    stage = Stage(scheduled())
    request_run(stage.log, scheduled("two")["two"], stage.clock, "me", "a")
    runner, _ = stage.runner()
    runner.look()
    (row,) = stage.rows("failed")
    assert "no such schedule" in str(row["error"])


def test_whoever_lost_the_lease_writes_nothing_more_and_ends_its_runs() -> None:
    stage = Stage(scheduled())
    first, _ = stage.runner()
    first.look()
    stage.forward(60)
    first.look()
    second, _ = stage.runner()
    # The first still believes that it has its lease: the log knows better.
    second.look()
    rows = len(stage.log.frames)
    stage.forward(60)
    first.look()
    assert not first.leading
    assert len(stage.log.frames) == rows
    assert stage.place.running == set()
    (row,) = stage.rows("interrupted")
    assert row["epoch"] == 2


def test_a_runner_whose_lease_ran_out_ends_its_runs_by_itself() -> None:
    stage = Stage(scheduled())
    runner, lease = stage.runner()
    runner.look()
    stage.forward(60)
    runner.look()
    lease.epoch = None
    runner.look()
    assert stage.place.running == set()
    # It gets the same lease again: what it ended is written down, and nothing begins twice.
    lease.epoch = 1
    runner.look()
    assert stage.states()["interrupted"] == 1
    assert len(stage.place.started) == len(set(stage.place.started))


def test_a_runner_told_to_end_ends_its_runs_and_writes_it_down() -> None:
    stage = Stage(scheduled())
    runner, _ = stage.runner()
    runner.look()
    stage.forward(60)
    runner.look()
    runner.stop()
    assert stage.place.running == set()
    (row,) = stage.rows("interrupted")
    assert row["exit_code"] == 143


def test_jobs_that_outlive_their_runner_are_found_again() -> None:
    stage = Stage(scheduled(), place=MemoryPlace(name="ray", outlives=True))
    first, _ = stage.runner()
    first.look()
    stage.forward(60)
    first.look()
    second, _ = stage.runner()
    second.look()
    stage.place.end(stage.place.started[0], Ending(0))
    second.look()
    assert stage.states()["interrupted"] == 0
    (row,) = stage.rows("succeeded")
    assert row["duration_s"] is None


def test_what_was_interrupted_is_run_again_only_where_that_is_asked_for_and_so_often() -> None:
    for policy, expected in (("report", 1), ("again", 3)):
        stage = Stage(scheduled(cron="0 13 1 3 *", interrupted=policy), Manner(attempts_max=3))
        runner, _ = stage.runner()
        runner.look()
        stage.forward(3600)
        runner.look()
        for _ in range(5):
            stage.lose_runner()
            runner, _ = stage.runner()
            runner.look()
            runner.look()
        assert len(stage.place.started) == expected
        assert stage.states()["interrupted"] == expected
        assert {row["planned_at"] for row in stage.rows("started")} == {
            stage.rows("started")[0]["planned_at"]
        }


def test_a_schedule_that_was_away_or_changed_counts_anew() -> None:
    stage = Stage(scheduled(cron="0 13 1 3 *", catch_up="all"))
    stage.runner()[0].look()
    stage.schedules = {}
    stage.runner()[0].look()
    assert stage.history.standings == {}
    stage.forward(7200)
    stage.schedules = scheduled(cron="0 13 1 3 *", catch_up="all")
    runner, _ = stage.runner()
    runner.look()
    stage.schedules = scheduled(cron="* * * * *", catch_up="all")
    stage.runner()[0].look()
    assert stage.place.started == []


def test_after_a_clock_that_was_years_ahead_schedules_go_on_and_repeat_nothing() -> None:
    stage = Stage(scheduled(catch_up="all"), Manner(catch_up_max=3))
    runner, _ = stage.runner()
    runner.look()
    year_s = 365 * 86_400
    for forward_s in (30, year_s, 60, 60):
        stage.forward(forward_s)
        runner.look()
        for run_id in list(stage.place.running):
            stage.place.end(run_id, Ending(0))
    wrong = list(stage.place.started)
    assert wrong[0] == "one-20240301T120100"
    assert any(run_id > "one-2025" for run_id in wrong)
    stage.forward(-year_s - 120)
    for _ in range(4):
        runner.look()
        for run_id in list(stage.place.running):
            stage.place.end(run_id, Ending(0))
        stage.forward(60)
    right = [run_id for run_id in stage.place.started if run_id not in wrong]
    assert right == ["one-20240301T120200", "one-20240301T120300", "one-20240301T120400"]
    assert len(stage.place.started) == len(set(stage.place.started))


def test_a_start_whose_answer_was_lost_is_made_good_by_the_next_look() -> None:
    stage = Stage(scheduled())
    runner, _ = stage.runner()
    runner.look()
    stage.forward(60)

    def lose() -> None:
        stage.log.after = None
        raise UnavailableError("the answer was lost")

    stage.log.after = lose
    with pytest.raises(UnavailableError):
        runner.look()
    assert stage.place.started == []
    runner.look()
    runner.look()
    assert stage.place.started == ["one-20240301T120100"]


def test_a_runner_is_told_to_end_while_an_end_could_not_be_written_down(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "pass"]
    place = LocalProcesses(command, {}, tmp_path, logs_max=5, redaction=str)
    stage = Stage(scheduled(), place=place)  # type: ignore[arg-type]
    runner, _ = stage.runner()
    runner.look()
    stage.forward(60)
    runner.look()
    assert runner.running == 1

    def down() -> None:
        raise UnavailableError("the lake does not answer")

    stage.log.before = down

    def look_on() -> None:
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s:
            runner.look()

    with pytest.raises(UnavailableError, match="does not answer"):
        look_on()
    stage.log.before = None
    runner.stop()
    assert stage.states()["succeeded"] == 1
    assert runner.running == 0


def test_what_cannot_be_started_has_failed() -> None:
    stage = Stage(scheduled())
    runner, _ = stage.runner()
    runner.look()
    stage.forward(60)

    def refuse() -> None:
        raise UnavailableError("no memory left")

    stage.place.before = refuse
    runner.look()
    (row,) = stage.rows("failed")
    assert "no memory left" in str(row["error"])


STEPS = st.one_of(
    st.tuples(st.just("look"), st.integers(0, 400)),
    st.tuples(st.just("end"), st.integers(0, 100)),
    st.tuples(st.just("kill"), st.integers(0, 4000)),
    st.tuples(st.just("crash before adding"), st.integers(0, 300)),
    st.tuples(st.just("crash after adding"), st.integers(0, 300)),
    st.tuples(st.just("crash before starting"), st.integers(0, 300)),
    st.tuples(st.just("crash after starting"), st.integers(0, 300)),
    st.tuples(st.just("request"), st.just(0)),
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(STEPS, max_size=25),
    st.sampled_from(get_args(CatchUp)),
    st.booleans(),
    st.sampled_from(["report", "again"]),
)
def test_whatever_dies_whenever_each_planned_time_is_accounted_for_once(
    steps: list[tuple[str, int]], catch_up: CatchUp, overlap: bool, interrupted: str
) -> None:
    stage = Stage(
        scheduled(catch_up=catch_up, overlap=overlap, interrupted=interrupted),
        Manner(catch_up_max=5, attempts_max=2),
    )
    runner, _ = stage.runner()
    runner.look()

    def crash() -> None:
        raise Crashed

    def be_safe() -> None:
        stage.log.before = stage.log.after = stage.place.before = stage.place.after = None

    for number, (step, seconds) in enumerate(steps):
        stage.forward(seconds)
        if step == "end":
            for run_id in sorted(stage.place.running):
                stage.place.end(run_id, Ending(0))
        elif step == "request":
            one = stage.schedules["one"]
            request_run(stage.log, one, stage.clock, "me", f"{number}")
        elif step == "kill":
            stage.lose_runner()
            runner, _ = stage.runner()
        elif step.startswith("crash"):
            _, when, what = step.split()
            setattr(stage.log if what == "adding" else stage.place, when, crash)
        try:
            runner.look()
        except Crashed:
            stage.lose_runner()
            runner, _ = stage.runner()
        be_safe()
    runner.look()

    # Nothing began twice, or without being written down.
    assert len(stage.place.started) == len(set(stage.place.started))
    written = {str(row["run_id"]) for row in stage.rows("started")}
    assert set(stage.place.started) <= written
    # Each planned time up to what is decided was begun once (again only as told), or skipped once.
    times = Counter[int]()
    for row in stage.rows("started"):
        if row["trigger"] in ("cron", "catch_up"):
            times[to_us(row["planned_at"])] += 1  # type: ignore[arg-type]
    for row in stage.rows("skipped"):
        first, last = to_us(row["planned_at"]), to_us(row["planned_last"])  # type: ignore[arg-type]
        passed = range(first, last + 1, MINUTE_US)
        assert len(passed) == row["times"]
        times.update(passed)
    decided_us = stage.history.standings["one"].decided_us
    assert times == Counter(range(parse_time("2024-03-01T12:01"), decided_us + 1, MINUTE_US))
    # Every run that is over says how; no run is both lost and going on.
    ends = Counter(str(row["run_id"]) for row in stage.rows(*ENDED))
    assert set(ends.values()) <= {1}
    assert {run.run_id for run in stage.history.open} == stage.place.running
    again = [row for row in stage.rows("started") if row["trigger"] == "again"]
    assert not again or interrupted == "again"
    assert all(row["attempt"] == 2 for row in again)
    if not overlap:
        assert len(stage.place.running) <= 1
