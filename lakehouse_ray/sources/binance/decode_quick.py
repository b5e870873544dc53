"""Files of a symbol parsed at once with strict types, where nothing in them is odd."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.sources.binance.decode_rows import (
    BOOLEAN_WORDS,
    MICROSECONDS_FROM,
    TIME,
    Run,
    complete,
    keys_of,
    text_time,
)
from lakehouse_ray.sources.binance.layouts import Cell, Layout
from lakehouse_ray.sources.source import Decoded

_CSV_TYPES: dict[str, type[pl.DataType]] = {
    "epoch": pl.Int64,
    "text_time": pl.String,
    "long": pl.Int64,
    "double": pl.Float64,
    "boolean": pl.String,
    "string": pl.String,
    "symbol": pl.String,
}


def decode_quickly(dataset: Dataset, layout: Layout, run: list[Run]) -> Decoded | None:
    """Parse all files at once; None where anything is not as it should be."""
    # Polars reads nothing but bytes.
    body = bytes(run[0].body) if len(run) == 1 else b"".join([part.body for part in run])
    if not body:
        return None
    raw = _parse(layout, body)
    if raw is None:
        return None
    if raw.height != sum(part.rows for part in run):
        return None
    if not all(_holds(cell, raw[cell.name], run[0].file.symbol) for cell in layout):
        return None
    try:
        found = {cell.column: _typed(cell, raw[cell.name]) for cell in layout if cell.column}
    except pl.exceptions.PolarsError:
        return None
    # In the data set's order, so that nothing is left to do where it has them all.
    ordered = {c.name: found[c.name] for c in dataset.columns if c.name in found}
    frame = complete(dataset, pl.DataFrame(ordered))
    counts = tuple(part.rows for part in run)
    order = _keys_and_times_hold(dataset, frame, run)
    if order is None:
        return None
    return Decoded(frame, counts, tuple(() for _ in run), tuple(0 for _ in run), order)


def _parse(layout: Layout, body: bytes) -> pl.DataFrame | None:
    """The cells of all columns, wanted or not; None where one is not of its type.

    Of lines with too many or too few cells Polars tells only where it reads the last column (two
    lines glued together would lose the second).
    """
    texts = any(cell.column and _CSV_TYPES[cell.type] is pl.String for cell in layout)
    # Only the types with text ever quote a cell.
    quote = '"' if texts and b'"' in body else None
    # What is ignored is nearly always a number, which is read in half the time of a text.
    for ignored in (pl.Float64, pl.String):
        schema = {
            cell.name: ignored if cell.type == "ignored" else _CSV_TYPES[cell.type]
            for cell in layout
        }
        try:
            return pl.read_csv(body, has_header=False, schema=schema, quote_char=quote)
        except (pl.exceptions.PolarsError, UnicodeDecodeError):
            if not any(cell.type == "ignored" for cell in layout):
                break
    return None


def _holds(cell: Cell, values: pl.Series, symbol: str) -> bool:
    """Whether a column has nothing that the careful way would have to look at."""
    if values.null_count() and not cell.optional:
        return False
    if cell.type == "double":
        return math.isfinite(values.sum())
    if cell.type == "boolean":
        return bool(values.is_in(BOOLEAN_WORDS).all())
    if cell.type == "symbol":
        return bool((values == symbol).all())
    if cell.type == "string":
        # The careful way takes blanks off, and nothing is left of some.
        return bool(((values == values.str.strip_chars()) & (values != "")).all())
    return True


def _keys_and_times_hold(dataset: Dataset, frame: pl.DataFrame, run: list[Run]) -> bool | None:
    """None: a time lies outside its file's period, or a file has a key twice.

    Else whether the rows of all files together are in strict order of their time and key.
    """
    time = frame[dataset.time]
    if time.null_count():
        return None
    micro = time.cast(pl.Int64)
    sorted_by_time = micro.is_sorted()
    at = 0
    for part in run:
        if not part.rows:
            continue
        piece = micro.slice(at, part.rows)
        first, last = (piece[0], piece[-1]) if sorted_by_time else (piece.min(), piece.max())
        end = part.file.period.end_us + dataset.slack_us
        if first < part.file.period.start_us or last >= end:  # type: ignore[operator]
            return None
        at += part.rows
    if len(dataset.key) == 1:
        # Strictly rising: numpy compares in place what Polars would subtract first.
        # Of times and numbers alike.
        key = frame[dataset.key[0]].cast(pl.Int64).to_numpy()
        if bool(np.all(key[1:] > key[:-1])):
            return sorted_by_time
    # Not in strict order: unique all the same? Only inside each file matters here.
    at = 0
    for part in run:
        if keys_of(dataset, frame.slice(at, part.rows)).is_duplicated().any():
            return None
        at += part.rows
    return False


def _typed(cell: Cell, values: pl.Series) -> pl.Series:
    if cell.type == "epoch":
        return _epoch(values).cast(TIME)
    if cell.type == "text_time":
        return pl.select(text_time(pl.lit(values), strict=True)).to_series()
    if cell.type == "boolean":
        return values.is_in(("true", "True"))
    return values


def _epoch(values: pl.Series) -> pl.Series:
    """µs from ms or µs. Files change from one to the other at some day, so each value decides."""
    smallest, largest = values.min(), values.max()
    if smallest is None or int(smallest) >= MICROSECONDS_FROM:  # type: ignore[arg-type]
        return values
    if int(largest) < MICROSECONDS_FROM:  # type: ignore[arg-type]
        return values * 1000
    micro = pl.when(values >= MICROSECONDS_FROM).then(values).otherwise(values * 1000)
    return pl.select(micro).to_series()
