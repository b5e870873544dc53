"""Gaps and coverage of a lake that lost files: whole series are answered, the others are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars
from support.commands import environment
from support.in_process import run_here
from support.restored import Restored

import lakehouse_ray as lh
from lakehouse_ray.query.lake import Lake

pytestmark = pytest.mark.integration

SYMBOLS = ("AAA", "BBB", "CCC")
KEY = ["symbol", "interval", "start_time", "end_time", "missing"]
COARSE, FINE = "silver.klines_coarse", "silver.klines_fine"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_footer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[-8:-4], "little")
    data[-8 - length : -8] = b"\xff" * length
    path.write_bytes(data)


def spoil_times(path: Path) -> None:
    spoil_column(path, "open_time")


def spoil_column(path: Path, name: str) -> None:
    group = pq.ParquetFile(path).metadata.row_group(0)
    (chunk,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == name]
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


LOSSES = [Path.unlink, truncate, spoil_footer, spoil_times]


def fill(home: Path) -> None:
    """A file for each symbol; DDD lives by itself, a year before the others."""
    lake = BarLake(home)
    for symbol in SYMBOLS:
        lake.put(bars(symbol, "2024-05-20", 10))
    lake.put(bars("DDD", "2023-05-20", 10))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Restored:
    return Restored(tmp_path_factory.mktemp("filled"), fill)


@pytest.fixture
def lake(filled: Restored) -> BarLake:
    return BarLake(filled.again())


def file_of(lake: BarLake, symbol: str, table: str = COARSE) -> Path:
    (path,) = [path for path, names in lake.files(table).items() if names == [symbol]]
    return Path(path)


def connected(lake: BarLake) -> Lake:
    return lh.connect(str(lake.home))


def command(lake: BarLake, *arguments: str) -> tuple[int, str, str]:
    """The command's code, stdout and stderr."""
    done = run_here(*arguments, env=environment(HOME=lake.home))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("lose", LOSSES)
def test_gaps_of_whole_series_are_told_and_the_lost_one_is_named(
    lake: BarLake, lose: Callable[[Path], None]
) -> None:
    before = connected(lake).gaps()
    path = file_of(lake, "BBB")
    lose(path)
    after = connected(lake).find_gaps()
    # No row of BBB is called missing, and no gap of another is lost.
    others = before.filter(pl.col("symbol") != "BBB")
    assert_frame_equal(after.rows.select(KEY), others.select(KEY))
    # BBB's rows would tell why those who lived with it have none; DDD did not.
    alone = pl.col("symbol") == "DDD"
    assert_frame_equal(after.rows.filter(alone), before.filter(alone))
    beside = after.rows.filter(~alone)
    assert set(beside["cause"]) == {"unknown"}
    assert beside["evidence"].str.contains("cannot be read", literal=True).all()
    assert [tuple(row) for row in after.unread.select("symbol", "part").iter_rows()] == [
        ("AAA", "causes"), ("BBB", "rows"), ("CCC", "causes"),
    ]  # fmt: skip
    code, out, err = command(lake, "gaps", "--json")
    document = json.loads(out)
    assert code == 3
    assert {gap["symbol"] for gap in document["gaps"]} == {"AAA", "CCC", "DDD"}
    assert len(document["gaps"]) == others.height
    (named,) = [one for one in document["unread"] if one["part"] == "rows"]
    assert (named["symbol"], named["interval"]) == ("BBB", "1h")
    assert path.name in named["reason"]
    assert "NOT READ: spot klines 1h BBB: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("lose", LOSSES)
def test_coverage_of_whole_series_is_told_and_the_lost_one_is_named(
    lake: BarLake, lose: Callable[[Path], None], tmp_path: Path
) -> None:
    before = connected(lake).coverage()
    lose(file_of(lake, "BBB"))
    after = connected(lake).measure_coverage()
    assert_frame_equal(after.rows, before.filter(pl.col("symbol") != "BBB"))
    assert after.unread.select("symbol", "part").rows() == [("BBB", "rows")]
    page = tmp_path / "coverage.html"
    code, out, err = command(lake, "coverage", "--json", "--html", str(page), "--quiet")
    document = json.loads(out)
    assert code == 3
    assert {row["symbol"] for row in document["coverage"]} == {"AAA", "CCC", "DDD"}
    assert [one["symbol"] for one in document["unread"]] == ["BBB"]
    assert "NOT READ: spot klines 1h BBB: " in err
    html = page.read_text()
    assert "NOT READ: spot klines 1h BBB: " in html[: html.index("<script")]
    assert '"name":"BBB"' not in html
    code, out, err = command(lake, "coverage")
    assert code == 3
    assert "BBB" not in out
    assert "NOT READ" in err


