"""Books of a capture, and their best levels as rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import cast

import numpy as np
import polars as pl

from lakehouse_ray.kernels.order_book import Change, Level, OrderBook
from lakehouse_ray.model.venue import Market
from lakehouse_ray.silver.stream_series import SeriesWork, times_of
from lakehouse_ray.sources.binance.streams.events import Depth, Snapshot

# Changes of a book that waits for its snapshot; the oldest go first.
_PENDING_MAX = 5_000

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

    def __init__(self, market: Market, levels: int, every_us: int) -> None:
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
        book = self._books.setdefault(symbol, OrderBook(_PENDING_MAX))
        rows: list[tuple[object, ...]] = []
        if work.anew:
            book.lose()
            self.lost += 1
        # A change that came late is in no book: the one that was joined without it is gone.
        changes = _Changes(work, self._every_us)
        start = max(0, changes.count - _PENDING_MAX) if book.needs_snapshot else 0
        begun = start
        while start < changes.count:
            if start > begun and changes.new_period(start):
                rows += self._sample(symbol, book, changes, start - 1)
            # What waits is kept change by change: a snapshot may be of a moment between any two.
            end = start + 1 if book.needs_snapshot else changes.end_of_run(start)
            if not book.apply(changes.between(start, end)):
                self.lost += 1
            start = end
        for snapshot in snapshots:
            book.take_snapshot(snapshot.lastUpdateId, snapshot.bids, snapshot.asks)
        if changes.count:
            rows += self._sample(symbol, book, changes, changes.count - 1)
        return rows

    def frame(self, rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
        """Rows of `follow` as rows of the data set, without its source columns."""
        frame = pl.DataFrame(list(rows), schema=_SCHEMA, orient="row")
        return frame.with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))

    def _sample(
        self, symbol: str, book: OrderBook, changes: _Changes, place: int
    ) -> list[tuple[object, ...]]:
        """The top after a change, once in a period."""
        period, last = changes.periods[place], changes.last[place]
        if book.last is None or book.last != last or self._sampled.get(symbol) == period:
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
                self._market, symbol, changes.times[place], last, level + 1,
                *(bids[level] if level < len(bids) else none),
                *(asks[level] if level < len(asks) else none),
            )
            for level in range(max(len(bids), len(asks)))
        ]  # fmt: skip


class _Changes:
    """A segment's changes of one book, in order.

    times: µs. periods: In which each falls. last: The last update in each.
    """

    def __init__(self, work: SeriesWork, every_us: int) -> None:
        given = work.given[: len(work.given) - work.late]
        events = given.events
        self.count = events.height
        times = times_of("depth", events)
        before, last = events["before"].to_numpy(), events["last"].to_numpy()
        periods = times // every_us
        # Changes that follow one another within a period are as good as one that holds them all.
        apart = (before[1:] > last[:-1]) | (periods[1:] != periods[:-1])
        self._ends = [*(np.flatnonzero(apart) + 1).tolist(), self.count]
        self.times: list[int] = times.tolist()
        self.periods: list[int] = periods.tolist()
        self._before: list[int] = before.tolist()
        self.last: list[int] = last.tolist()
        self._events = cast("list[Depth]", given.changes.tolist())

    def new_period(self, place: int) -> bool:
        """Whether a change falls into another period than the one before it."""
        return self.periods[place] != self.periods[place - 1]

    def end_of_run(self, start: int) -> int:
        """Up to where changes from one on may be taken as one."""
        return self._ends[bisect_right(self._ends, start)]

    def between(self, start: int, end: int) -> Change:
        events = self._events[start:end]
        return Change(
            self._before[start],
            self.last[end - 1],
            [level for event in events for level in event.b],
            [level for event in events for level in event.a],
        )
