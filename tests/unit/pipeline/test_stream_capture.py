"""Who captures what, what is remembered, and what is refused before anything is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import BadDataError, InvalidError, UnavailableError
from lakehouse_ray.pipeline.run_measures import RunMeasures
from lakehouse_ray.pipeline.stream_capture import (
    CaptureReport,
    CaptureRequest,
    _Watch,
    left_over,
    plan_capture,
    totals_of_capture,
)
from lakehouse_ray.pipeline.stream_commits import CaptureTally
from lakehouse_ray.pipeline.stream_state import (
    WorkerState,
    inherit_series,
    load_state,
    save_state,
)
from lakehouse_ray.pipeline.stream_worker import CaptureStatus, CaptureTask
from lakehouse_ray.runtime.keepers import Ended, Told
from lakehouse_ray.settings import Settings
from lakehouse_ray.silver.stream_segment import CaptureState, streams_of
from lakehouse_ray.silver.stream_series import SeriesState
from lakehouse_ray.storage.records import FRAME, Record


def writer(home: Path, **stream: Any) -> Writer:
    return Writer(Settings(home=home, stream=stream))


def request(*names: str, market: str = "um") -> CaptureRequest:
    return CaptureRequest(market, tuple(streams_of(market, names)))  # type: ignore[arg-type]


def test_all_streams_of_a_symbol_are_one_workers(tmp_path: Path) -> None:
    names = [f"{s}usdt@{w}" for s in "abcdefg" for w in ("trade", "kline_1m")]
    tasks = plan_capture(writer(tmp_path, workers=3), request(*names))
    assert [task.number for task in tasks] == [0, 1, 2]
    assert sorted(name for task in tasks for name in task.names) == sorted(names)
    for task in tasks:
        symbols = {name.partition("@")[0] for name in task.names}
        assert len(task.names) == 2 * len(symbols)
        assert task.folder == tmp_path / "spool" / "um" / str(task.number)
    # One name for all captures of the spool, so that a repetition is known as such.
    again = plan_capture(writer(tmp_path), request("ausdt@trade"))
    assert {task.run_id for task in again} == {task.run_id for task in tasks}
    assert len(plan_capture(writer(tmp_path, workers=9), request("ausdt@trade"))) == 1


def test_what_more_workers_left_is_recovered_by_fewer(tmp_path: Path) -> None:
    for task in plan_capture(writer(tmp_path, workers=3), request("a@trade", "b@trade", "c@trade")):
        task.folder.mkdir()
    lake = writer(tmp_path)
    tasks = plan_capture(lake, request("a@trade"))
    assert [task.number for task in left_over(lake, tasks)] == [0, 1, 2]


@pytest.mark.parametrize("names", [[], ["btcusdt@bookTicker"]])
def test_streams_that_would_give_no_rows_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InvalidError):
        plan_capture(writer(tmp_path), request(*names, market="spot"))


def test_a_state_reads_back_as_written(tmp_path: Path) -> None:
    state = WorkerState(
        CaptureState(
            7,
            {"a@trade": SeriesState(5, 6, [(1, 2)], []), "b@bookTicker": SeriesState(keys=["1 2"])},
            [Record(8, 9, FRAME, b"\x00\xff{}")],
        ),
        [{"dataset": "trades", "rows": 3, "reason": None}],
        10,
    )
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state
    assert load_state(tmp_path / "new") == WorkerState()
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(BadDataError, match="SPOOL_CORRUPT"):
        load_state(tmp_path)


def test_a_series_goes_on_where_the_latest_worker_that_had_it_was(tmp_path: Path) -> None:
    for number, last, saved_us in ((0, 10, 1), (1, 30, 3), (2, 20, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        state = WorkerState(CaptureState(1, {"a@trade": SeriesState(last)}), [], saved_us)
        save_state(folder, state)
    own = load_state(tmp_path / "0")
    inherit_series(own, tmp_path, tmp_path / "0")
    assert own.capture.series["a@trade"].last == 30


class ScriptedKeeper:
    """A keeper whose workers say what a test has written down."""

    def __init__(self, script: Callable[[int, int], list[Told | Ended]]) -> None:
        self._script = script
        self._lives: dict[int, int] = {}
        self._running: set[int] = set()

    def start(self, number: int, task: Any) -> None:
        assert isinstance(task, CaptureTask)
        self._lives[number] = self._lives.get(number, 0) + 1
        self._running.add(number)

    def poll(self, timeout_s: float) -> list[Told | Ended]:
        said = [e for n in sorted(self._running) for e in self._script(n, self._lives[n])]
        self._running -= {event.number for event in said if isinstance(event, Ended)}
        return said

    def stop(self) -> None: ...

    def kill(self) -> None: ...


class PatientClock:
    """Sleeping is what makes its time pass."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_us(self) -> int:
        return int(self.time_s * 1e6)

    def monotonic_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds


