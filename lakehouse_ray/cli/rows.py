"""Rows on stdout or in a file: table, JSON, NDJSON, CSV, Parquet, Arrow; streamed, never all at once.

How text formats spell values is the business of `query.wire`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse_ray.cli.output import BINARY, Format
from lakehouse_ray.cli.table import print_table
from lakehouse_ray.errors import InvalidError, LakehouseError
from lakehouse_ray.query.indicators import Answer
from lakehouse_ray.query.wire import csv_bytes, ndjson_bytes, text_frame
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
