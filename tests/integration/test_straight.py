"""Rows read straight from row groups against the same question as a statement of DuckDB."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bars import BarLake, bars

import lakehouse_ray as lh
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import TimeRange, to_us
from lakehouse_ray.query import straight as straight_module
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pinned import Among
from lakehouse_ray.query.scan import Where, plan_files
from lakehouse_ray.query.statement import Result
from lakehouse_ray.query.straight import StraightResult
from lakehouse_ray.query.symbol_rows import SymbolRows
from lakehouse_ray.query.views import VIEWS

BEGIN = datetime(2024, 5, 20, tzinfo=UTC)
SYMBOLS = ("AAA", "AAB", "ZZZ", "ÄÖ")


def asked(lake: Lake, symbol: str, interval: str, *span: datetime | None, market: str = "spot") -> SymbolRows:  # fmt: skip
    start, end = span or (None, None)
    return SymbolRows(lake, "klines", symbol, start, end, market, interval, None)


def assert_same(one: Result, other: Result, rows: int = 500) -> pa.Table:
    """Also in types, snapshots and batches."""
    assert isinstance(one, StraightResult)
    assert not isinstance(other, StraightResult)
    with one, other:
        assert (one.columns, one.types) == (other.columns, other.types)
        assert one.snapshots == other.snapshots
        assert one.schema == other.schema
        found = one.arrow()
        assert found.equals(other.arrow())
        pieces = list(one.fetch_batches(rows))
        assert all(0 < piece.num_rows <= rows for piece in pieces)
        assert pa.Table.from_batches(pieces, one.schema).equals(found)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files one after the other, interleaved, of several symbols, one row group of several, of
    months and years; USD-M and COIN-M beside spot."""
    stored = BarLake(tmp_path_factory.mktemp("straight"))
    stored.put(*(bars(symbol, "2024-05-20", 20, interval="1m") for symbol in SYMBOLS))
    stored.put(bars("AAA", "2024-06-20", 20, interval="1m"))
    odd = bars("ZZZ", "2024-08-01", 3, interval="1m", holes=0)
    stored.put(odd[::2])
    stored.put(odd[1::2])
    for market in ("um", "cm"):
        stored.put(bars("AAA", "2024-05-20", 3, interval="1m", market=market, seed=7))
    stored.put(*(bars(symbol, "2023-11-01", 90) for symbol in SYMBOLS))
    return stored.home


@pytest.fixture(scope="module")
def lake(home: Path) -> Lake:
    return lh.connect(home)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    symbol=st.sampled_from((*SYMBOLS, "AA", "NONE")),
    interval=st.sampled_from(("1m", "1h")),
    market=st.sampled_from(("spot", "um", "cm")),
    first=st.integers(-300 * 1440, 90 * 1440),
    length=st.one_of(st.integers(1, 3000), st.integers(1, 400 * 1440)),
    rows_max=st.one_of(st.none(), st.integers(1, 5000)),
    columns=st.one_of(
        st.none(),
        st.lists(
            st.sampled_from((*KLINES.tables[0].names, "base_volume")), min_size=1, unique=True
        ),
    ),
)
def test_any_range_is_the_same_rows(
    lake: Lake,
    symbol: str,
    interval: str,
    market: str,
    first: int,
    length: int,
    rows_max: int | None,
    columns: list[str] | None,
) -> None:
    start = BEGIN + timedelta(minutes=first)
    question = asked(
        lake, symbol, interval, start, start + timedelta(minutes=length), market=market
    )
    assert_same(question.run(columns, rows_max), question.ask(columns, rows_max))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    equal=st.fixed_dictionaries(
        {},
        optional={
            "symbol": st.sampled_from((*SYMBOLS, "AA", "NONE")),
            "interval": st.sampled_from(("1m", "1h")),
            "market": st.sampled_from(("spot", "um", "cm")),
        },
    ),
    first=st.one_of(st.none(), st.integers(-300 * 1440, 120 * 1440)),
    length=st.integers(1, 200 * 1440),
)
def test_the_files_of_a_question_are_those_that_pyiceberg_plans(
    lake: Lake, equal: dict[str, str], first: int | None, length: int
) -> None:
    span = None
    if first is not None:
        start = to_us(BEGIN) + first * 60_000_000
        span = TimeRange(start, start + length * 60_000_000)
    where = Where(equal, span)
    assert lake.engine.kept is not None
    for pin in lake.pin([VIEWS["silver.klines"]]).values():
        planned = plan_files(pin, where)
        kept = plan_files(pin, where, lake.engine.kept.manifests)
        assert [file.file_path for file in kept] == [file.file_path for file in planned]