def test_the_sdk_warns_of_what_it_leaves_out(lake: BarLake) -> None:
    path = file_of(lake, "BBB")
    path.unlink()
    with pytest.warns(lh.UnreadWarning, match=f"klines 1h BBB: .*{path.name}") as caught:
        rows = connected(lake).coverage()
    assert caught[0].filename == __file__
    assert "BBB" not in rows["symbol"].to_list()
    with pytest.warns(lh.UnreadWarning, match="klines 1h BBB"):
        connected(lake).gaps(symbols="BBB")
    # Who does not need it hears nothing: warnings are errors here.
    assert connected(lake).find_gaps(symbols="DDD").whole
    assert not connected(lake).gaps(symbols="DDD").is_empty()


def test_nothing_is_said_where_all_is_lost(lake: BarLake) -> None:
    for path in lake.files(COARSE):
        Path(path).unlink()
    for name in ("gaps", "coverage"):
        code, out, err = command(lake, name, "--json")
        document = json.loads(out)
        assert code == 3
        assert document[name] == []
        assert [one["symbol"] for one in document["unread"]] == [*SYMBOLS, "DDD"]
        assert err.count("NOT READ") == 4
    code, _, err = command(lake, "gaps", "--symbols", "EEE")
    assert code == 4
    assert "there is no EEE" in err


def test_every_symbol_that_may_be_in_a_lost_file_is_left_out(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "lake")
    lake.put(*(bars(symbol, "2024-05-20", 5) for symbol in ("BBB", "CCC", "EEE")))
    for symbol in ("AAA", "CCC", "DDD"):
        lake.put(bars(symbol, "2024-05-25", 5))
    (path,) = [path for path, names in lake.files(COARSE).items() if len(names) == 3]
    Path(path).unlink()
    found = connected(lake).measure_coverage()
    # DDD stands between the first and the last one of the lost file.
    assert found.unread["symbol"].to_list() == ["BBB", "CCC", "DDD", "EEE"]
    assert set(found.rows["symbol"]) == {"AAA"}


def test_ranges_are_cut_by_what_is_known_and_no_beginning_is_guessed(tmp_path: Path) -> None:
    """Days tell from when on AAA was listed; one file of them is lost."""
    lake = BarLake(tmp_path / "lake")
    lake.put(bars("AAA", "2024-05-20", 2, holes=0), bars("BBB", "2024-05-10", 12, holes=0))
    lake.put(bars("AAA", "2024-05-12", 0.5, interval="1m", holes=0))
    asked: dict[str, Any] = {"interval": "1h", "start": "2024-05-11", "end": "2024-05-22"}
    before = connected(lake).gaps(symbols="AAA", **asked)
    assert before["cause"].to_list() == ["not_listed", "unknown"]
    for path in lake.files(FINE):
        Path(path).unlink()
    after = connected(lake).find_gaps(symbols="AAA", **asked)
    # As far as is known AAA began on the 20th; that it was not listed before is not known.
    assert set(after.rows["cause"]) == {"unknown"}
    assert after.rows["missing"].sum() == before["missing"].sum() == 9 * 24
    assert after.unread.select("symbol", "interval", "part").rows() == [("AAA", "1h", "causes")]
    # Of BBB there are no minutes that could be lost.
    assert connected(lake).find_gaps(symbols="BBB", **asked).whole


def test_a_column_that_only_causes_need_may_be_damaged_too(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "lake")
    hours = bars("AAA", "2024-05-20", 2, holes=0)
    missing = pl.col("open_time").dt.hour().is_between(3, 5)
    lake.put(hours.filter(~missing), bars("BBB", "2024-05-20", 2, holes=0))
    lake.put(bars("AAA", "2024-05-20", 2, interval="1m", holes=0))
    lake.put(bars("BBB", "2024-05-20", 2, interval="1m", holes=0))
    before = connected(lake).gaps()
    assert before["cause"].to_list() == ["archive_hole"] * 2
    spoil_column(file_of(lake, "AAA", FINE), "trades")
    after = connected(lake).find_gaps()
    assert_frame_equal(after.rows.select(KEY), before.select(KEY))
    assert set(after.rows["cause"]) == {"unknown"}
    assert after.unread.select("symbol", "interval", "part").rows() == [
        ("AAA", "1h", "causes"), ("AAA", "1m", "rows"),
    ]  # fmt: skip


def test_a_store_that_does_not_answer_is_no_loss(lake: BarLake) -> None:
    """Every file can be read by the time it is looked at: the failure is told, nothing left out."""
    path = file_of(lake, "BBB")
    aside = path.with_suffix(".aside")
    path.rename(aside)
    reader = connected(lake)
    exists = reader.engine.store.exists

    def returned(name: str) -> bool:
        if aside.exists():
            aside.rename(path)
        return exists(name)

    object.__setattr__(reader.engine.store, "exists", returned)
    with pytest.raises(lh.UnavailableError):
        reader.coverage()
