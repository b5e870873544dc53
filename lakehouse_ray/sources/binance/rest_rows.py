"""From the records of an answer to typed rows; what is odd is refused record by record."""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
import polars as pl
from pydantic import TypeAdapter, ValidationError

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.records.base import Record, read_record
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.sources.binance.decode_rows import TIME, complete, keys_of
from lakehouse_ray.sources.source import BadRecord

_RAW_CHARACTERS_MAX = 1000
_TYPES = {"double": pl.Float64(), "boolean": pl.Boolean(), "long": pl.Int64()}


def read_rows(
    dataset: Dataset, kind: type[Record], items: list[Any], symbol: str, within: TimeRange
) -> tuple[pl.DataFrame, list[BadRecord]]:
    """Return the rows of a page in order of time, and the records that were refused.

    within: What was asked for: rows outside of it are refused. Rows that are the same in every cell
    are one; of rows that share a key and differ none is kept, as none can be told to be right.
    """
    records, lines, bad = _records(kind, items, symbol)
    columns = {c.name: c for c in dataset.columns if c.name in kind.model_fields}
    frame = pl.DataFrame(
        {
            name: pl.Series(
                name,
                [getattr(record, name) for record in records],
                pl.Int64() if column.type == "timestamp" else _TYPES[column.type],
                strict=True,
            )
            for name, column in columns.items()
        }
    ).with_columns(pl.col(n).cast(TIME) for n, c in columns.items() if c.type == "timestamp")
    frame = complete(dataset, frame).with_columns(pl.Series("_line", lines, pl.Int64()))
    micro = pl.col(dataset.time).dt.epoch("us")
    inside = (micro >= within.start_us) & (micro < within.end_us)
    outside = frame.filter(~inside)
    values = [column.name for column in dataset.columns]
    frame = frame.filter(inside).unique(values, keep="first", maintain_order=True)
    conflicting = keys_of(dataset, frame).is_duplicated()
    conflicts, frame = frame.filter(conflicting), frame.filter(~conflicting)
    keys = ", ".join(dataset.key)
    bad += _refused(items, outside, "OUTSIDE_PERIOD", f"its time is not in {within}", symbol)
    bad += _refused(
        items, conflicts, "CONFLICTING_KEY",
        f"other records of the answer have the same {keys} and other values", symbol,
    )  # fmt: skip
    order = list(dict.fromkeys((dataset.time, *dataset.key)))
    return frame.drop("_line").sort(order), bad


def _records(
    kind: type[Record], items: list[Any], symbol: str
) -> tuple[list[Record], list[int], list[BadRecord]]:
    """Records that are right, their places in the answer from 1, and those that are not."""
    try:
        found = _all_of(kind).validate_python(items)
        if all(getattr(record, "symbol", None) in (None, symbol) for record in found):
            return found, list(range(1, len(found) + 1)), []
    except ValidationError:
        pass
    good: list[Record] = []
    lines: list[int] = []
    bad: list[BadRecord] = []
    for line, item in enumerate(items, start=1):
        try:
            record = read_record(kind, item)
            named = getattr(record, "symbol", None)
            if named not in (None, symbol):
                raise BadDataError("WRONG_SYMBOL", f"it names {named}")
        except BadDataError as error:
            bad.append(BadRecord(line, error.reason, error.detail, _raw(item), symbol))
            continue
        good.append(record)
        lines.append(line)
    return good, lines, bad


@cache
def _all_of(kind: type[Record]) -> TypeAdapter[list[Record]]:
    return TypeAdapter(list[kind])  # type: ignore[valid-type]


def _refused(
    items: list[Any], rows: pl.DataFrame, reason: str, detail: str, symbol: str
) -> list[BadRecord]:
    return [
        BadRecord(line, reason, detail, _raw(items[line - 1]), symbol)
        for line in rows["_line"].to_list()
    ]


def _raw(item: Any) -> str:
    return orjson.dumps(item).decode()[:_RAW_CHARACTERS_MAX]
