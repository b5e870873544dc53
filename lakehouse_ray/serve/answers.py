"""From a question to its response: ETag and 304, memory of answers, headers that tell all of it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing

import polars as pl
import pyarrow as pa
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from lakehouse_ray.query.conversions import BATCH_ROWS
from lakehouse_ray.query.indicators import Answer
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.versions import FixedTables, spell_versions
from lakehouse_ray.serve.cache.edition import edition
from lakehouse_ray.serve.cache.flights import Gone
from lakehouse_ray.serve.cache.in_store import pieces
from lakehouse_ray.serve.cache.level import SMALL_BYTES_MAX
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.cursors import canonical
from lakehouse_ray.serve.formats import Format, Whole, content_type, encode, rows_limit
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.problems import TooLargeError
from lakehouse_ray.serve.service import Service, hung_up

# What a question at one version of its tables answers never changes. Not longer than a day: a
# newer release may spell it otherwise.
_PINNED = "private, max-age=86400, immutable"
# What is now may be something else soon: rows of any day may come late or be published again. Of days that are
# over that is rare: their answers hold for some seconds, and say which versions they are of.
_NOW = "private, no-cache"
_CHUNK_BYTES = 256 << 10
# Twice what a bar has as JSON, with all its columns. Should rows have more, an answer that might have
# been found is made.
_ROW_BYTES = 1000


async def reply(
    request: Request,
    service: Service,
    form: Format,
    tables: FixedTables,
    question: Mapping[str, object],
    produce: Callable[[Lake], Written],
    *,
    pinned: bool = False,
    closed: bool = False,
    remembered: bool = True,
    rows_max: int | None = None,
) -> Response:
    """Answer a question, by what the client has, what is remembered, or by work.

    question: All that the answer depends on, but for versions and format; nothing of who asks.
    pinned: Whether the request itself names the versions, so that its answer never changes.
    closed: Whether all of its days are over.
    remembered: False where the answer depends on more than the tables.
    rows_max: Rows that it has at most; None: that is not known.
    """
    key = key_of(form, tables, question, service.limits)
    etag = f'"{key}"'
    headers = {
        "ETag": etag,
        "Cache-Control": _PINNED if pinned else _held(closed, service.limits),
        "Vary": "Accept, Authorization",
        "Lakehouse-Snapshots": spell_versions(tables.versions),
    }
    if _has(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)

    async def work(gone: Gone) -> Written:
        engine = service.engine()
        return await service.workers.run(
            engine, lambda: produce(service.lake(tables, engine)), gone
        )

    def hold(written: Written) -> None:
        service.hold(written.whole)

    gone = hung_up(request)
    if remembered:
        small = rows_max is not None and rows_max * _ROW_BYTES <= SMALL_BYTES_MAX
        written = await service.answers.get(key, form, work, hold, gone, small=small)
    else:
        written = await work(gone)
        hold(written)
    return respond(written.whole, headers | _about(request, written))


def _held(closed: bool, limits: Limits) -> str:
    held_s = limits.closed_days_held_s
    return f"private, max-age={held_s}, immutable" if closed and held_s else _NOW


def respond(whole: Whole, headers: dict[str, str]) -> Response:
    """The response that has a complete answer as its body."""
    kind = content_type(whole.form)
    if whole.data is not None and whole.size <= _CHUNK_BYTES:
        return Response(whole.data, headers=headers, media_type=kind)
    # In pieces, so that the server hears after each whether the client takes them.
    length = {"Content-Length": str(whole.size)}
    return StreamingResponse(_chunks(whole), headers=headers | length, media_type=kind)


async def _chunks(whole: Whole) -> AsyncIterator[bytes]:
    # The file was just written: what is read is in the system's memory.
    for piece in pieces(whole, _CHUNK_BYTES):
        yield piece


def _about(request: Request, written: Written) -> dict[str, str]:
    whole = written.whole
    headers = {"Content-Digest": whole.digest}
    if whole.rows is not None:
        headers["Lakehouse-Rows"] = str(whole.rows)
    if written.following is not None:
        # As this client spelled its question: another one may have asked for it otherwise.
        url = request.url.include_query_params(cursor=written.following)
        headers["Lakehouse-Next"] = written.following
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return headers


def key_of(
    form: Format, tables: FixedTables, question: Mapping[str, object], limits: Limits
) -> str:
    """Name all that an answer depends on: question and format, the tables and their versions, how
    many rows there may be, and the code that answers. Equal keys mean equal bytes, anywhere."""
    parts = (
        edition(),
        form,
        str(rows_limit(limits, form)),
        spell_versions(tables.versions),
        # Versions alone say nothing of which lake they are of.
        ",".join(tables.identities()),
    )
    spelled = "|".join(parts).encode() + b"|" + canonical(question)
    return hashlib.sha256(spelled).hexdigest()[:32]


def _has(if_none_match: str, etag: str) -> bool:
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in known or "*" in known


class Rows:
    """The batches of an answer, not more rows than wanted.

    more: Whether there were rows beyond; known when all batches were read. Then `last` is the last
    one given, with all its columns.
    """

    def __init__(self, answer: Answer, wanted: int, shown: Sequence[str]) -> None:
        self._answer = answer
        self._wanted = wanted
        self._shown = list(shown)
        self.more = False
        self.last: pa.RecordBatch | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        left = self._wanted
        for batch in self._answer.fetch_batches(BATCH_ROWS):
            self.more = batch.num_rows > left
            kept = batch.slice(0, left)
            if kept.num_rows:
                self.last = kept.slice(kept.num_rows - 1)
                yield kept.select(self._shown)
            left -= kept.num_rows
            if self.more:
                return


def write_all(
    answer: Answer, form: Format, limits: Limits, shown: Sequence[str] | None = None
) -> Written:
    """Write an answer that has no pages.

    Raises TooLargeError where it has more rows than may be: a part of it would be a wrong answer.
    """
    most = rows_limit(limits, form)
    rows = Rows(answer, most, shown or answer.columns)

    def checked() -> Generator[pa.RecordBatch, None, None]:
        yield from rows.batches()
        if rows.more:
            raise too_many_rows(most, form)

    with closing(checked()) as batches:
        return Written(encode(answer, batches, form, limits.answer_bytes_max))


def write_frame(lake: Lake, frame: pl.DataFrame, form: Format, limits: Limits) -> Written:
    with lake.engine.hold(frame) as result:
        return write_all(result, form, limits)


def too_many_rows(most: int, form: Format) -> TooLargeError:
    return TooLargeError(
        f"the answer has more than {most:,} rows, the most that {form} may have",
        "page with limit, narrow the range, or take arrow or parquet",
    )
