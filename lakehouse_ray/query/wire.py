"""Rows as bytes: batches of Arrow spelled as NDJSON and CSV.

Times are ISO 8601 with Z and floats read back as the same number. What JSON has no word for (NaN,
infinity) is null. A time beyond the years 1 to 9999 is an InvalidError: ISO 8601 has no text for it.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import orjson
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_ray.errors import InvalidError

# Days from 1970 to the years 1 and 10000. Beyond them Polars panics, or counts another time.
_FIRST_DAY, _END_DAY = -719_162, 2_932_897
_IN_A_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def ndjson_bytes(batch: pa.RecordBatch) -> bytes:
    """One JSON object a line, a line a row."""
    if any(pa.types.is_nested(field.type) for field in batch.schema):
        return b"".join(orjson.dumps(_plain(row)) + b"\n" for row in _values(batch))
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
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        _check_times(array)
    if pa.types.is_interval(kind) or pa.types.is_nested(kind):
        return pa.array(
            [
                None if value is None else
                value if isinstance(value, str) else orjson.dumps(value).decode()
                for value in map(_plain, _values(array))
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


def _check_times(array: pa.Array) -> None:
    kind = array.type
    number = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    in_a_day = _IN_A_DAY[kind.unit] if pa.types.is_timestamp(kind) else 1
    if pa.types.is_date64(kind):
        in_a_day = _IN_A_DAY["ms"]
    bounds = pc.min_max(array.view(number)).as_py()
    first, last = bounds["min"], bounds["max"]
    if first is not None and (first < _FIRST_DAY * in_a_day or last >= _END_DAY * in_a_day):
        raise _no_text()


def _values(found: pa.RecordBatch | pa.Array) -> list[Any]:
    """As Python has them. Raises InvalidError for times that it has not."""
    try:
        values: list[Any] = found.to_pylist()
    except (OverflowError, ValueError) as error:
        raise _no_text() from error
    return values


def _no_text() -> InvalidError:
    return InvalidError(
        "the answer has a time that no text has: beyond the years 1 to 9999, or infinity",
        "leave it out, or take arrow or parquet",
    )


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
