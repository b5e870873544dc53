"""What is said of a gap, by the rows that are there and by what the ledger tells; and when to ask."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.ticking import TickingClock

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.streams import FILLED_BY_REST, StreamGap
from lakehouse_ray.model.timespan import SECOND_US, TimeRange, parse_time
from lakehouse_ray.pipeline.stream_filling import FillStatus, FillTask, GapFiller
from lakehouse_ray.pipeline.stream_gaps import ABSENT_AFTER_US, Told, judge, tell_states
from lakehouse_ray.runtime.keepers import Ended
from lakehouse_ray.runtime.keepers import Told as Said
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.binance.rest import REST_DATASETS
from lakehouse_ray.sources.binance.streams.names import DATASET_OF

FOUND_US = parse_time("2026-04-10T12:00")
LATER_US = FOUND_US + ABSENT_AFTER_US
IDS = StreamGap(
    "um", "aggTrades", "A", None, 11, 20, FOUND_US - 3 * SECOND_US, FOUND_US - SECOND_US, 10, FOUND_US
)  # fmt: skip
BARS = replace(IDS, dataset="klines", interval="1m", first_id=None, last_id=None, missing=2)


def test_what_rest_fills_is_what_it_has_of_what_streams_bring() -> None:
    streamed = set(DATASET_OF.values())
    for market in ("spot", "um", "cm"):
        assert set(FILLED_BY_REST) == streamed & set(REST_DATASETS[market])
    for name, number in FILLED_BY_REST.items():
        assert number is None or number in DATASETS[name].tables[0].names


def test_a_gap_is_filled_once_all_of_its_rows_are_there_whoever_brought_them() -> None:
    filled = judge(IDS, 10, "daily, rest", Told())
    assert (filled.state, filled.missing_left, filled.detail) == ("filled", 0, "by daily, rest")
    assert (
        judge(replace(IDS, state="absent", missing_left=1), 10, "daily", Told()).state == "filled"
    )
    assert judge(IDS, 9, "rest", Told()) == IDS


@pytest.mark.parametrize("gap", [IDS, BARS])
def test_what_rest_has_not_after_a_while_is_absent(gap: StreamGap) -> None:
    rows = (gap.missing or 0) - 1
    early = Told(asked=((LATER_US - 1, gap.span, None),))
    assert judge(gap, rows, "rest", early) == gap
    asked = Told(asked=((LATER_US, gap.span, None),))
    absent = judge(gap, rows, "rest", asked)
    assert (absent.state, absent.missing_left) == ("absent", 1)
    assert f"1 of {gap.missing}" in (absent.detail or "")
    part = TimeRange(gap.span.start_us, gap.span.end_us - 1)
    assert judge(gap, rows, "rest", Told(asked=((LATER_US, part, None),))) == gap


def test_ids_may_have_been_asked_for_in_parts() -> None:
    parts = [(LATER_US, None, (1, 15)), (LATER_US + 1, None, (16, 40))]
    assert judge(IDS, 0, "", Told(asked=tuple(parts))).state == "absent"
    assert judge(IDS, 0, "", Told(asked=tuple(parts[:1]))) == IDS


def test_a_refusal_since_is_the_reason_until_rows_come() -> None:
    refused = judge(IDS, 0, "", Told(refused=((FOUND_US + 1, "KEY_NEEDED: set it"),)))
    assert (refused.state, refused.detail) == ("refused", "KEY_NEEDED: set it")
    assert judge(IDS, 0, "", Told(refused=((FOUND_US - 1, "KEY_NEEDED: set it"),))) == IDS
    assert judge(refused, 10, "rest", Told()).state == "filled"


class OneWorker:
    """A keeper whose worker does what a test says."""

    def __init__(self) -> None:
        self.tasks: list[FillTask] = []
        self.says: list[Said | Ended] = []

    @property
    def starts(self) -> int:
        return len(self.tasks)

    def start(self, number: int, task: Any) -> None:
        self.tasks.append(task)

    def poll(self, timeout_s: float) -> list[Said | Ended]:
        said, self.says = self.says, []
        return said

    def stop(self) -> None: ...

    def kill(self) -> None: ...


def test_rest_is_asked_soon_after_a_gap_and_again_for_what_it_did_not_have(tmp_path: Path) -> None:
    clock, keeper = TickingClock(), OneWorker()
    task = FillTask(Writer(Settings(home=tmp_path)), "um")
    filler = GapFiller(keeper, task, clock, after_s=3.0)

    def step(seconds: float, gaps: int, *says: Said | Ended) -> int:
        clock.sleep(seconds)
        keeper.says = list(says)
        before = keeper.starts
        filler.step(gaps)
        return keeper.starts - before

    assert step(2.9, 0) == 0
    assert step(0.2, 0) == 1  # what an earlier capture may have left
    assert step(1.0, 0, Said(0, FillStatus()), Ended(0, None)) == 0
    assert step(1000.0, 0) == 0
    assert step(0.0, 1) == 0
    assert step(2.9, 2) == 0
    assert step(0.2, 2) == 1
    # One at a time; what is found meanwhile is asked for by the next.
    assert step(10.0, 3) == 0
    some = FillStatus(Counter(filled=2), 5, 1)
    assert step(0.0, 3, Said(0, some), Ended(0, None)) == 0
    assert step(3.1, 3) == 1
    assert step(1.0, 3, Said(0, some), Ended(0, None)) == 0
    assert step(59.0, 3) == 0
    assert step(2.0, 3) == 1
    assert step(1.0, 3, Ended(0, UnavailableError("killed"))) == 0
    assert step(119.0, 3) == 0
    assert step(2.0, 3) == 1
    assert (filler.ended["filled"], filler.rows, filler.open) == (4, 10, 1)


def test_what_a_fill_has_told_is_counted_though_it_was_ended_before_it_could_say_so(
    tmp_path: Path,
) -> None:
    clock, keeper = TickingClock(), OneWorker()
    writer = Writer(Settings(home=tmp_path))
    filler = GapFiller(keeper, FillTask(writer, "um"), clock, after_s=3.0)
    clock.sleep(4.0)
    filler.step(0)
    run_id = keeper.tasks[-1].run_id
    filled = replace(IDS, state="filled", told_us=LATER_US)
    told = [filled, replace(BARS, state="absent", missing_left=1, told_us=LATER_US)]
    tell_states(writer, told, run_id)
    tell_states(writer, [replace(filled, symbol="B")], "another run")
    filler.stop()
    assert filler.ended == Counter(filled=1, absent=1)
    filler.stop()
    assert filler.ended == Counter(filled=1, absent=1)

    # Who said it, and had only not ended yet, is not counted twice.
    clock.sleep(4.0)
    filler.step(1)
    clock.sleep(4.0)
    filler.step(1)
    assert keeper.tasks[-1].run_id not in ("", run_id)
    tell_states(writer, [replace(filled, symbol="C")], keeper.tasks[-1].run_id)
    keeper.says = [Said(0, FillStatus(Counter(filled=1), 5, 0))]
    filler.stop()
    assert filler.ended == Counter(filled=2, absent=1)


def test_a_gap_of_which_nobody_knows_how_many_it_lacks_is_filled_when_all_of_it_was_asked_for() -> (
    None
):
    """Between the numbers of a ticker and those of its next listing."""
    gap = replace(IDS, first_id=None, last_id=None, missing=None)
    assert judge(gap, 0, "", Told()) == gap
    assert judge(gap, 7, "rest", Told()) == gap
    whole = Told(asked=((LATER_US, gap.span, None),))
    assert judge(gap, 7, "rest", whole).state == "filled"
