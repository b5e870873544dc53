"""How an answer is spelled: which format is asked for, and rows in it, whole, counted and hashed.

An answer is complete before its first byte is sent: an error on the way is an error and no broken
answer, and a slow client keeps no statement open. So every answer has its length, its number of
rows and its hash in its headers, and one that was cut short is told from a whole one.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse_ray.query.indicators import Answer
from lakehouse_ray.query.versions import spell_versions
from lakehouse_ray.query.wire import csv_bytes, ndjson_bytes
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.problems import FormatError, TooLargeError

VERSION = 1
# Beyond this an answer waits on disk, not in memory, for its client.
MEMORY_BYTES = 4 << 20
_GATHERED_BYTES = 256 << 10


class Format(StrEnum):
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


MEDIA_TYPES = {
    Format.JSON: "application/json",
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv",
    Format.ARROW: "application/vnd.apache.arrow.stream",
    Format.PARQUET: "application/vnd.apache.parquet",
}
BINARY = (Format.ARROW, Format.PARQUET)
_ALIASES = {"application/jsonl": Format.NDJSON, "application/jsonlines": Format.NDJSON}
_CHARSET = {Format.CSV: "; charset=utf-8; header=present"}


def content_type(form: Format) -> str:
    return MEDIA_TYPES[form] + _CHARSET.get(form, "")


def choose_format(asked: Format | None, accept: str) -> Format:
    """Return the format that `format=` or else the header Accept asks for.

    Raises FormatError where Accept takes none of ours.
    """
    if asked is not None:
        return asked
    if not accept.strip():
        return Format.JSON
    best: tuple[float, int, Format] | None = None
    for place, form in enumerate(Format):
        quality = max(
            _quality(accept, media_type)
            for media_type in (MEDIA_TYPES[form], *(a for a, f in _ALIASES.items() if f is form))
        )
        if quality > 0 and (best is None or (quality, -place) > best[:2]):
            best = quality, -place, form
    if best is None:
        raise FormatError(
            "none of the formats in the header Accept can be given",
            f"one of {', '.join(MEDIA_TYPES.values())}, or format={'|'.join(Format)}",
        )
    return best[2]


def _quality(accept: str, media_type: str) -> float:
    """How much a client wants a type: of its ranges that fit, the most exact one says it."""
    kind = media_type.partition("/")[0]
    found = (-1, 0.0)
    for part in accept.split(","):
        wanted, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if wanted not in (media_type, f"{kind}/*", "*/*"):
            continue
        exactness = 2 if wanted == media_type else 1 if wanted != "*/*" else 0
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = min(max(float(value), 0.0), 1.0)
                except ValueError:
                    quality = 0.0
        found = max(found, (exactness, quality))
    return found[1]


@dataclass(frozen=True)
class Whole:
    """A complete answer's body.

    rows: None where it is no rows. data: In memory; or `file`, at its beginning.
    """

    form: Format
    rows: int | None
    size: int
    sha256: bytes
    data: bytes | None
    file: IO[bytes] | None

    @property
    def digest(self) -> str:
        """For the header Content-Digest (RFC 9530)."""
        return f"sha-256=:{base64.b64encode(self.sha256).decode()}:"


class _Sink:
    """Where bytes are written: counted, hashed, and no more than may be."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._hash = hashlib.sha256()
        self.size = 0
        self.file: Any = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - handed on
        self.closed = False

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.size += size
        if self.size > self._bytes_max:
            raise TooLargeError(
                f"the answer has more than {self._bytes_max >> 20} MiB",
                "page with limit, narrow the range, or ask for fewer columns",
            )
        self._hash.update(data)
        self.file.write(data)
        return size

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def whole(self, form: Format, rows: int) -> Whole:
        self.file.seek(0)
        sha256 = self._hash.digest()
        if self.size > MEMORY_BYTES:
            return Whole(form, rows, self.size, sha256, None, self.file)
        with self.file:
            return Whole(form, rows, self.size, sha256, self.file.read(), None)


def rows_limit(limits: Limits, form: Format) -> int:
    return limits.binary_rows_max if form in BINARY else limits.rows_max


def encode(
    answer: Answer,
    batches: Iterator[pa.RecordBatch],
    form: Format,
    bytes_max: int,
    tail: Any = None,
) -> Whole:
    """Write all rows of an answer.

    batches: Its rows; may have fewer columns than the answer.
    tail: Called when all rows are written: more members of the JSON document.

    Raises TooLargeError for more bytes than may be, LakehouseError where a statement fails.
    """
    sink = _Sink(bytes_max)
    try:
        first = next(batches, None)
        if first is None:
            first = pa.RecordBatch.from_pylist([], schema=answer.schema)
        rows = _write(answer, itertools.chain([first], batches), first.schema, form, sink, tail)
        return sink.whole(form, rows)
    except BaseException:
        sink.file.close()
        raise


def _write(
    answer: Answer,
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    form: Format,
    sink: _Sink,
    tail: Any,
) -> int:
    rows = 0
    if form is Format.ARROW:
        with _gathered(sink) as out, pa.ipc.new_stream(out, schema) as stream:
            for batch in batches:
                rows += batch.num_rows
                stream.write_batch(batch)
    elif form is Format.PARQUET:
        with _gathered(sink) as out, pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for batch in batches:
                rows += batch.num_rows
                writer.write_batch(batch)
    elif form is Format.CSV:
        for number, batch in enumerate(batches):
            rows += batch.num_rows
            sink.write(csv_bytes(batch, header=number == 0))
    elif form is Format.NDJSON:
        for batch in batches:
            rows += batch.num_rows
            sink.write(ndjson_bytes(batch))
    else:
        rows = _write_json(answer, batches, schema, sink, tail)
    return rows


def _gathered(sink: _Sink) -> pa.NativeFile:
    """Arrow writes each buffer by itself, some dozens of a batch; so the sink gets them together."""
    return pa.BufferedOutputStream(pa.PythonFile(sink, "w"), _GATHERED_BYTES)


def _write_json(
    answer: Answer, batches: Iterator[pa.RecordBatch], schema: pa.Schema, sink: _Sink, tail: Any
) -> int:
    types = dict(zip(answer.columns, answer.types, strict=True))
    columns = [{"name": name, "type": types[name]} for name in schema.names]
    head = {"v": VERSION, "columns": columns, "as_of": spell_versions(answer.snapshots)}
    sink.write(orjson.dumps(head)[:-1] + b',"rows":[')
    rows = 0
    between = b"\n"
    for batch in batches:
        rows += batch.num_rows
        lines = ndjson_bytes(batch)
        if lines:
            # Line breaks inside of texts are escaped: each of these ends a row.
            sink.write(between + lines[:-1].replace(b"\n", b",\n"))
            between = b",\n"
    end = {"row_count": rows, **(tail() if tail is not None else {})}
    sink.write(b"\n]," + orjson.dumps(end)[1:] + b"\n")
    return rows


def hold_bytes(data: bytes, form: Format) -> Whole:
    """A document that is there already."""
    return Whole(form, None, len(data), hashlib.sha256(data).digest(), data, None)


def hold_rows(data: bytes, form: Format, rows: int) -> Whole:
    """Rows that are spelled already."""
    return Whole(form, rows, len(data), hashlib.sha256(data).digest(), data, None)
