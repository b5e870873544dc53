"""Rows on stdout or in a file: table, JSON, NDJSON, CSV, Parquet, Arrow; streamed, never all at once.

Text formats spell times as ISO 8601 with Z and floats so that they read back as the same number.
What JSON has no word for (NaN, infinity) is null.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import orjson
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse_ray.cli.output import BINARY, Format
from lakehouse_ray.cli.table import print_table
from lakehouse_ray.errors import InvalidError, LakehouseError
from lakehouse_ray.query.indicators import Answer
from lakehouse_ray.storage.objects import explain

VERSION = 1
# Rows of a table on a terminal, unless --rows says otherwise.
TERMINAL_ROWS = 100


def write(
    result: Answer,
    form: Format,
    out: Path | None,
    *,
    rows_max: int | None,
    quiet: bool,
    empty: Callable[[], LakehouseError] | None = None,
) -> None:
    """Write all rows of a result.

    empty: Makes the error to raise, before anything is written, where there is no row.

    Raises InvalidError for binary formats on a terminal, and LakehouseError for a statement that
    fails on the way.
    """
    if out is None:
        if form in BINARY and sys.stdout.isatty():
            raise InvalidError(
                f"{form} is binary and stdout is a terminal", "give --out FILE, or a pipe"
            )
        if rows_max is None and form is Format.TABLE and sys.stdout.isatty():
            rows_max = TERMINAL_ROWS
    batches = _started(result, empty)
    if out is None:
        sys.stdout.flush()
        _write(result, batches, form, sys.stdout.buffer, rows_max or None, quiet=quiet)
        sys.stdout.buffer.flush()
        return
    aside = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with aside.open("wb") as file:
            _write(result, batches, form, file, rows_max or None, quiet=quiet)
        os.replace(aside, out)
    except OSError as error:
        raise explain(error, f"writing {out}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _started(
    result: Answer, empty: Callable[[], LakehouseError] | None
) -> Iterator[pa.RecordBatch]:
    """The result's batches, at least one; the first is there already: most errors show by then."""
    batches = result.fetch_batches()
    first = next(batches, None)
    if first is None:
        if empty is not None:
            raise empty()
        first = pa.RecordBatch.from_pylist([], schema=result.schema)
    return itertools.chain([first], batches)


def _write(
    result: Answer,
    batches: Iterator[pa.RecordBatch],
    form: Format,
    sink: IO[bytes],
    rows_max: int | None,
    *,
    quiet: bool,
) -> None:
    if form is Format.PARQUET:
        first = next(batches)
        with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
    elif form is Format.ARROW:
        first = next(batches)
        with pa.ipc.new_stream(sink, first.schema) as stream:
            for batch in itertools.chain([first], batches):
                stream.write_batch(batch)
    elif form is Format.TABLE:
        print_table(result.columns, result.types, map(text_frame, batches), sink, rows_max, quiet)
    elif form is Format.CSV:
        for number, batch in enumerate(batches):
            sink.write(csv_bytes(batch, header=number == 0))
    elif form is Format.NDJSON:
        for batch in batches:
            sink.write(ndjson_bytes(batch))
    else:
        _write_json(result, batches, sink)


def _write_json(result: Answer, batches: Iterator[pa.RecordBatch], sink: IO[bytes]) -> None:
    columns = [
        {"name": name, "type": kind}
        for name, kind in zip(result.columns, result.types, strict=True)
    ]
    head = orjson.dumps({"v": VERSION, "columns": columns, "snapshots": result.snapshots})
    sink.write(head[:-1] + b',"rows":[')
    between = b"\n"
    for batch in batches:
        lines = ndjson_bytes(batch)
        if lines:
            # Line breaks inside of texts are escaped: each of these ends a row.
            sink.write(between + lines[:-1].replace(b"\n", b",\n"))
            between = b",\n"
    sink.write(b"\n]}\n")


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
