"""Rows that come as such, held against what a table can hold before they are written anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.dataset import PRECEDENCE, Dataset
from lakehouse_ray.model.table import Column
from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.model.venue import Market, parse_interval, parse_market
from lakehouse_ray.silver.quarantine import ROWS_PER_OBJECT_MAX, Refusals
from lakehouse_ray.silver.resolve import SOURCE_NAMES, key_of, resolve, with_day
from lakehouse_ray.storage.frames import frame_schema

# Later and earlier times are no event of a market: as for single records (`model.records`).
EARLIEST_US, LATEST_US = parse_time("2010"), parse_time("2200")

RIVAL = "another series of the same kind has the key with other values"
_CLASH = "other rows of the same answer have the key and other values"


def rows_schema(dataset: Dataset) -> pl.Schema:
    """Columns that rows must come with: those of the table but `flags`, which merging fills in."""
    table = dataset.tables[0]
    schema = frame_schema(table)
    return pl.Schema({name: schema[name] for name in table.names if name != "flags"})


def checked_rows(dataset: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of `rows_schema`.

    Raises InvalidError where one is missing or of another type, or a row does not say whose it is
    (market, symbol, interval, source): a mistake of the caller, not of the exchange.
    """
    schema = rows_schema(dataset)
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise InvalidError(f"rows of {dataset.name} lack {', '.join(missing)}")
    for name, kind in schema.items():
        if frame.schema[name] != kind:
            raise InvalidError(f"{name} of {dataset.name} is {frame.schema[name]}, not {kind}")
    names = ["market", "symbol", *(["interval"] if dataset.bars else []), *SOURCE_NAMES]
    for name in names:
        if frame[name].has_nulls():
            raise InvalidError(f"rows of {dataset.name} without {name}")
    kinds = frame["source"].unique()
    strange = [kind for kind in kinds if kind not in PRECEDENCE]
    if strange:
        raise InvalidError(f"unknown source {strange[0]!r}", f"one of {', '.join(PRECEDENCE)}")
    return frame.select(schema.names())


def by_series(
    dataset: Dataset, rows: pl.DataFrame
) -> Iterator[tuple[Market, str | None, pl.DataFrame]]:
    """Yield market, interval and their rows."""
    names = ["market", "interval"] if dataset.bars else ["market"]
    for values, part in sorted(rows.partition_by(names, as_dict=True).items()):
        interval = parse_interval(str(values[1])) if dataset.bars else None
        yield parse_market(str(values[0])), interval, part


def timely(time: pl.Series) -> pl.Series:
    """Whether each is a time that an event of a market can have."""
    micro = time.dt.epoch("us")
    return ((micro >= EARLIEST_US) & (micro < LATEST_US)).fill_null(False)


def good_rows(dataset: Dataset, rows: pl.DataFrame, refusals: Refusals) -> tuple[pl.DataFrame, int]:
    """Return the rows that a table can hold, one per key, and how many were refused.

    rows: Of one market and interval; comes back with `with_day`.
    """
    untyped = pl.any_horizontal(
        pl.lit(False),
        *(pl.col(c.name).is_null() for c in dataset.columns if c.required),
        *(~pl.col(c.name).is_finite().fill_null(True) for c in _doubles(dataset)),
    )
    bad = rows.select(untyped).to_series()
    refused = refuse_rows(
        refusals, rows.filter(bad), "UNTYPED_CELL", "a value is missing or not a number"
    )
    rows = rows.filter(~bad)
    within = timely(rows[dataset.time])
    refused += refuse_rows(
        refusals, rows.filter(~within), "OUTSIDE_PERIOD", "not between 2010 and 2200"
    )
    key = ("symbol", *key_of(dataset))
    good = with_day(rows.filter(within), dataset)
    if good.select(key).n_unique() == good.height:
        # None competes with another: as always but for what came twice, at a third of the cost.
        return good.sort(key), refused
    good = good.unique(maintain_order=True)
    clashing = good.select(pl.struct(*key, *SOURCE_NAMES).is_duplicated()).to_series()
    refused += refuse_rows(refusals, good.filter(clashing), "CONFLICTING_KEY", _CLASH)
    best, rivals = resolve(good.filter(~clashing), key)
    return best, refused + refuse_rows(refusals, rivals, "CONFLICTING_KEY", RIVAL)


def _doubles(dataset: Dataset) -> list[Column]:
    return [column for column in dataset.columns if column.type == "double"]


def refuse_rows(refusals: Refusals, rows: pl.DataFrame, reason: str, detail: str) -> int:
    """Refuse rows and return how many they are; the log gets a bounded number of them."""
    refusals.refuse_frame(rows.head(ROWS_PER_OBJECT_MAX), reason, detail)
    more = rows.height - ROWS_PER_OBJECT_MAX
    if more > 0:
        last = rows.slice(ROWS_PER_OBJECT_MAX, 1)
        refusals.refuse_frame(last, "MORE_BAD_ROWS", f"{more:,} more rows: {reason}")
    return rows.height
