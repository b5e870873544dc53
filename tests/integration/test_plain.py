"""Statements that only choose columns, read by Polars, against DuckDB's answer to the same."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars

import lakehouse_ray as lh
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.query import plain as plain_module
from lakehouse_ray.query.conversions import frame_of
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.plain import PlainReading

pytestmark = pytest.mark.integration

PLAIN: list[tuple[str, object]] = [
    ("SELECT * FROM silver.klines", None),
    ("FROM silver.klines", None),
    ("from silver.klines_fine", None),
    ("SELECT symbol, open_time AS at, close FROM silver.klines;", None),
    ("SELECT *, symbol, symbol AS again FROM silver.klines", None),
    ("SELECT k.close, K.Base_Volume, TAKER_BUY_BASE_VOLUME FROM Silver.Klines AS k", None),
    ("SELECT * FROM silver.klines WHERE \"interval\" = '1m'", None),
    ("SELECT close FROM silver.klines WHERE market = ? AND symbol = 'AAA'", ["cm"]),
    ("SELECT close FROM silver.klines WHERE symbol = $one", {"one": "ÄÖ"}),
    ("SELECT flags, source FROM silver.klines WHERE klines.symbol = 'AAB' -- silver.trades", None),
    ("SELECT symbol FROM silver.klines WHERE symbol = 'nobody'", None),
]
OTHERS: list[tuple[str, object]] = [
    ("SELECT * FROM silver.klines LIMIT 5", None),
    ("SELECT market, \"interval\" FROM silver.klines", None),
    ("SELECT market FROM silver.klines WHERE symbol = 'AAA'", None),
    ("SELECT * FROM silver.klines ORDER BY open_time, symbol, market, \"interval\"", None),
    ("SELECT DISTINCT market FROM silver.klines ORDER BY 1", None),
    ("SELECT * EXCLUDE (close) FROM silver.klines", None),
    ("SELECT * REPLACE (1 AS close) FROM silver.klines", None),
    ("SELECT * RENAME (close AS last) FROM silver.klines", None),
    ("SELECT COLUMNS('.*_volume') FROM silver.klines", None),
    ("SELECT close + 1 FROM silver.klines", None),
    ("SELECT count(*) FROM silver.klines", None),
    ("SELECT close FROM silver.klines WHERE symbol = 'AAA' OR symbol = 'AAB'", None),
    ("SELECT close FROM silver.klines WHERE symbol <> 'AAA'", None),
    ("SELECT close FROM silver.klines WHERE symbol IN ('AAA')", None),
    ("SELECT close FROM silver.klines WHERE close = 3", None),
    ("SELECT close FROM silver.klines WHERE symbol = source", None),
    ("SELECT symbol FROM silver.klines WHERE symbol = 'A' AND symbol = 'B'", None),
    ("SELECT symbol FROM silver.klines GROUP BY symbol ORDER BY symbol", None),
    ("SELECT symbol FROM silver.klines QUALIFY row_number() OVER (PARTITION BY symbol) = 1 ORDER BY 1", None),
    ("SELECT symbol FROM silver.klines UNION SELECT 'x' ORDER BY symbol", None),
    ("WITH k AS (SELECT 1 AS a) SELECT symbol FROM silver.klines", None),
    ("SELECT count(*) FROM silver.klines a SEMI JOIN silver.klines b USING (symbol)", None),
    ("SELECT symbol FROM (SELECT * FROM silver.klines)", None),
    ("SELECT s FROM silver.klines AS k(m, s)", None),
    ("SELECT symbol FROM silver.klines AS symbol WHERE symbol.symbol = 'AAA'", None),
    ("SELECT reservoir.market FROM silver.klines AS reservoir TABLESAMPLE reservoir(5)", None),
    ("SELECT * FROM bronze.objects", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Several markets, intervals, symbols and months: files of several partitions and tables."""
    stored = BarLake(tmp_path_factory.mktemp("plain"))
    for market in ("spot", "cm"):
        for symbol in ("AAA", "AAB", "ÄÖ"):
            for interval in ("1m", "15m", "1h"):
                stored.put(bars(symbol, "2024-05-30", 3, market=market, interval=interval))
    return lh.connect(stored.home)


@pytest.fixture(autouse=True)
def from_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_module, "ROWS_MIN", 0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each frame that was asked for: whether it was read without DuckDB."""
    told: list[bool] = []
    original = PlainReading.frame

    def noted(self: PlainReading, *arguments: object) -> pl.DataFrame | None:
        found = original(self, *arguments)  # type: ignore[arg-type]
        told.append(found is not None)
        return found

    monkeypatch.setattr(PlainReading, "frame", noted)
    return told


def by_duckdb(lake: Lake, query: str, parameters: object, as_of: object = None) -> pl.DataFrame:
    with lake.sql(query, parameters, as_of=as_of) as result:  # type: ignore[arg-type]
        return frame_of(result.arrow())


@pytest.mark.parametrize(("query", "parameters"), PLAIN)
def test_columns_as_they_stand_there_are_read_without_duckdb(
    lake: Lake, read: list[bool], query: str, parameters: object
) -> None:
    with lake.sql(query, parameters) as result:
        found = result.pl()
    assert read == [True]
    assert (found.height > 0) == ("nobody" not in query)
    assert_frame_equal(found, by_duckdb(lake, query, parameters), check_exact=True)


@pytest.mark.parametrize(("query", "parameters"), OTHERS)
def test_all_else_is_duckdb_s(lake: Lake, read: list[bool], query: str, parameters: object) -> None:
    with lake.sql(query, parameters) as result:
        found = result.pl()
    assert read == [False]
    if "TABLESAMPLE" not in query:
        assert_frame_equal(found, by_duckdb(lake, query, parameters), check_exact=True)


def test_it_is_of_the_pinned_snapshot(tmp_path: Path, read: list[bool]) -> None:
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-01", 2, holes=0))
    lake = lh.connect(stored.home)
    query = "SELECT * FROM silver.klines"
    with lake.sql(query) as asked:
        before = asked.pl()
        stored.put(bars("AAB", "2024-05-01", 2, holes=0))
        assert asked.pl().equals(before)
        snapshot = asked.snapshots["silver.klines_coarse"]
    now = lake.sql(query).pl()
    assert now.height == 2 * before.height
    then = lake.sql(query, as_of=snapshot).pl()
    assert then.equals(before)
    assert read == [True] * 4


def test_a_file_that_lacks_a_column_is_duckdb_s(tmp_path: Path, read: list[bool]) -> None:
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-01", 2))
    (path,) = stored.files("silver.klines_coarse")
    whole = pq.read_table(path, partitioning=None)
    pq.write_table(whole.drop_columns(["flags"]), path)
    lake = lh.connect(stored.home)
    found = lake.sql("SELECT * FROM silver.klines").pl()
    assert read == [False]
    assert found.height == whole.num_rows
    assert found["flags"].null_count() == found.height


def test_what_is_the_matter_with_a_file_is_said_as_ever(tmp_path: Path, read: list[bool]) -> None:
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-01", 2))
    lake = lh.connect(stored.home)
    (path,) = stored.files("silver.klines_coarse")
    Path(path).write_bytes(b"PAR1 and nothing else PAR1")
    asked = lake.sql("SELECT * FROM silver.klines")
    with asked, pytest.raises(UnavailableError, match="cannot be read"):
        asked.pl()
    Path(path).unlink()
    with pytest.raises(UnavailableError):
        lh.connect(stored.home).sql("SELECT * FROM silver.klines").pl()
    assert True not in read
