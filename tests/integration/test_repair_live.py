"""Files with rows of streams are lost: what the captured frames say of them comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.live_lake import LiveLake

from lakehouse_ray.model.timespan import HOUR_US, MINUTE_US, SECOND_US, parse_time
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.pipeline.repairing import Repair, repair
from lakehouse_ray.pipeline.stream_commits import SegmentCommits, tables_of_capture
from lakehouse_ray.pipeline.stream_state import WorkerState
from lakehouse_ray.silver.stream_books import Books
from lakehouse_ray.silver.stream_segment import streams_of, work_segment
from lakehouse_ray.storage.files import data_files
from lakehouse_ray.storage.records import FRAME, Record

pytestmark = pytest.mark.integration

START_US = parse_time("2024-05-31T23:30")
MINUTES = 60
NAMES = ("btcusdt@aggTrade", "ethusdt@aggTrade", "btcusdt@kline_1m")
TRADES, BARS = "silver.agg_trades", "silver.klines"


def frames(minute: int) -> list[Record]:
    """A trade of each symbol and a bar, each by two connections."""
    at_ms = (START_US + minute * MINUTE_US) // 1000
    said: list[dict[str, object]] = []
    for symbol in ("BTCUSDT", "ETHUSDT"):
        trade = {"e": "aggTrade", "E": at_ms + 5, "s": symbol, "a": minute, "p": f"{100 + minute}",
                 "q": "1.5", "f": minute, "l": minute, "T": at_ms, "m": False}  # fmt: skip
        said.append({"stream": f"{symbol.lower()}@aggTrade", "data": trade})
    price = str(200 + minute)
    bar = {"t": at_ms, "T": at_ms + 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 2, "o": price,
           "c": price, "h": price, "l": price, "v": "3", "n": 2, "x": True, "q": "9", "V": "1",
           "Q": "3", "B": "0"}  # fmt: skip
    data = {"e": "kline", "E": at_ms + 60_000, "s": "BTCUSDT", "k": bar}
    said.append({"stream": "btcusdt@kline_1m", "data": data})
    received_us = at_ms * 1000 + 61 * SECOND_US
    return [
        Record(received_us + connection, connection, FRAME, json.dumps(one, separators=(",", ":")).encode())
        for one in said
        for connection in (1, 2)
    ]  # fmt: skip


def captured(lake: LiveLake) -> None:
    """Segments of ten minutes; the ledger has not been told of the last ones."""
    writer, streams = lake.writer(), streams_of("um", NAMES)
    folder = lake.home / "spool"
    folder.mkdir(parents=True)
    books = Books("um", levels=5, every_us=100_000)
    with open_committers(writer, tables_of_capture(streams), "1-a", local=True) as committers:
        commits = SegmentCommits(
            writer, committers, market="um", folder=folder, name="1-a-0", run_id="1-a",
            url="ws://127.0.0.1", state=WorkerState(),
        )  # fmt: skip
        for number in range(MINUTES // 10):
            records = [r for minute in range(10) for r in frames(10 * number + minute)]
            work, after = work_segment(
                "um", streams, number + 1, records, commits.state.capture, books, wait_us=0
            )
            commits.commit(work, after)
            if number == 3:
                commits.write_ledger()


def seen(lake: LiveLake) -> list[pl.DataFrame]:
    return [
        lake.connect().sql(f"SELECT * FROM {view} ORDER BY ALL").pl() for view in (TRADES, BARS)
    ]


def files(lake: LiveLake, table: str) -> list[Path]:
    return sorted((lake.home / "data/tables" / table.replace(".", "/")).rglob("*.parquet"))


def lose(paths: Sequence[Path]) -> None:
    assert paths
    for path in paths:
        path.unlink()


def test_lost_live_rows_come_back_from_the_frames(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    captured(lake)
    before = seen(lake)
    assert [frame.height for frame in before] == [2 * MINUTES, MINUTES]
    hot = files(lake, "silver.agg_trades_hot")
    lose([hot[0], hot[-1]])
    (one,) = repair(lake.writer()).repairs
    assert (one.table, one.mended, one.then) == ("silver.agg_trades_hot", True, ["lakehouse fold"])
    for now, then in zip(seen(lake), before, strict=True):
        assert_frame_equal(now, then)
    assert repair(lake.writer()).repairs == []


def test_lost_rows_that_were_folded_come_back_from_the_frames(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    captured(lake)
    fold(lake.writer(), START_US + 10 * HOUR_US)
    before = seen(lake)
    lose([*files(lake, "silver.agg_trades")[:1], *files(lake, "silver.klines_fine")])
    planned = repair(lake.writer(), dry_run=True).repairs
    assert [one.live_rows for one in planned] == [0, 0]
    report = repair(lake.writer())
    assert all(one.mended and one.live_rows for one in report.repairs)
    for _ in range(2):
        for now, then in zip(seen(lake), before, strict=True):
            assert_frame_equal(now, then)
        fold(lake.writer(), START_US + 10 * HOUR_US)
    assert repair(lake.writer()).repairs == []


def test_two_tables_of_one_data_set_are_mended_in_one_run(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    captured(lake)
    fold(lake.writer(), START_US + HOUR_US // 2)
    before = seen(lake)
    hot, main = files(lake, "silver.agg_trades_hot"), files(lake, "silver.agg_trades")
    assert [len(frame) for frame in before] == [2 * MINUTES, MINUTES]
    live = {str(p) for p in current(lake, "silver.agg_trades_hot")}
    lose([*main, *(path for path in hot if str(path) in live)])
    assert len(repair(lake.writer()).repairs) == 2
    for now, then in zip(seen(lake), before, strict=True):
        assert_frame_equal(now, then)


def current(lake: LiveLake, name: str) -> list[Path]:
    table = lake.writer().catalog.find(name)
    assert table is not None
    return [Path(file.file_path.removeprefix("file://")) for file in data_files(table)]


def test_nothing_is_taken_out_where_frames_are_lost_too(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    captured(lake)
    fold(lake.writer(), START_US + 10 * HOUR_US)
    frames_kept = sorted((tmp_path / "data/bronze").rglob("*.frames.gz"))
    lose([*files(lake, "silver.klines_fine"), frames_kept[0]])
    (one,) = repair(lake.writer()).repairs
    assert isinstance(one, Repair)
    assert not one.mended
    assert "1 raw objects of these rows are not in bronze" in one.refused
    assert repair(lake.writer()).repairs[0].lost == one.lost
