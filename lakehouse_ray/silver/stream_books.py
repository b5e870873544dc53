"""Books of a capture, and their best levels as rows."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from lakehouse_ray.kernels.order_book import Change, Level, OrderBook
from lakehouse_ray.model.venue import Market
from lakehouse_ray.silver.stream_series import SeriesWork, time_of
from lakehouse_ray.sources.binance.streams.events import Depth, Snapshot

_SCHEMA = pl.Schema(
    {
        "market": pl.String(),
        "symbol": pl.String(),
        "event_time": pl.Int64(),
        "update_id": pl.Int64(),
        "level": pl.Int32(),
        "bid_price": pl.Float64(),
        "bid_qty": pl.Float64(),
        "ask_price": pl.Float64(),
        "ask_qty": pl.Float64(),
    }
)


class Books:
    """The books of one market's symbols, in the memory of one worker.

    A book is lost with its worker, with a change that is missing, and where the price leaves what its
    snapshot knew; then it waits for another one.

    levels: That are kept in rows. every_us: How often, by the time of the changes.
    """

    def __init__(self, market: Market, *, levels: int, every_us: int) -> None:
        self._market = market
        self._levels = levels
        self._every_us = every_us
        self._books: dict[str, OrderBook] = {}
        self._sampled: dict[str, int] = {}
        self.lost = 0

    @property
    def waiting(self) -> list[str]:
        """Symbols whose book has no snapshot."""
        return [symbol for symbol, book in self._books.items() if book.needs_snapshot]

    def follow(
        self, symbol: str, work: SeriesWork, snapshots: Sequence[Snapshot]
    ) -> list[tuple[object, ...]]:
        """Take a segment's changes of a book and the snapshots that came meanwhile.

        Returns rows of its best levels, as `frame` takes them.
        """
        book = self._books.setdefault(symbol, OrderBook())
        rows: list[tuple[object, ...]] = []
        if work.anew:
            book.lose()
            self.lost += 1
        # A change that came late is in no book: the one that was joined without it is gone.
        changes = work.arrivals[: len(work.arrivals) - work.late]
        before: Depth | None = None
        for arrival in changes:
            event = arrival.event
            assert isinstance(event, Depth)
            if before is not None and self._period(event) != self._period(before):
                rows += self._sample(symbol, book, before)
            start = event.U - 1 if event.pu is None else event.pu
            if not book.apply(Change(start, event.u, event.b, event.a)):
                self.lost += 1
            before = event
        for snapshot in snapshots:
            book.take_snapshot(snapshot.lastUpdateId, snapshot.bids, snapshot.asks)
        if before is not None:
            rows += self._sample(symbol, book, before)
        return rows

    def frame(self, rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
        """Rows of `follow` as rows of the data set, without its source columns."""
        frame = pl.DataFrame(list(rows), schema=_SCHEMA, orient="row")
        return frame.with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))

    def _period(self, event: Depth) -> int:
        return time_of(event) // self._every_us

    def _sample(self, symbol: str, book: OrderBook, at: Depth) -> list[tuple[object, ...]]:
        """The top after a change, once in a period."""
        period = self._period(at)
        if book.last is None or book.last != at.u or self._sampled.get(symbol) == period:
            return []
        top = book.top(self._levels)
        if top is None:
            book.lose()
            self.lost += 1
            return []
        self._sampled[symbol] = period
        bids, asks = top
        none: Level = (None, None)  # type: ignore[assignment]
        return [
            (
                self._market, symbol, time_of(at), at.u, place + 1,
                *(bids[place] if place < len(bids) else none),
                *(asks[place] if place < len(asks) else none),
            )
            for place in range(max(len(bids), len(asks)))
        ]  # fmt: skip
