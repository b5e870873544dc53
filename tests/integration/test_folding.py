"""Live rows move to the main tables while they are asked about: each is seen once, at any instant."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.commands import environment
from support.failing import Crashed, FailingCommitter, crash
from support.in_process import run_here
from support.live_lake import Around, LiveLake
from support.live_rows import live_rows, version

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.timespan import HOUR_US, MINUTE_US, SECOND_US, parse_time
from lakehouse_ray.pipeline.fold_report import FoldReport
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.pipeline.hourly_fold import HourlyFold
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.storage.catalog import TableCatalog
from lakehouse_ray.storage.files import data_files

pytestmark = pytest.mark.integration

KLINES, AGG_TRADES = DATASETS["klines"], DATASETS["aggTrades"]
FINE, COARSE, HOT = "silver.klines_fine", "silver.klines_coarse", "silver.klines_hot"
START_US = parse_time("2024-05-31T22:00")
END_US = START_US + 4 * HOUR_US


def minutes(first: int, last: int, value: float, second: int) -> list[tuple[int, float, str]]:
    return [(START_US + n * MINUTE_US, value, version(second)) for n in range(first, last)]


def fill(lake: LiveLake) -> None:
    """Four hours of minute bars over the end of a month, appended half an hour at a time, some of it
    twice; trades beside them; a main table that has a part of it already."""
    for symbol in ("BTCUSDT", "ETHUSDT"):
        lake.merge(KLINES, live_rows(KLINES, minutes(20, 50, 9, 0), symbol=symbol, interval="1m"))
        for part in range(8):
            rows = minutes(30 * part, 30 * part + (40 if part < 7 else 30), part, part)
            for dataset, interval in ((KLINES, "1m"), (AGG_TRADES, None)):
                frame = live_rows(dataset, rows, source="stream", symbol=symbol, interval=interval)
                lake.append(dataset, frame)


def seen(lake: Lake) -> pl.DataFrame:
    bars = lake.sql("SELECT * FROM silver.klines").pl().drop("base_volume", "taker_buy_base_volume")
    trades = lake.sql("SELECT * FROM silver.agg_trades").pl()
    times = [
        frame.select("symbol", "source", "source_version", t=pl.col(time), v=pl.col(value))
        for frame, time, value in ((bars, "open_time", "open"), (trades, "transact_time", "price"))
    ]
    return pl.concat(times).sort("v", "t", "symbol")


def files(lake: LiveLake, name: str) -> list[str]:
    table = TableCatalog(lake.writer().access).find(name)
    assert table is not None
    return sorted(file.file_path for file in data_files(table))


def folded(lake: LiveLake, until_us: int = END_US, around: Around | None = None) -> FoldReport:
    return fold(lake.writer(around), until_us)


def test_folding_changes_no_answer_and_leaves_nothing_behind(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    fill(lake)
    before = seen(lake.connect())
    later = files(lake, HOT)
    report = folded(lake, START_US + 2 * HOUR_US)
    assert (report.unreadable, report.merged.rows_refused) == ([], 0)
    assert_frame_equal(seen(lake.connect()), before)
    left = files(lake, HOT)
    assert 0 < len(left) < len(later)
    assert set(left) <= set(later), "no file is rewritten"
    report = folded(lake)
    assert report.files_left == 0
    assert files(lake, HOT) == []
    assert_frame_equal(seen(lake.connect()), before)
    report = folded(lake)
    assert (report.files, report.rows, report.merged.commits) == (0, 0, 0)


@pytest.mark.parametrize("table", [HOT, FINE, AGG_TRADES.table().name])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fold_that_ends_around_a_commit_is_completed_by_the_next(
    tmp_path: Path, table: str, when: str
) -> None:
    lake = LiveLake(tmp_path)
    fill(lake)
    before = seen(lake.connect())
    hooks: dict[str, Callable[[], None]] = {when: crash}
    with pytest.raises(Crashed):
        folded(lake, around={table: lambda inner: FailingCommitter(inner, 1, **hooks)})
    assert_frame_equal(seen(lake.connect()), before)
    folded(lake)
    assert files(lake, HOT) == []
    assert_frame_equal(seen(lake.connect()), before)


def test_whoever_looks_in_the_middle_sees_each_row_once(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    fill(lake)
    before = seen(lake.connect())
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        assert_frame_equal(seen(lake.connect()), before)

    class Watched(FailingCommitter):
        def commit(self, requests):  # type: ignore[no-untyped-def]
            look()
            outcomes = self.inner.commit(requests)
            look()
            return outcomes

    tables = (HOT, FINE, AGG_TRADES.table().name, "silver.agg_trades_hot")
    folded(lake, around={name: lambda inner: Watched(inner, 0) for name in tables})
    assert looks >= 2 * len(tables)


def test_a_fold_between_two_looks_of_one_read_takes_no_row_from_it(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    fill(lake)
    reader = lake.connect()
    before = reader.sql("SELECT count(*) AS n FROM silver.klines").rows()
    find, looked = reader._find, []

    def folding(name: str) -> object:
        found = find(name)
        if not looked:
            folded(lake)
        looked.append(name)
        return found

    reader._find = folding  # type: ignore[assignment]
    assert reader.sql("SELECT count(*) AS n FROM silver.klines").rows() == before
    assert looked[0] == HOT
    assert files(lake, HOT) == []


def test_a_file_that_cannot_be_read_stays_and_the_others_are_folded(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    fill(lake)
    first, *_ = files(lake, HOT)
    Path(first.removeprefix("file://")).write_bytes(b"PAR1 nothing PAR1")
    report = folded(lake)
    assert len(report.unreadable) == 1
    assert files(lake, HOT) == [first]


def test_reads_as_of_before_the_fold_see_what_there_was(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    fill(lake)
    before = seen(lake.connect())
    moment = datetime.now(UTC)
    folded(lake)
    lake.merge(KLINES, live_rows(KLINES, minutes(0, 240, 77, 99), symbol="BTCUSDT", interval="1m"))
    then = lake.connect().sql("SELECT open FROM silver.klines", as_of=moment).pl()
    assert then.height == before.height // 2, "half of it are trades"
    assert 77.0 not in then["open"].to_list()


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    lake.append(KLINES, live_rows(KLINES, minutes(0, 90, 1, 1), source="stream", interval="1m"))
    env = environment(HOME=tmp_path)
    said = json.loads(run_here("fold", "--dry-run", "--json", env=env).stdout)
    assert (said["rows"], said["files"], said["merged"]["rows"]) == (90, 1, 0)
    done = run_here("fold", "--until", "2024-05-31T23:00", env=env)
    assert (done.returncode, files(lake, HOT) != []) == (0, True), "the file goes beyond"
    said = json.loads(run_here("fold", "--json", env=env).stdout)
    assert (said["rows"], said["files"], said["merged"]["rows"]) == (90, 1, 90)
    assert files(lake, HOT) == []
    quarantined = TableCatalog(lake.writer().access).find(QUARANTINE.name)
    assert quarantined is not None
    assert quarantined.current_snapshot() is None


class Later(SystemClock):
    """An hour ahead."""

    def now_us(self) -> int:
        return super().now_us() + HOUR_US


def test_old_snapshots_of_hot_tables_are_given_up_and_reads_as_of_then_see_main_rows(
    tmp_path: Path,
) -> None:
    lake = LiveLake(tmp_path)
    lake.merge(KLINES, live_rows(KLINES, minutes(0, 30, 1, 1), interval="1m"))
    for first in (20, 40, 60):
        rows = minutes(first, first + 20, 2, 2)
        lake.append(KLINES, live_rows(KLINES, rows, source="stream", interval="1m"))
    query, moment = "SELECT count(*) AS n FROM silver.klines", datetime.now(UTC)
    reader = lake.connect()
    assert reader.sql(query, as_of=moment).rows() == [{"n": 80}]
    writer = lake.writer()
    writer.__dict__["clock"] = Later()
    fold(writer, START_US)
    table = TableCatalog(writer.access).find(HOT)
    assert table is not None
    assert len(table.snapshots()) == 1
    assert reader.sql(query).rows() == [{"n": 80}]
    assert reader.sql(query, as_of=moment).rows() == [{"n": 80}], "the last one is kept"
    earlier = table.snapshots()[0].timestamp_ms / 1000 - 0.001
    then = datetime.fromtimestamp(earlier, UTC)
    assert reader.sql(query, as_of=then).rows() == [{"n": 30}]


class Moved(SystemClock):
    """A clock that is moved by hand."""

    def __init__(self, us: int) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us


def test_beside_a_capture_hours_are_folded_as_they_end(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    fill(lake)
    before, every = seen(lake.connect()), files(lake, HOT)
    writer = lake.writer()
    clock = Moved(START_US + 90 * MINUTE_US)
    writer.__dict__["clock"] = clock
    with HourlyFold(writer, look_s=0.01):
        time.sleep(0.2)
        assert files(lake, HOT) == every, "no hour has ended yet"
        clock.us = START_US + 2 * HOUR_US + 301 * SECOND_US
        until_s = time.monotonic() + 60
        while files(lake, HOT) == every and time.monotonic() < until_s:
            time.sleep(0.05)
    left = files(lake, HOT)
    assert 0 < len(left) < len(every)
    assert set(left) < set(every)
    assert_frame_equal(seen(lake.connect()), before)


def test_a_fold_that_is_told_to_stop_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path)
    fill(lake)
    before, every = seen(lake.connect()), files(lake, HOT)
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(len(asked))
        return len(asked) > 1

    assert fold(lake.writer(), END_US, stopped=stopped).files > 0
    assert 0 < len(files(lake, HOT)) < len(every)
    assert_frame_equal(seen(lake.connect()), before)
    folded(lake)
    assert files(lake, HOT) == []
    assert_frame_equal(seen(lake.connect()), before)