def watch(
    tmp_path: Path, script: Callable[[int, int], list[Told | Ended]]
) -> tuple[_Watch, CaptureReport]:
    lake = writer(tmp_path, workers=2)
    lake.__dict__["clock"] = PatientClock()
    tasks = plan_capture(lake, request("a@trade", "b@trade"))
    report = CaptureReport("run", "um", 2, 2)
    measures = RunMeasures("stream", lake.clock, lambda: totals_of_capture(report))
    return _Watch(lake, ScriptedKeeper(script), tasks, report, lambda _: None, measures), report


def status(frames: int) -> CaptureStatus:
    return CaptureStatus(CaptureTally(segments=1, frames=frames, rows={"trades": frames}), frames)


def test_what_workers_did_before_they_died_counts(tmp_path: Path) -> None:
    def script(number: int, life: int) -> list[Told | Ended]:
        if number == 0 and life == 1:
            return [Told(0, status(10)), Ended(0, UnavailableError("killed"))]
        return [Told(number, status(3))]

    kept, report = watch(tmp_path, script)
    kept.start()
    for _ in range(4):
        kept._clock.sleep(0.3)
        kept.step()
    assert report.replaced == 1
    assert report.status.frames == 10 + 3 + 3
    assert report.status.tally.rows == {"trades": 16}


def test_one_that_dies_again_and_again_without_a_commit_ends_the_capture(tmp_path: Path) -> None:
    kept, report = watch(tmp_path, lambda n, _: [Ended(n, UnavailableError("out of memory"))])
    kept.start()

    def go_on() -> None:
        for _ in range(1000):
            kept._clock.sleep(0.5)
            kept.step()

    with pytest.raises(UnavailableError, match="out of memory"):
        go_on()
    assert report.replaced > 5


def test_what_no_other_try_would_mend_ends_it_at_once(tmp_path: Path) -> None:
    kept, _ = watch(tmp_path, lambda n, _: [Ended(n, InvalidError("no such stream"))])
    kept.start()
    with pytest.raises(InvalidError, match="no such stream"):
        kept.step()


def no_place(number: int) -> Ended:
    return Ended(number, UnavailableError("no CPU is free"), came_up=False)


def test_a_worker_that_finds_no_place_ends_it_at_once(tmp_path: Path) -> None:
    kept, report = watch(tmp_path, lambda n, _: [no_place(n) if n else Told(0, status(1))])
    kept.start()
    with pytest.raises(UnavailableError, match="no CPU is free"):
        kept.step()
    assert report.replaced == 0


def test_a_capture_that_is_over_before_a_worker_was_up_says_so(tmp_path: Path) -> None:
    kept, _ = watch(tmp_path, lambda n, _: [no_place(n) if n else Ended(0, None)])
    kept.start()
    kept.stop()
    assert str(kept.never_up) == "no CPU is free"


def test_a_place_that_is_lost_for_a_while_is_waited_for(tmp_path: Path) -> None:
    def script(number: int, life: int) -> list[Told | Ended]:
        if number == 0 and life == 1:
            return [Told(0, status(1)), Ended(0, UnavailableError("killed"))]
        if number == 0 and life == 2:
            return [no_place(0)]
        return [Told(number, status(3))]

    kept, report = watch(tmp_path, script)
    kept.start()
    for _ in range(8):
        kept._clock.sleep(0.3)
        kept.step()
    assert report.replaced == 2
    assert kept.never_up is None
