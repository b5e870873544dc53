"""Which partitions of a table rows belong to."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange, from_us, month_of, month_ordinal
from lakehouse_ray.storage.files import PartitionKey, Region
from lakehouse_ray.storage.schemas import bucket_of


def partition_of(
    table: Table, market: str, interval: str | None, symbol: str, time_us: int
) -> PartitionKey:
    """The partition of a row, its values in the order of the table's partition fields."""
    values: list[object] = []
    for partition in table.partitions:
        if partition.transform == "bucket16":
            values.append(bucket_of(symbol))
        elif partition.transform == "month":
            values.append(month_ordinal(time_us))
        elif partition.transform == "year":
            values.append(from_us(time_us).year - 1970)
        else:
            values.append({"market": market, "interval": interval}[partition.column])
    return tuple(values)


def regions_of(
    table: Table, market: str, interval: str | None, symbols: Iterable[str], span: TimeRange
) -> tuple[Region, ...]:
    """Everything that rows of these symbols in `span` (its end counted in) can touch."""
    boxes: dict[PartitionKey, list[str]] = {}
    ordinals = range(month_ordinal(span.start_us), month_ordinal(span.end_us) + 1)
    for symbol in symbols:
        for ordinal in ordinals:
            key = partition_of(table, market, interval, symbol, month_of(ordinal).start_us)
            if symbol not in (members := boxes.setdefault(key, [])):
                members.append(symbol)
    return tuple(
        Region(key, min(members), max(members), span.start_us, span.end_us)
        for key, members in boxes.items()
    )


def split_by_partition(table: Table, frame: pl.DataFrame) -> list[tuple[int, pl.DataFrame]]:
    """Rows of one symbol by month or year: a time of each part, and its rows in their order."""
    if frame.is_empty():
        return []
    time = frame[table.time].cast(pl.Int64)
    unit = "1y" if any(p.transform == "year" for p in table.partitions) else "1mo"
    first, last = time.min(), time.max()
    assert isinstance(first, int)
    assert isinstance(last, int)
    if _same_period(first, last, unit):
        return [(first, frame)]
    parts = frame.with_columns(_part=pl.col(table.time).dt.truncate(unit)).partition_by(
        "_part", maintain_order=True, include_key=False
    )
    return [(int(part[table.time].cast(pl.Int64)[0]), part) for part in parts]


def _same_period(first_us: int, last_us: int, unit: str) -> bool:
    first, last = from_us(first_us), from_us(last_us)
    return first.year == last.year and (unit == "1y" or first.month == last.month)
