"""The order book behind recorded changes: what the depth route and partial streams tell."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from typing import Any

from lakehouse_ray.testing.exchange.streams.events import Event
from lakehouse_ray.testing.exchange.streams.names import StreamName
from lakehouse_ray.testing.exchange.streams.recorded import PIECE, Recording, Snapshot

_PERIOD_US = {"spot": 1_000_000, "um": 250_000, "cm": 250_000}
Levels = list[list[str]]


class Book:
    """A book from an answer of the depth route and the changes after it.

    Prices and quantities are texts as the exchange wrote them; a price's text is the same in every
    message of a symbol.
    """

    def __init__(self, snapshot: bytes) -> None:
        self._told: dict[str, Any] = json.loads(snapshot)
        self.update_id = int(self._told["lastUpdateId"])
        # By price as a number, which a text of a symbol's own decimals gives exactly.
        self._bids = {float(level[0]): level for level in self._told["bids"]}
        self._asks = {float(level[0]): level for level in self._told["asks"]}

    @property
    def size(self) -> int:
        """Levels of the longer side."""
        return max(len(self._bids), len(self._asks))

    def apply(self, change: dict[str, Any]) -> bool:
        """Whether the change was a later one than all before, and so was applied."""
        if change["u"] <= self.update_id:
            return False
        for side, levels in ((self._bids, change["b"]), (self._asks, change["a"])):
            for level in levels:
                if float(level[1]):
                    side[float(level[0])] = level
                else:
                    side.pop(float(level[0]), None)
        self.update_id = change["u"]
        for name in ("E", "T"):
            if name in self._told:
                self._told[name] = change[name]
        return True

    def top(self, levels: int) -> tuple[Levels, Levels]:
        """Bids from the highest and asks from the lowest, at most so many of each."""
        bids, asks = nlargest(levels, self._bids), nsmallest(levels, self._asks)
        return [self._bids[price] for price in bids], [self._asks[price] for price in asks]

    def answer(self, levels: int) -> bytes:
        """As the depth route would answer it."""
        bids, asks = self.top(levels)
        told = {**self._told, "lastUpdateId": self.update_id, "bids": bids, "asks": asks}
        return _json(told)


@dataclass
class _Kept:
    """A book, and how many of the changes it has seen."""

    book: Book
    changes: Sequence[Event]
    seen: int = 0
    changed: bool = False

    def go_to(self, now_us: int) -> None:
        while self.seen < len(self.changes) and self.changes[self.seen].due_us <= now_us:
            self.changed |= self.book.apply(json.loads(self.changes[self.seen].body))
            self.seen += 1


class RecordedBooks:
    """Books of every symbol of which an answer was recorded. A Source of partial books.

    A book knows the levels that the answer had and those that changed since: below them it is as
    blind as any client's.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._snapshots: dict[tuple[str, str], Snapshot] = {}
        for snapshot in recording.snapshots:
            self._snapshots.setdefault((snapshot.market, snapshot.symbol), snapshot)
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._lock = threading.Lock()

    def answer(self, market: str, symbol: str, levels: int, now_us: int) -> bytes | None:
        """The book at a moment, as the depth route answers it; None of symbols without one.

        As recorded until a later change was sent. Moments must not go back.
        """
        snapshot = self._snapshots.get((market, symbol))
        if snapshot is None:
            return None
        with self._lock:
            kept = self._kept.get((market, symbol))
            if kept is None:
                changes = self._recording.book_of(market, symbol)
                kept = self._kept[market, symbol] = _Kept(Book(snapshot.body), changes)
            kept.go_to(now_us)
            if not kept.changed and kept.book.size <= levels:
                return snapshot.body
            return kept.book.answer(levels)

    def events(self, name: StreamName, from_us: int) -> Iterator[Sequence[Event]] | None:
        if not name.levels or (name.market, name.symbol) not in self._snapshots:
            return None
        return _in_pieces(self._partial(name, from_us))

    def _partial(self, name: StreamName, from_us: int) -> Iterator[Event]:
        book = Book(self._snapshots[name.market, name.symbol].body)
        period_us = _PERIOD_US[name.market]
        if name.option.endswith("ms") and name.option[:-2].isdigit():
            period_us = int(name.option[:-2]) * 1000
        next_us, sent_id = 0, book.update_id
        first_id: int | None = None
        for event in self._recording.book_of(name.market, name.symbol):
            change = json.loads(event.body)
            if not book.apply(change):
                continue
            first_id = change["U"] if first_id is None else first_id
            if event.due_us < max(next_us, from_us):
                continue
            next_us = event.due_us + period_us
            yield Event(
                event.due_us, event.order, _json(_told(name, book, change, first_id, sent_id))
            )
            first_id, sent_id = None, book.update_id


def _told(
    name: StreamName, book: Book, change: dict[str, Any], first_id: int, sent_id: int
) -> dict[str, Any]:
    """A partial book. first_id, sent_id: The first change since the one before, and its last."""
    bids, asks = book.top(name.levels)
    if name.market == "spot":
        return {"lastUpdateId": book.update_id, "bids": bids, "asks": asks}
    return {**change, "U": first_id, "pu": sent_id, "b": bids, "a": asks}


def _in_pieces(events: Iterator[Event]) -> Iterator[Sequence[Event]]:
    piece: list[Event] = []
    for event in events:
        piece.append(event)
        if len(piece) == PIECE:
            yield piece
            piece = []
    if piece:
        yield piece


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