@pytest.mark.parametrize(
    "symbols",
    [
        ("AAA",), ("AAB", "NONE"), ("AAA", "ZZZ", "ÄÖ"), ("AA",), (),
        (*(f"N{n}" for n in range(120)), "AAB"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("days", [None, 3])
def test_the_files_of_some_symbols_are_those_of_each(
    lake: Lake, symbols: tuple[str, ...], days: int | None
) -> None:
    span = None if days is None else TimeRange(to_us(BEGIN), to_us(BEGIN + timedelta(days=days)))
    assert lake.engine.kept is not None
    for pin in lake.pin([VIEWS["silver.klines"]]).values():
        equal = {"market": "spot"}
        each = [Where({**equal, "symbol": symbol}, span) for symbol in symbols]
        wanted = {
            f.file_path for where in each or [Where(equal, span)] for f in plan_files(pin, where)
        }
        kept = plan_files(pin, Among(equal, span, symbols), lake.engine.kept.manifests)
        assert [file.file_path for file in kept] == sorted(wanted)


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("interval", ["1m", "1h"])
def test_all_of_a_symbol(lake: Lake, symbol: str, interval: str) -> None:
    question = asked(lake, symbol, interval)
    found = assert_same(question.run(None, None), question.ask(None, None))
    assert found.num_rows > 1500
    times = found["open_time"].to_pylist()
    assert times == sorted(times)


def test_bounds_are_half_open(lake: Lake) -> None:
    every = asked(lake, "AAA", "1m").run(["open_time"], None).arrow()["open_time"].to_pylist()
    chance = random.Random(1)
    for _ in range(50):
        first, last = sorted(chance.sample(range(len(every)), 2))
        found = asked(lake, "AAA", "1m", every[first], every[last]).run(["open_time"], None)
        assert found.arrow()["open_time"].to_pylist() == every[first:last]


def test_a_row_group_of_several_symbols_gives_those_of_one(tmp_path: Path) -> None:
    stored = BarLake(tmp_path)
    stored.put(*(bars(symbol, "2024-05-20", 2) for symbol in SYMBOLS))
    _rewrite(stored, lambda table: table)
    lake = lh.connect(stored.home)
    (file,) = _files(stored)
    assert pq.ParquetFile(file).num_row_groups == 1
    for symbol in ("AAA", "AAB", "NONE"):
        for span in ((), (BEGIN + timedelta(hours=5), BEGIN + timedelta(hours=30))):
            question = asked(lake, symbol, "1h", *span)
            found = assert_same(question.run(None, None), question.ask(None, None))
            assert (found.num_rows > 0) == (symbol != "NONE")


def test_rows_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-20", 2))
    _rewrite(stored, lambda table: table.take(random.Random(1).sample(range(len(table)), len(table))))  # fmt: skip
    question = asked(lh.connect(stored.home), "AAA", "1h", BEGIN, BEGIN + timedelta(hours=30))
    assert_same(question.run(None, None), question.ask(None, None))


def test_columns_that_a_file_lacks_are_null(tmp_path: Path) -> None:
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-20", 2))
    _rewrite(stored, lambda table: table.drop_columns(["trades", "quote_volume"]))
    question = asked(lh.connect(stored.home), "AAA", "1h")
    found = assert_same(question.run(None, None), question.ask(None, None))
    assert found["trades"].null_count == found.num_rows > 0


@pytest.mark.parametrize("case", ["no ids", "another type", "no bounds", "large"])
def test_what_lies_otherwise_is_left_to_duckdb(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-20", 2))

    def otherwise(table: pa.Table) -> pa.Table:
        if case == "no ids":
            return table.cast(pa.schema([field.remove_metadata() for field in table.schema]))
        place = table.schema.get_field_index("close")
        field = table.schema.field(place)
        return table.set_column(
            place, field.with_type(pa.float32()), table["close"].cast(pa.float32())
        )

    if case == "large":
        monkeypatch.setattr(straight_module, "ROWS_MAX", 10)
    elif case == "no bounds":
        _rewrite(stored, lambda table: table, write_statistics=False)
    else:
        _rewrite(stored, otherwise)
    question = asked(lh.connect(stored.home), "AAA", "1h")
    assert not isinstance(question.run(None, None), StraightResult)


def test_what_is_pinned_stays_and_what_is_asked_anew_is_news(tmp_path: Path) -> None:
    """Nothing that is kept between questions is stale."""
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-20", 1))
    lake = lh.connect(stored.home)
    heights = []
    pinned = []
    for day in (21, 22, 23):
        pinned.append(lake.klines("AAA", "1h"))
        heights.append(pinned[-1].collect().height)
        stored.put(bars("AAA", f"2024-05-{day}", 1))
    stored.rewrite("silver.klines_coarse", lambda rows: rows.filter(pl.col("open_time") >= BEGIN + timedelta(days=1)))  # fmt: skip
    assert heights[0] < heights[1] < heights[2]
    assert [frame.collect().height for frame in pinned] == heights
    now = lake.klines("AAA", "1h").collect()
    assert now["open_time"].min() >= BEGIN + timedelta(days=1)  # type: ignore[operator]


@pytest.mark.parametrize("damage", ["gone", "cut off", "a flipped bit"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, damage: str) -> None:
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-20", 20))
    (file,) = _files(stored)
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut off":
        file.write_bytes(content[:-50])
    else:
        column = pq.ParquetFile(file).metadata.row_group(0).column(7)
        content[column.data_page_offset + column.total_compressed_size - 20] ^= 4
        file.write_bytes(content)
    # Nothing but its checksum tells of a bit in a price.
    words = "CRC checksum" if damage == "a flipped bit" else "cannot be read"
    with pytest.raises(UnavailableError, match=words) as caught:
        asked(lh.connect(stored.home), "AAA", "1h").run(None, None).arrow()
    assert file.name in str(caught.value)


def test_an_answer_of_few_rows_keeps_few_bytes(lake: Lake) -> None:
    """And not the columns of the row group that it was cut from."""
    question = asked(lake, "AAA", "1m", BEGIN, BEGIN + timedelta(minutes=30))
    found = question.run(None, None).arrow()
    assert 0 < found.num_rows <= 30
    # A column of the row group has some 200,000.
    assert sum(column.get_total_buffer_size() for column in found.columns) < 20_000


def _files(stored: BarLake) -> list[Path]:
    return sorted((stored.home / "data/tables/silver").rglob("*.parquet"))


def _rewrite(stored: BarLake, change: object, **options: object) -> None:
    """Give the only file other content under its name."""
    (file,) = _files(stored)
    table = pq.read_table(file)
    assert callable(change)
    aside = file.with_suffix(".part")
    pq.write_table(change(table), aside, **options)  # type: ignore[arg-type]
    os.replace(aside, file)
