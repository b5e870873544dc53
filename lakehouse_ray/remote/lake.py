"""A lake behind a query service, as the local one is asked: `connect("http://…")`."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Coroutine, Generator, Iterable, Iterator
from typing import Any, Self, TypeVar

import polars as pl
import pyarrow as pa

from lakehouse_ray.query.conversions import BATCH_ROWS
from lakehouse_ray.query.lake_datasets import LakeDatasets
from lakehouse_ray.query.lake_frame import LakeFrame
from lakehouse_ray.query.moments import When
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.remote import TIMEOUT_S, questions
from lakehouse_ray.remote.answers import PAGE_ROWS, Probed, RemoteResult, Walk, chosen, probe
from lakehouse_ray.remote.background import BACKGROUND
from lakehouse_ray.remote.facts import RemoteFacts
from lakehouse_ray.remote.jobs import AsyncRemoteJobs, RemoteJobs
from lakehouse_ray.remote.questions import Question
from lakehouse_ray.remote.reply import Reply
from lakehouse_ray.remote.shapes import Asked, computed, of_rows, with_indicators
from lakehouse_ray.remote.transport import Transport, parse_address

T = TypeVar("T")

_CLOSING_S = 2.0


class RemoteLake(RemoteFacts, LakeDatasets[LakeFrame]):
    """Reads of one lake over HTTP. Safe for several threads, in notebooks and after a fork.

    Every answer is whole and what the server sent (its hash and its number of rows are checked),
    or an error. Errors are those of the local lake. A context manager.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        page_rows: int = PAGE_ROWS,
    ) -> None:
        """timeout_s: Of one request, with what is tried again. page_rows: Rows held at a time.

        Raises InvalidError for what is no address.
        """
        self._address = parse_address(url, api_key, timeout_s)
        self._page_rows = questions.page_size(page_rows)
        self._transports: dict[int, Transport] = {}
        weakref.finalize(self, _close, self._transports)

    def __repr__(self) -> str:
        return f"RemoteLake({self._address.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; the next question makes new ones."""
        _close(self._transports)

    def klines(
        self,
        symbol: str,
        interval: str,
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        as_of: AsOf = None,
    ) -> LakeFrame:
        """Bars of a symbol that open in `[start, end)`, in the order of time."""
        return self.rows(
            "klines", symbol, start, end, market=market, interval=interval, as_of=as_of
        )

    def rows(
        self,
        dataset: str,
        symbol: str,
        start: When = None,
        end: When = None,
        *,
        market: str = "spot",
        interval: str | None = None,
        as_of: AsOf = None,
    ) -> LakeFrame:
        """Rows of any data set whose time lies in `[start, end)`, in the order of time.

        One row is asked for now: it pins the snapshots and tells the columns. The rest comes on
        `collect`, in pages: only the columns and the first rows that are wanted then.

        Raises InvalidError for an unknown data set, market or interval, NotFoundError for a symbol
        of which nothing is stored.
        """
        return self._frame(of_rows(dataset, symbol, start, end, market, interval, as_of))

    def indicators(
        self,
        symbol: str,
        interval: str,
        names: str | Iterable[str],
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        warmup: int = 0,
        as_of: AsOf = None,
    ) -> LakeFrame:
        """Bars with a column per output of each indicator, made by the server.

        Not in pages: each value depends on those before it. InvalidError where the answer would be
        larger than the server gives.
        """
        return self._frame(
            with_indicators(symbol, interval, names, start, end, market, warmup, as_of)
        )

    def select_indicators(
        self,
        symbol: str,
        interval: str,
        names: str | Iterable[str],
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        warmup: int = 0,
        as_of: AsOf = None,
    ) -> RemoteResult:
        """The same as `indicators`, to be read in batches."""
        return self._result(
            with_indicators(symbol, interval, names, start, end, market, warmup, as_of)
        )

    def resample(
        self,
        symbol: str,
        interval: str,
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        source: str = "1m",
        offset: str | Iterable[str] = "0m",
        partial: str = "keep",
        empty: str = "none",
        as_of: AsOf = None,
    ) -> LakeFrame:
        """Bars made from finer ones that are stored, by the server. Not in pages."""
        return self._frame(
            computed(
                symbol, interval, start, end, market, source, offset, partial, empty, as_of
            )
        )  # fmt: skip

    def select(
        self,
        dataset: str,
        symbol: str,
        start: When = None,
        end: When = None,
        *,
        market: str = "spot",
        interval: str | None = None,
        as_of: AsOf = None,
    ) -> RemoteResult:
        """The same as `rows`, to be read in batches. Each reading asks again, of one snapshot."""
        return self._result(of_rows(dataset, symbol, start, end, market, interval, as_of))

    def sql(self, query: str, parameters: object = None, *, as_of: AsOf = None) -> RemoteResult:
        """Ask one SELECT over `bronze`, `silver` and `gold`; the server runs it now.

        Raises InvalidError for a statement that cannot be right, or that the server does not allow.
        """
        return RemoteResult.held(self._ask(questions.sql(query, parameters, as_of)))

    @property
    def jobs(self) -> RemoteJobs:
        """The lake's workflows as jobs of the cluster behind the service."""
        return RemoteJobs(AsyncRemoteJobs(self._transport.ask), self._run)

    def _frame(self, asked: Asked) -> LakeFrame:
        probed = self._run(probe(self._transport, asked.probe))
        schema = asked.schema(probed)

        def frames(
            with_columns: list[str] | None,
            predicate: pl.Expr | None,
            n_rows: int | None,
            batch_size: int | None,
        ) -> Iterator[pl.DataFrame]:
            question = asked.narrowed(with_columns, predicate)
            # Rows are counted after the filter.
            rows_max = n_rows if predicate is None and asked.paged else None
            batches = self._batches(asked, question, probed, rows_max, batch_size or BATCH_ROWS)
            with contextlib.closing(batches):
                yield from chosen(batches, schema, with_columns, predicate, n_rows)

        return LakeFrame.over(frames, schema, asked.meta(self, probed.snapshots))

    def _result(self, asked: Asked) -> RemoteResult:
        probed = self._run(probe(self._transport, asked.probe))

        def batches(rows: int) -> Iterator[pa.RecordBatch]:
            return self._batches(asked, asked.question, probed, None, rows)

        return RemoteResult(asked.arrow_schema(probed), probed.versions, batches, lambda: None)

    def _batches(
        self,
        asked: Asked,
        question: Question,
        probed: Probed,
        rows_max: int | None,
        rows: int,
    ) -> Generator[pa.RecordBatch, None, None]:
        walk = Walk(
            self._transport,
            question,
            versions=probed.versions,
            page_rows=self._page_rows if asked.paged else None,
            rows_max=rows_max,
        )
        while (reply := self._run(walk.step())) is not None:
            with contextlib.closing(reply.body):
                yield from reply.batches(rows)

    def _ask(self, question: Question) -> Reply:
        return self._run(self._transport.ask(question))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return BACKGROUND.run(work)

    @property
    def _transport(self) -> Transport:
        """That of this process: connections do not survive a fork."""
        return self._transports.setdefault(os.getpid(), Transport(self._address))


def _close(transports: dict[int, Transport]) -> None:
    transport = transports.pop(os.getpid(), None)
    if transport is not None:
        BACKGROUND.finish(transport.close(), _CLOSING_S)
