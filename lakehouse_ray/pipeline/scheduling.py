"""Keeps to schedules: looks what is due, starts it, and writes down what became of it.

    lease -> log of runs -> what is due -> a row "started" -> the run -> a row of its end

Everything is decided by the log and added to it in one step that fails where anybody else has added
meanwhile. A run is started after its row is there, so a planned time is never run twice; a runner
that dies in between leaves a row "started" without an end, which the next one finds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import orjson
import structlog

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import ConflictError, InvalidError, LakehouseError, UnavailableError
from lakehouse_ray.kernels.planning import plan
from lakehouse_ray.kernels.run_history import Run, RunHistory
from lakehouse_ray.model.schedules import Schedule, State, Trigger
from lakehouse_ray.model.timespan import MINUTE_US, format_time
from lakehouse_ray.model.workflows import parse_workflow
from lakehouse_ray.pipeline.run_rows import Row, RunLog, RunRows, attempt_id_of, run_id_of
from lakehouse_ray.runtime.places import Ending, Place

log = structlog.get_logger()

# Requests of people may come between reading and writing; other runners can do so once.
_ATTEMPTS_MAX = 20
# More wait in the log for the next look.
_STARTS_PER_LOOK_MAX = 50
_RUNNER = "*"  # of no schedule
# Clocks of machines that are kept right differ by less.
_AHEAD_US_MAX = 10 * MINUTE_US


class Held(Protocol):
    """A lease that something else keeps up. epoch: Its number; None: it is not had."""

    @property
    def epoch(self) -> int | None: ...


@dataclass(frozen=True)
class Manner:
    """How schedules are kept to; settings `scheduler.*` say what each means."""

    late_s_max: float = 60.0
    catch_up_max: int = 100
    runs_max: int = 4
    attempts_max: int = 3
    stop_s: float = 20.0


@dataclass
class _Watched:
    """A run that this process started or found. Times by the steady clock."""

    run: Run
    began_s: float
    found: bool
    timeout_s: float
    stop_by_s: float | None = None
    timed_out: bool = False
    ending: Ending | None = None
    ended_s: float = 0.0


@dataclass
class _Draft:
    """Rows that a look will add, and what they change of what the log says."""

    rows: list[Row] = field(default_factory=list)
    started: list[Run] = field(default_factory=list)

    def busy(self, schedule: str) -> bool:
        return any(run.schedule == schedule for run in self.started)


class LostLeaseError(ConflictError):
    """Another runner has written under a later lease."""


class Scheduler:
    """Keeps to schedules for as long as the lease is had. Call `look` again and again.

    runner: Names this process in the log. tell: Is told in words what happens.
    """

    def __init__(
        self,
        schedules: Mapping[str, Schedule],
        log_: RunLog,
        lease: Held,
        place: Place,
        clock: Clock,
        manner: Manner,
        runner: str,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._schedules = schedules
        self._log = log_
        self._lease = lease
        self._place = place
        self._clock = clock
        self._manner = manner
        self._runner = runner
        self._rows = RunRows(clock, runner)
        self._tell = tell
        self._epoch: int | None = None
        self._watched: dict[str, _Watched] = {}

    @property
    def leading(self) -> bool:
        return self._epoch is not None

    @property
    def running(self) -> int:
        return len(self._watched)

    def look(self) -> None:
        """Do what is due now. Safe to repeat after any error.

        Raises LakehouseError where the lake does not answer.
        """
        epoch = self._lease.epoch
        if epoch is None or (self._epoch is not None and epoch != self._epoch):
            self._step_down()
            return
        try:
            if self._epoch is None:
                self._take_over(epoch)
            self._settle(epoch)
            self._plan_due(epoch)
            self._start(epoch)
        except LostLeaseError:
            self._step_down()

    def stop(self) -> None:
        """End the runs that would not outlive this process, and write down that they were stopped."""
        epoch = self._epoch
        if epoch is None or self._place.outlives:
            return
        for watched in self._watched.values():
            # One that has ended may wait for the lake to hear of it.
            if watched.ending is None:
                self._tell_to_end(watched)
        while any(watched.ending is None for watched in self._watched.values()):
            self._look_at_runs()
            self._clock.sleep(0.05)
        # A slow catalog may have let the lease run out for a moment; what is not written down now, the
        # next runner counts as lost.
        until_s = self._clock.monotonic_s() + self._manner.stop_s
        while self._lease.epoch is None and self._clock.monotonic_s() < until_s:
            self._clock.sleep(0.05)
        with contextlib.suppress(LostLeaseError):
            self._settle(epoch)

    def _step_down(self) -> None:
        """Whoever has the lease now counts what runs here as lost, so it must not go on."""
        if self._epoch is None:
            return
        self._tell("another runner has taken over")
        self._epoch = None
        if not self._place.outlives:
            for run_id, watched in self._watched.items():
                if watched.ending is None:
                    self._place.stop(run_id)
            until_s = self._clock.monotonic_s() + self._manner.stop_s
            while any(w.ending is None for w in self._watched.values()):
                for run_id, watched in self._watched.items():
                    watched.ending = watched.ending or self._place.ending(run_id)
                    if watched.ending is None and self._clock.monotonic_s() >= until_s:
                        self._place.stop(run_id, at_once=True)
                self._clock.sleep(0.05)
        self._watched.clear()

    def _take_over(self, epoch: int) -> None:
        """Say so in the log, and settle what the runner before left open, in one step."""

        lost: list[Run] = []

        def rows(history: RunHistory) -> list[Row]:
            found = [self._rows.of_schedule(_RUNNER, "leader", epoch=epoch)]
            lost.clear()
            for run in history.open:
                if run.place != self._place.name or not self._place.outlives:
                    lost.append(run)
                    found += self._lost(history, run, epoch, "its runner was lost")
            return found + self._changes_of_schedules(history, epoch)

        history = self._write(epoch, rows)
        self._epoch = epoch
        self._tell(f"keeping {len(self._schedules)} schedules, lease {epoch}")
        for run in lost:
            _log_end(run, "interrupted", error="its runner was lost")
        for run in history.open:
            if run.place == self._place.name and self._place.outlives:
                self._watch(run, found=True)

    def _changes_of_schedules(self, history: RunHistory, epoch: int) -> list[Row]:
        """Rows for schedules that are new, changed or gone."""
        now_us = self._clock.now_us()
        rows: list[Row] = []
        for name, schedule in self._schedules.items():
            standing = history.standings.get(name)
            if standing is None or standing.cron != schedule.cron.text:
                since_us = now_us if standing is None else max(now_us, standing.decided_us)
                rows.append(self._adopted(schedule, since_us, epoch))
        gone = history.standings.keys() - self._schedules.keys()
        return [
            *rows,
            *(self._rows.of_schedule(name, "retired", epoch=epoch) for name in sorted(gone)),
        ]

    def _adopted(self, schedule: Schedule, since_us: int, epoch: int) -> Row:
        return self._rows.of_schedule(
            schedule.name, "adopted", epoch=epoch, planned_at=since_us, cron=schedule.cron.text,
            workflow=schedule.workflow.workflow,
        )  # fmt: skip

    def _lost(self, history: RunHistory, run: Run, epoch: int, why: str) -> list[Row]:
        """Rows of a run that was lost: that it was, and what follows by the schedule's policy."""
        rows = [self._rows.of_run(run, "interrupted", epoch, error=why)]
        schedule = self._schedules.get(run.schedule)
        if schedule is None or schedule.interrupted != "again":
            return rows
        if run.attempt >= self._manner.attempts_max:
            return rows
        again = replace(
            run, run_id=attempt_id_of(run.run_id, run.attempt + 1), attempt=run.attempt + 1,
            trigger="again",
        )  # fmt: skip
        return [*rows, self._rows.of_run(again, "requested", epoch)]

    def _settle(self, epoch: int) -> None:
        """Write down the ends of runs."""
        self._look_at_runs()
        ended = {name: w for name, w in self._watched.items() if w.ending is not None}
        if not ended:
            return

        def rows(history: RunHistory) -> list[Row]:
            found: list[Row] = []
            still_open = {run.run_id for run in history.open}
            for run_id, watched in ended.items():
                # Else an answer was lost, and it is there.
                if run_id in still_open:
                    found += self._end_rows(history, watched, epoch)
            return found

        self._write(epoch, rows)
        for run_id, watched in ended.items():
            del self._watched[run_id]
            state, ending = self._state_of(watched), watched.ending
            assert ending is not None
            self._tell(f"{run_id}: {state}")
            seconds = None if watched.found else round(watched.ended_s - watched.began_s, 3)
            _log_end(
                watched.run, state, seconds=seconds, exit_code=ending.exit_code,
                error=ending.error or None,
            )  # fmt: skip

    def _look_at_runs(self) -> None:
        now_s = self._clock.monotonic_s()
        for run_id, watched in self._watched.items():
            if watched.ending is None:
                watched.ending = self._place.ending(run_id)
                watched.ended_s = now_s
            if watched.ending is not None:
                continue
            if watched.stop_by_s is None and now_s - watched.began_s >= watched.timeout_s:
                watched.timed_out = True
                self._tell_to_end(watched)
            elif watched.stop_by_s is not None and now_s >= watched.stop_by_s:
                self._place.stop(run_id, at_once=True)

    def _tell_to_end(self, watched: _Watched) -> None:
        if watched.stop_by_s is None:
            watched.stop_by_s = self._clock.monotonic_s() + self._manner.stop_s
            self._place.stop(watched.run.run_id)

    def _state_of(self, watched: _Watched) -> State:
        assert watched.ending is not None
        if watched.ending.exit_code == 0:
            return "succeeded"
        if watched.timed_out:
            return "timed_out"
        return "interrupted" if watched.ending.lost else "failed"

    def _end_rows(self, history: RunHistory, watched: _Watched, epoch: int) -> list[Row]:
        state, ending = self._state_of(watched), watched.ending
        assert ending is not None
        error = ending.error
        if state == "timed_out":
            error = f"took longer than {watched.timeout_s:g} s\n{error}".rstrip()
        elif state == "interrupted":
            error = f"it was stopped\n{error}".rstrip()
        # What was found running had begun before anybody here looked.
        duration_s = None if watched.found else round(watched.ended_s - watched.began_s, 3)
        facts = {"duration_s": duration_s, "exit_code": ending.exit_code, "error": error or None}
        if state != "interrupted":
            return [self._rows.of_run(watched.run, state, epoch, **facts)]
        first, *further = self._lost(history, watched.run, epoch, error)
        return [{**first, **facts}, *further]

    def _plan_due(self, epoch: int) -> None:
        """Write down what is to be run now, and what is passed over."""

        def rows(history: RunHistory) -> list[Row]:
            draft = _Draft()
            self._answer_requests(history, draft, epoch)
            for schedule in self._schedules.values():
                self._decide(history, draft, schedule, epoch)
            return draft.rows

        self._write(epoch, rows)

    def _has_room(self, history: RunHistory, draft: _Draft) -> bool:
        return (
            len(history.open) + len(draft.started) < self._manner.runs_max
            and len(draft.started) < _STARTS_PER_LOOK_MAX
        )

    def _may_begin(self, history: RunHistory, draft: _Draft, schedule: Schedule) -> bool:
        if not self._has_room(history, draft):
            return False
        busy = draft.busy(schedule.name) or any(r.schedule == schedule.name for r in history.open)
        return schedule.overlap or not busy

    def _answer_requests(self, history: RunHistory, draft: _Draft, epoch: int) -> None:
        for run in history.requested:
            schedule = self._schedules.get(run.schedule)
            if schedule is None:
                why = "the runner's settings have no such schedule"
                draft.rows.append(self._rows.of_run(run, "failed", epoch, error=why))
            elif self._may_begin(history, draft, schedule):
                self._begin(draft, run, epoch)

    def _decide(self, history: RunHistory, draft: _Draft, schedule: Schedule, epoch: int) -> None:
        standing = history.standings.get(schedule.name)
        if standing is None:
            return  # it was given up by a runner with other settings; the next lease takes it up
        decided_us, now_us = standing.decided_us, self._clock.now_us()
        if decided_us - now_us > _AHEAD_US_MAX:
            # Some clock was ahead, and what it decided is still to come. Planned times that were run
            # have their runs in the log, so none of them is run again.
            draft.rows.append(self._adopted(schedule, now_us, epoch))
            log.warning(
                "schedule counts anew", schedule=schedule.name,
                why=f"it was decided up to {format_time(decided_us)}, by a clock that was ahead",
            )  # fmt: skip
            return
        while self._may_begin(history, draft, schedule):
            next_ = plan(
                schedule.cron, decided_us, now_us, schedule.catch_up,
                late_us_max=round(self._manner.late_s_max * 1e6),
                catch_up_max=self._manner.catch_up_max,
            )  # fmt: skip
            if next_.skipped is not None:
                draft.rows.append(self._rows.passed_over(schedule, next_.skipped, epoch))
                decided_us = next_.skipped.last_us
            if next_.run_us is not None:
                decided_us = next_.run_us
                trigger: Trigger = "catch_up" if next_.is_late else "cron"
                run = Run(
                    run_id_of(schedule.name, next_.run_us), schedule.name,
                    schedule.workflow.workflow, orjson.dumps(schedule.parameters()).decode(),
                    trigger, next_.run_us, 1,
                )  # fmt: skip
                if not history.has(run.run_id):
                    self._begin(draft, run, epoch)
            elif next_.skipped is None:
                return

    def _begin(self, draft: _Draft, run: Run, epoch: int) -> None:
        draft.started.append(run)
        draft.rows.append(
            self._rows.of_run(run, "started", epoch, place=self._place.name, runner=self._runner)
        )

    def _start(self, epoch: int) -> None:
        """Start what the log says is started, by this very lease, and is not."""
        for run in self._history().open:
            if run.epoch != epoch or run.run_id in self._watched:
                continue
            self._require(epoch)
            try:
                asked = parse_workflow({**orjson.loads(run.parameters), "workflow": run.workflow})
                metadata = {
                    "schedule": run.schedule, "planned": format_time(run.planned_us),
                    "trigger": run.trigger, "workflow": run.workflow, "parameters": run.parameters,
                }  # fmt: skip
                self._place.start(run.run_id, asked.arguments(), metadata)
            except (UnavailableError, InvalidError) as error:
                self._fail(run, epoch, str(error))
            else:
                self._watch(run, found=False)
                self._tell(f"{run.run_id}: started ({run.trigger})")
                log.info("run started", **_ids(run), trigger=run.trigger, attempt=run.attempt)

    def _fail(self, run: Run, epoch: int, why: str) -> None:
        self._write(epoch, lambda _: [self._rows.of_run(run, "failed", epoch, error=why)])
        self._tell(f"{run.run_id}: failed: {why}")
        _log_end(run, "failed", error=why)

    def _watch(self, run: Run, *, found: bool) -> None:
        schedule = self._schedules.get(run.schedule)
        timeout_s = schedule.timeout_s if schedule is not None else Schedule.timeout_s
        self._watched[run.run_id] = _Watched(run, self._clock.monotonic_s(), found, timeout_s)

    def _require(self, epoch: int) -> None:
        if self._lease.epoch != epoch:
            raise LostLeaseError("the lease was lost")

    def _history(self) -> RunHistory:
        return RunHistory(self._log.read().rows)

    def _write(self, epoch: int, rows: Callable[[RunHistory], list[Row]]) -> RunHistory:
        """Add what `rows` makes of the log, of all of it. Returns what it says then."""
        for _ in range(_ATTEMPTS_MAX):
            seen = self._log.read()
            history = RunHistory(seen.rows)
            if history.epoch > epoch:
                raise LostLeaseError(f"lease {history.epoch} has followed {epoch}")
            made = rows(history)
            if not made:
                return history
            self._require(epoch)
            numbered = [{**row, "sequence": history.sequence + i} for i, row in enumerate(made, 1)]
            if self._log.add(numbered, seen):
                return self._history()
        raise UnavailableError(f"others wrote to the log of runs first {_ATTEMPTS_MAX} times")


def _ids(run: Run) -> dict[str, str]:
    return {"workflow": run.workflow, "run_id": run.run_id, "schedule": run.schedule}


def _log_end(run: Run, state: State, **facts: object) -> None:
    """As a workflow says it of itself; what it counted is in its own process' event."""
    told = {name: fact for name, fact in facts.items() if fact is not None}
    if state == "succeeded":
        log.info("run ended", **_ids(run), state=state, **told)
    else:
        log.warning("run failed", **_ids(run), state=state, **told)


def run_schedules(
    scheduler: Scheduler,
    clock: Clock,
    poll_s: float,
    *,
    tell: Callable[[str], None],
    after: Callable[[], None] = lambda: None,
) -> None:
    """Look for ever; an error of the lake is told and tried again. `after` follows each look."""
    told = ""
    while True:
        try:
            scheduler.look()
            after()
            told = ""
        except LakehouseError as error:
            if str(error) != told:
                told = str(error)
                tell(f"trying again: {told}")
                log.warning("the lake does not answer", error=told)
        clock.sleep(poll_s)
