"""What a unit reads: the same rows, in the same order, however they lie in files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from support.bars import bars
from support.products import LIVES, RANKS, STEPS

from lakehouse_ray.gold.inputs import UnitInputs
from lakehouse_ray.gold.plan import BuildScope, Output, plan_product
from lakehouse_ray.model.dataset import MARKET, SYMBOL
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.product import ALL_SYMBOLS, Input, Product, ProductUnit
from lakehouse_ray.model.table import Column, Partition, Table
from lakehouse_ray.model.timespan import to_us
from lakehouse_ray.storage.files import FileEntry, PartitionKey, Region
from lakehouse_ray.storage.groups import Footers, GroupReader, RowGroup
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.storage.parquet import TableWriter, to_rows
from lakehouse_ray.storage.partitions import split_rows

FINE = KLINES.table("1m")
MINUTES = bars("AAA", "2024-05-31T20:00", 0.3, interval="1m")

# Rows of several symbols and kinds in one row group.
LOG = Table(
    name="bronze.notes",
    columns=(MARKET, SYMBOL, Column("kind", "string", ""), Column("at", "timestamp", "", True)),
    key=(),
    time="at",
    partitions=(Partition("identity", "market"),),
    sort=("symbol",),
)


def write(store: LocalStore, table: Table, pieces: Sequence[pl.DataFrame]) -> list[RowGroup]:
    """Write each piece to a file of its own per partition; the row groups."""
    entries: list[FileEntry] = []
    for piece in pieces:
        for key, part in split_rows(table, piece):
            entries += [_entry(table, key, part, *_put(store, table, key, part))]
    return Footers(store).groups(table, entries)


def _put(store: LocalStore, table: Table, key: PartitionKey, rows: pl.DataFrame) -> tuple[str, int]:
    with TableWriter(table, store, key) as writer:
        writer.write(to_rows(table, rows))
    return writer.files[0].file_path, writer.files[0].file_size_in_bytes


def _entry(table: Table, key: PartitionKey, rows: pl.DataFrame, path: str, size: int) -> FileEntry:
    symbols, times = rows["symbol"].sort(), rows[table.time].sort()
    region = Region(key, symbols[0], symbols[-1], to_us(times[0]), to_us(times[-1]))
    return FileEntry(path, region, rows.height, size)


def inputs_of(
    store: LocalStore, product: Product, unit: ProductUnit, groups: Sequence[RowGroup]
) -> UnitInputs:
    """The inputs of one unit as they are planned."""
    held = {
        item.name: [g for g in groups if g.table in {t.name for t in item.tables("")}]
        for item in product.inputs
    }
    plan = plan_product(product, BuildScope(), held, Output(), {})
    (stale,) = [item for item in plan.stale if item.unit == unit]
    return UnitInputs(GroupReader(store), product, unit, stale.inputs)


JUNE = ProductUnit("spot", "1m", "AAA", "2024-06")


@given(st.lists(st.integers(0, 400), max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_content_is_told_by_rows_and_not_by_files(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], rng: object
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("lake"))
    edges = [0, *sorted(cuts), MINUTES.height]
    # Interleaved besides: odd and even rows of each piece in files of their own.
    pieces = [
        MINUTES[a:b].gather_every(2, offset)
        for a, b in itertools.pairwise(edges)
        for offset in (0, 1)
    ]
    whole = inputs_of(store, STEPS, JUNE, write(store, FINE, [MINUTES]))
    torn = inputs_of(store, STEPS, JUNE, write(store, FINE, [p for p in pieces if p.height]))
    assert_frame_equal(torn.frame("bars"), whole.frame("bars"))
    assert torn.content() == whole.content()


def test_another_value_is_another_content_and_another_column_is_not(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = inputs_of(store, STEPS, JUNE, write(store, FINE, [MINUTES])).content()
    time = pl.col("open_time")
    changed = MINUTES.with_columns(
        close=pl.when(time == time.max()).then(pl.col("close") * 2).otherwise(pl.col("close"))
    )
    assert inputs_of(store, STEPS, JUNE, write(store, FINE, [changed])).content() != first
    other = MINUTES.with_columns(source_version=pl.lit("2"), open=pl.lit(1.0))
    assert inputs_of(store, STEPS, JUNE, write(store, FINE, [other])).content() == first
    fewer = MINUTES.head(-1)
    assert inputs_of(store, STEPS, JUNE, write(store, FINE, [fewer])).content() != first


def test_a_unit_gets_its_period_its_lookback_and_the_columns_it_asked_for(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    early = bars("AAA", "2024-05-29", 2, interval="1m")
    others = bars("BBB", "2024-05-31T20:00", 0.3, interval="1m")
    frame = inputs_of(store, STEPS, JUNE, write(store, FINE, [early, MINUTES, others])).frame(
        "bars"
    )
    month = datetime.fromisoformat("2024-06-01T00:00Z")
    wanted = pl.concat([early, MINUTES]).filter(pl.col("open_time") >= month - timedelta(days=1))
    assert_frame_equal(frame, wanted.select("open_time", "close"))


def test_pieces_come_in_the_order_of_time_and_hold_every_row_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    thirds = [MINUTES[200:], MINUTES[:120], MINUTES[100:220].gather_every(2), MINUTES[120:200]]
    rows = pl.concat(thirds).unique("open_time", maintain_order=True)
    files = [t.filter(pl.col("open_time").is_in(rows["open_time"].implode())) for t in thirds]
    seen: set[datetime] = set()
    disjoint = []
    for file in files:
        disjoint.append(file.filter(~pl.col("open_time").is_in(list(seen))))
        seen |= set(file["open_time"].to_list())
    unit = ProductUnit("spot", "", "AAA", "all")
    inputs = inputs_of(store, LIVES, unit, write(store, FINE, disjoint))
    pieces = list(inputs.pieces("bars"))
    assert len(pieces) > 1
    found = pl.concat(pieces)["open_time"]
    assert found.to_list() == sorted(seen)


def test_a_market_gives_its_symbols_one_by_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    product = replace(RANKS, inputs=(Input("days", KLINES, ("symbol", "close")),))
    names = ["CCC", "AAA", "BBB"]
    rows = [bars(name, "2024-05-02", 0.1, interval="1m") for name in names]
    halves = [half for frame in rows for half in (frame[:50], frame[50:])]
    unit = ProductUnit("spot", "1m", ALL_SYMBOLS, "2024-05")
    found = list(inputs_of(store, product, unit, write(store, FINE, halves)).symbols("days"))
    assert [name for name, _ in found] == ["AAA", "BBB", "CCC"]
    assert_frame_equal(found[2][1], rows[0].select("symbol", "close"))


def test_rows_of_a_log_are_chosen_by_symbol_and_value(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    notes = pl.DataFrame(
        {
            "market": ["spot"] * 4,
            "symbol": ["AAA", "AAA", "BBB", "CCC"],
            "kind": ["klines", "trades", "klines", "klines"],
            "at": [datetime.fromisoformat("2020-01-01T00:00Z")] * 4,
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    product = replace(
        STEPS,
        inputs=(
            *STEPS.inputs,
            Input("notes", LOG, ("symbol", "kind"), lookback_us=None, where=(("kind", "klines"),)),
        ),
    )
    groups = [*write(store, FINE, [MINUTES]), *write(store, LOG, [notes])]
    assert inputs_of(store, product, JUNE, groups).frame("notes").rows() == [("AAA", "klines")]
    none = write(store, FINE, [MINUTES])
    assert inputs_of(store, product, JUNE, none).frame("notes").schema == {
        "symbol": pl.String,
        "kind": pl.String,
    }


def test_a_column_that_is_younger_than_a_file_is_null(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    old = write(store, FINE, [MINUTES])
    table = replace(FINE, columns=(*FINE.columns, Column("mood", "double", "")))
    product = replace(STEPS, inputs=(Input("bars", table, ("close", "mood")),))
    frame = inputs_of(store, product, JUNE, old).frame("bars")
    assert frame["mood"].null_count() == frame.height > 0
    assert frame["mood"].dtype == pl.Float64
