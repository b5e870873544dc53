"""The same as `remote.lake`, with methods to be awaited: for programs that are asynchronous."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, Self

import pyarrow as pa

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.conversions import BATCH_ROWS, frame_of
from lakehouse_ray.query.lake_datasets import LakeDatasets
from lakehouse_ray.query.lake_frame import LakeFrame
from lakehouse_ray.query.moments import When
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.remote import TIMEOUT_S, questions
from lakehouse_ray.remote.answers import PAGE_ROWS, RemoteResult, Walk
from lakehouse_ray.remote.async_facts import AsyncRemoteFacts
from lakehouse_ray.remote.jobs import AsyncRemoteJobs
from lakehouse_ray.remote.questions import Question
from lakehouse_ray.remote.reply import Reply
from lakehouse_ray.remote.shapes import Asked, computed, of_rows, with_indicators
from lakehouse_ray.remote.transport import Transport, parse_address


class AsyncRemoteLake(AsyncRemoteFacts, LakeDatasets[Coroutine[Any, Any, LakeFrame]]):
    """Reads of one lake over HTTP, for one event loop. An asynchronous context manager.

    What is awaited has been read: its frames are in memory. `batches` is for what does not fit.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        page_rows: int = PAGE_ROWS,
    ) -> None:
        """As of `RemoteLake`."""
        self._transport = Transport(parse_address(url, api_key, timeout_s))
        self._page_rows = questions.page_size(page_rows)

    def __repr__(self) -> str:
        return f"AsyncRemoteLake({self._transport.address.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections; the next question makes new ones."""
        await self._transport.close()

    @property
    def jobs(self) -> AsyncRemoteJobs:
        """The lake's workflows as jobs of the cluster behind the service."""
        return AsyncRemoteJobs(self._ask)

    async def klines(
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
        return await self.rows(
            "klines", symbol, start, end, market=market, interval=interval, as_of=as_of
        )

    async def rows(
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

        Raises InvalidError for an unknown data set, market or interval, NotFoundError for a symbol
        of which nothing is stored.
        """
        return await self._frame(of_rows(dataset, symbol, start, end, market, interval, as_of))

    async def indicators(
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
        return await self._frame(
            with_indicators(symbol, interval, names, start, end, market, warmup, as_of)
        )

    async def select_indicators(
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
        return await self._result(
            with_indicators(symbol, interval, names, start, end, market, warmup, as_of)
        )

    async def resample(
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
        return await self._frame(
            computed(
                symbol, interval, start, end, market, source, offset, partial, empty, as_of
            )
        )  # fmt: skip

    async def select(
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
        """The same as `rows`, as the local lake's `select` gives it."""
        return await self._result(of_rows(dataset, symbol, start, end, market, interval, as_of))

    async def batches(
        self,
        dataset: str,
        symbol: str,
        start: When = None,
        end: When = None,
        *,
        market: str = "spot",
        interval: str | None = None,
        as_of: AsOf = None,
        rows: int = BATCH_ROWS,
    ) -> AsyncIterator[pa.RecordBatch]:
        """The same as `rows`, in batches of at most so many; memory holds one page."""
        if rows < 1:
            raise InvalidError(f"a batch cannot have {rows} rows", "1 or more")
        asked = of_rows(dataset, symbol, start, end, market, interval, as_of)
        walk = self._walk(asked)
        while (reply := await walk.step()) is not None:
            with contextlib.closing(reply.body):
                for batch in reply.batches(rows):
                    yield batch

    async def sql(
        self, query: str, parameters: object = None, *, as_of: AsOf = None
    ) -> RemoteResult:
        """Ask one SELECT over `bronze`, `silver` and `gold`; what it answers is read already."""
        return RemoteResult.held(await self._ask(questions.sql(query, parameters, as_of)))

    async def _frame(self, asked: Asked) -> LakeFrame:
        result = await self._result(asked)
        return LakeFrame.held(frame_of(result.arrow()), asked.meta(self, result.snapshots))

    async def _result(self, asked: Asked) -> RemoteResult:
        walk = self._walk(asked)
        found: list[pa.RecordBatch] = []
        schema: pa.Schema | None = None
        while (reply := await walk.step()) is not None:
            with contextlib.closing(reply.body):
                schema = schema or reply.schema
                found += reply.batches(BATCH_ROWS)
        assert schema is not None
        assert walk.versions is not None
        return RemoteResult.of(pa.Table.from_batches(found, schema), walk.versions)

    def _walk(self, asked: Asked) -> Walk:
        page_rows = self._page_rows if asked.paged else None
        return Walk(self._transport, asked.question, page_rows=page_rows)

    async def _ask(self, question: Question) -> Reply:
        return await self._transport.ask(question)
