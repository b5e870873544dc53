"""Rows as bytes: batches of Arrow spelled as NDJSON and CSV.

Times are ISO 8601 with Z and floats read back as the same number. What JSON has no word for (NaN,
infinity) is null.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import orjson
import polars as pl
import polars.selectors as cs
import pyarrow as pa


def ndjson_bytes(batch: pa.RecordBatch) -> bytes:
    """One JSON object a line, a line a row."""
    if any(pa.types.is_nested(field.type) for field in batch.schema):
        return b"".join(orjson.dumps(_plain(row)) + b"\n" for row in batch.to_pylist())
    frame = text_frame(batch).with_columns(
        pl.when(cs.float().is_finite()).then(cs.float())  # NaN and infinity become null
    )
    if frame.width == 0 or frame.height == 0:
        return b""
    return frame.write_ndjson().encode()


def csv_bytes(batch: pa.RecordBatch, *, header: bool) -> bytes:
    """Rows as CSV; a null is empty, an empty text is quoted."""
    return text_frame(batch).write_csv(include_header=header).encode()


def text_frame(batch: pa.RecordBatch) -> pl.DataFrame:
    """Return a batch with only numbers, booleans and texts in it."""
    columns = [_text_array(column) for column in batch.columns]
    frame = pl.from_arrow(pa.table(columns, names=batch.schema.names))
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(_text_column(frame[name]) for name in frame.columns)


def _text_array(array: pa.Array) -> pa.Array:
    """Spell as text what Polars has no type for."""
    kind = array.type
    if pa.types.is_interval(kind) or pa.types.is_nested(kind):
        return pa.array(
            [
                None if value is None else
                value if isinstance(value, str) else orjson.dumps(value).decode()
                for value in map(_plain, array.to_pylist())
            ],
            pa.string(),
        )  # fmt: skip
    if pa.types.is_dictionary(kind):
        return array.cast(kind.value_type)
    return array


def _text_column(column: pl.Series) -> pl.Series:
    kind = column.dtype
    if isinstance(kind, pl.Datetime):
        return _iso(column)
    if isinstance(kind, pl.Decimal):
        if kind.scale:
            return column.cast(pl.Float64)
        whole = column.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == column.null_count() else column.cast(pl.String)
    if kind == pl.Date:
        return column.dt.strftime("%Y-%m-%d")
    if kind == pl.Time:
        return column.dt.strftime("%H:%M:%S%.6f")
    if kind == pl.Binary:
        return column.bin.encode("hex")
    return column


def _iso(column: pl.Series) -> pl.Series:
    """ISO 8601 with Z; microseconds only where there are some, as in `format_time`."""
    micro = column.cast(pl.Datetime("us"))
    whole = micro.dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    fraction = micro.dt.microsecond() != 0
    if not fraction.any():
        return whole
    return micro.dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").zip_with(fraction.fill_null(False), whole)


def _plain(value: Any) -> Any:
    """A value of Arrow in the words of JSON."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, pa.MonthDayNano):
        return _duration(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dt.datetime):
        text = value.replace(tzinfo=None).isoformat()
        return f"{text}Z"
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value  # orjson writes NaN and infinity as null, dates and times as ISO


def _duration(value: Any) -> str:
    """An interval as ISO 8601: P1M2DT3.5S."""
    seconds, nanos = divmod(abs(value.nanoseconds), 10**9)
    sign = "-" if value.nanoseconds < 0 else ""
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    parts = [
        f"{value.months}M" if value.months else "",
        f"{value.days}D" if value.days else "",
        f"T{sign}{seconds}{fraction}S" if value.nanoseconds else "",
    ]
    return "P" + ("".join(parts) or "T0S")
