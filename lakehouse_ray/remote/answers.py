"""From replies to frames and results; page after page of one question, all of one snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.gaps import GAPS
from lakehouse_ray.query.conversions import BATCH_ROWS, Readings, frame_of
from lakehouse_ray.query.statement import Closing
from lakehouse_ray.query.versions import parse_versions
from lakehouse_ray.remote.questions import Question
from lakehouse_ray.remote.reply import Reply
from lakehouse_ray.remote.transport import Transport
from lakehouse_ray.storage.frames import frame_schema

# Of a page: some 20 MB of bars.
PAGE_ROWS = 100_000

Batches = Callable[[int], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Probed:
    """What a question's first row tells: columns and versions of its tables."""

    schema: pa.Schema
    versions: str

    @property
    def frame_schema(self) -> pl.Schema:
        return frame_of(self.schema.empty_table()).schema

    @property
    def snapshots(self) -> dict[str, int | None]:
        return parse_versions(self.versions) or {}


async def probe(transport: Transport, question: Question) -> Probed:
    """Pin a question for rows. Raises NotFoundError for a symbol that is not stored."""
    reply = await transport.ask(question.with_params(limit=1))
    return Probed(reply.schema, reply.versions)


class Walk:
    """The pages of one question. Holds none of them."""

    def __init__(
        self,
        transport: Transport,
        question: Question,
        *,
        versions: str | None = None,
        page_rows: int | None = PAGE_ROWS,
        rows_max: int | None = None,
    ) -> None:
        """versions: Those that all pages must be of; None: those of the first.

        page_rows: None: the question has no pages. rows_max: Of all pages together.
        """
        self._transport = transport
        self._question = question if versions is None else question.with_params(as_of=versions)
        self.versions = versions
        self._page_rows = page_rows
        self._left = rows_max
        self._cursor: str | None = None
        self._ended = rows_max == 0

    async def step(self) -> Reply | None:
        """Return the next page; None: that was all.

        Raises BadDataError where a page is of another version than the first, or leads nowhere.
        """
        if self._ended:
            return None
        limit = self._page_rows
        if limit is not None and self._left is not None:
            limit = min(limit, self._left)
        reply = await self._transport.ask(
            self._question.with_params(limit=limit, cursor=self._cursor)
        )
        if self.versions is None:
            self.versions = reply.versions
        elif reply.versions != self.versions:
            raise BadDataError("SNAPSHOT_CHANGED", "a page is of another version than the first")
        cursor = reply.cursor
        if limit is not None and reply.rows > limit:
            raise BadDataError("PAGE_TOO_LONG", f"{reply.rows:,} rows came, {limit:,} were asked")
        if cursor is not None and (reply.rows == 0 or cursor == self._cursor):
            raise BadDataError("PAGES_WITHOUT_END", "a page without rows says that more follow")
        self._cursor = cursor
        if self._left is not None:
            self._left -= reply.rows
        self._ended = cursor is None or self._left == 0
        return reply


def read_frame(reply: Reply) -> pl.DataFrame:
    """All rows of an answer."""
    with contextlib.closing(reply.body):
        return frame_of(pa.Table.from_batches(reply.batches(BATCH_ROWS), reply.schema))


def read_gaps(reply: Reply) -> pl.DataFrame:
    """`model.gaps.GAPS`, which has other names over HTTP."""
    told = read_frame(reply).rename({"start": "start_time", "end": "end_time"})
    return told.with_columns(pl.col("interval").fill_null("")).cast(frame_schema(GAPS))


def read_document(reply: Reply) -> dict[str, Any]:
    with contextlib.closing(reply.body):
        return reply.document()


def chosen(
    batches: Iterable[pa.RecordBatch],
    schema: Mapping[str, pl.DataType],
    with_columns: list[str] | None,
    predicate: pl.Expr | None,
    n_rows: int | None,
) -> Iterator[pl.DataFrame]:
    """What Polars asked for, of batches that may have more.

    schema: What the columns must be. Raises BadDataError where one is something else.
    """
    left = n_rows
    for batch in batches:
        frame = frame_of(batch)
        for name, kind in frame.schema.items():
            if schema.get(name) != kind:
                raise BadDataError("OTHER_COLUMNS", f"{name} came as {kind}: connect anew")
        if predicate is not None:
            frame = frame.filter(predicate)
        if with_columns is not None:
            frame = frame.select(with_columns)
        if left is not None:
            frame = frame.head(left)
            left -= frame.height
        yield frame
        if left == 0:
            return


class RemoteResult(Readings, Closing):
    """An answer, to be read as the local lake's `Result` is. A context manager."""

    def __init__(
        self, schema: pa.Schema, versions: str, batches: Batches, close: Callable[[], None]
    ) -> None:
        """batches: Reads all rows from the beginning, at most so many at once."""
        self._schema = schema
        self._versions = versions
        self._batches = batches
        self._close = close

    @classmethod
    def held(cls, reply: Reply) -> RemoteResult:
        """An answer that is here already, in memory or on disk."""
        return cls(reply.schema, reply.versions, reply.batches, reply.body.close)

    @classmethod
    def of(cls, table: pa.Table, versions: str) -> RemoteResult:
        """Rows in memory."""
        return cls(table.schema, versions, lambda rows: iter(table.to_batches(rows)), lambda: None)

    def close(self) -> None:
        self._close()

    @property
    def columns(self) -> list[str]:
        return list(self._schema.names)

    @property
    def types(self) -> list[str]:
        """Types of the columns in SQL."""
        with duckdb.connect() as connection:
            return [str(kind) for kind in connection.from_arrow(self._schema.empty_table()).types]

    @property
    def snapshots(self) -> dict[str, int | None]:
        """The snapshot of each physical table that was read."""
        return parse_versions(self._versions) or {}

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def fetch_batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of at most so many; memory stays bounded."""
        return self._batches(rows)
