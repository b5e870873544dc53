"""Rows merged into the main tables, beside other writers and through a kill at any commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from support.failing import Crashed, FailingCommitter, FailingWriter, crash, lose_the_answer
from support.lakes import assert_same, read_lake
from support.live_rows import live_rows, version

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.timespan import MINUTE_US, parse_time
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.row_merging import RowMerger, RowsMerged, tables_of
from lakehouse_ray.settings import load_settings

pytestmark = pytest.mark.integration

KLINES = find_dataset("klines")
FINE, COARSE = (table.name for table in KLINES.tables)
START_US = parse_time("2025-01-31T23:30")


def writer(home: Path, kind: type[Writer] = Writer) -> Writer:
    return kind(load_settings({"home": home}).resolved())


def bars(value: float, second: int, source: str = "rest") -> pl.DataFrame:
    """An hour over the end of a month of two symbols, one bar of it twice with other values."""
    times = [START_US + n * MINUTE_US for n in range(60)]
    rows = [(time, value, version(second)) for time in [*times, times[7]]]
    rows.append((times[7], value + 1, version(second)))
    parts = [
        live_rows(KLINES, rows, source=source, symbol=symbol, interval=interval)
        for symbol in ("BTCUSDT", "ETHUSDT")
        for interval in ("1m", "1h")
    ]
    return pl.concat(parts)


def merge(writer: Writer, frame: pl.DataFrame, run: str = "a") -> RowsMerged:
    with open_committers(writer, tables_of(KLINES), run, local=True) as committers:
        merger = RowMerger(writer, committers, run)
        merger.merge(KLINES, frame)
        return merger.report


def failing(home: Path, table: str, number: int, **hooks: Callable[[], None]) -> Writer:
    made = writer(home, FailingWriter)
    around = {table: lambda inner: FailingCommitter(inner, number, **hooks)}
    object.__setattr__(made, "around", around)
    return made


@pytest.mark.parametrize("table", [FINE, COARSE, QUARANTINE.name])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_merge_that_ends_around_a_commit_is_completed_by_the_next(
    tmp_path: Path, table: str, when: str
) -> None:
    report = merge(writer(tmp_path / "whole"), bars(1, 1))
    assert (report.rows, report.rows_refused, report.conflicts) == (4 * 59, 8, 0)
    with pytest.raises(Crashed):
        merge(failing(tmp_path / "killed", table, 1, **{when: crash}), bars(1, 1))
    merge(writer(tmp_path / "killed"), bars(1, 1), "b")
    assert_same(read_lake(tmp_path / "killed"), read_lake(tmp_path / "whole"))
    report = merge(writer(tmp_path / "killed"), bars(1, 1), "c")
    assert (report.rows, report.rows_replaced, report.rows_known) == (0, 0, 4 * 59)


def test_a_merge_that_another_overtakes_merges_again(tmp_path: Path) -> None:
    merge(writer(tmp_path / "calm"), bars(2, 2))
    late = failing(
        tmp_path / "raced",
        FINE,
        1,
        before=lambda: merge(writer(tmp_path / "raced"), bars(2, 2), "b") and None,
    )
    report = merge(late, bars(1, 1, "stream"))
    assert report.conflicts > 0
    assert report.rows == 2 * 59, "the hour bars came first"
    found, wanted = read_lake(tmp_path / "raced").tables, read_lake(tmp_path / "calm").tables
    assert found[FINE].equals(wanted[FINE])
    assert found[COARSE].equals(wanted[COARSE])


def test_a_commit_whose_answer_is_lost_is_not_made_twice(tmp_path: Path) -> None:
    report = merge(failing(tmp_path, FINE, 1, after=lose_the_answer), bars(1, 1))
    assert (report.rows, report.conflicts) == (4 * 59, 0)
    assert len(read_lake(tmp_path).snapshots[FINE]) == 1
