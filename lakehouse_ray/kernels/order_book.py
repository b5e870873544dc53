"""A book of orders from a snapshot and the changes since: correct, or known not to be.

A snapshot says which change it has last. Changes before it are in it; the first after it has to
begin there or before, each further one where the one before ended. Where that breaks the book is
gone and asks for a new snapshot, since a level that was missed would stay wrong for good.

A snapshot has so many levels of a side. Those behind are known only as far as they have changed since;
where the price has gone so far that they are among the best, the book is not known either.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

Level = tuple[float, float]


@dataclass(frozen=True)
class Change:
    """Levels that changed: price and the quantity that is there now, 0 for none.

    before, last: It holds the changes numbered `(before, last]`.
    """

    before: int
    last: int
    bids: Iterable[Level]
    asks: Iterable[Level]


class OrderBook:
    """One symbol's book.

    pending_max: Changes that are kept while there is no snapshot; the oldest go first.
    snapshot_levels: Where a snapshot has so many levels of a side or more, there may be others behind.
    """

    def __init__(self, pending_max: int = 5_000, snapshot_levels: int = 1_000) -> None:
        self._bids: dict[float, float] = {}
        self._asks: dict[float, float] = {}
        self._snapshot_levels = snapshot_levels
        # Up to which price each side is known.
        self._bids_to, self._asks_to = -math.inf, math.inf
        self._pending: deque[Change] = deque(maxlen=pending_max)
        # The last change in the book; None: there is no book.
        self.last: int | None = None

    @property
    def needs_snapshot(self) -> bool:
        return self.last is None

    def take_snapshot(self, last: int, bids: Iterable[Level], asks: Iterable[Level]) -> bool:
        """Begin with a snapshot that has the changes up to `last`.

        False where it is too old to be joined with the changes seen since: another is needed.
        """
        if self.last is not None and last < self.last:
            return True
        self._bids = {price: quantity for price, quantity in bids if quantity}
        self._asks = {price: quantity for price, quantity in asks if quantity}
        self._bids_to = min(self._bids) if len(self._bids) >= self._snapshot_levels else -math.inf
        self._asks_to = max(self._asks) if len(self._asks) >= self._snapshot_levels else math.inf
        self.last = last
        pending, self._pending = self._pending, deque(maxlen=self._pending.maxlen)
        # All of them: after a loss the rest waits for the next snapshot.
        whole = [self.apply(change) for change in pending]
        return all(whole)

    def apply(self, change: Change) -> bool:
        """Apply a change, or keep it for a snapshot to come. False: the book was lost by it."""
        if self.last is None:
            self._pending.append(change)
            return True
        if change.last <= self.last:
            return True
        if change.before > self.last:
            self.lose()
            self._pending.append(change)
            return False
        _set(self._bids, change.bids)
        _set(self._asks, change.asks)
        self.last = change.last
        return True

    def lose(self) -> None:
        """Forget the book: changes are known to be missing."""
        self._bids, self._asks, self.last = {}, {}, None
        self._pending.clear()

    def top(self, levels: int) -> tuple[list[Level], list[Level]] | None:
        """Return the best bids and asks, the best first. Costs the size of the book.

        None where they are not all known: another snapshot is needed.
        """
        # Prices alone: pairs cost three times as much to compare.
        bids = [(price, self._bids[price]) for price in heapq.nlargest(levels, self._bids)]
        asks = [(price, self._asks[price]) for price in heapq.nsmallest(levels, self._asks)]
        worst_bid = bids[-1][0] if len(bids) == levels else -math.inf
        worst_ask = asks[-1][0] if len(asks) == levels else math.inf
        if worst_bid < self._bids_to or worst_ask > self._asks_to:
            return None
        return bids, asks


def _set(side: dict[float, float], levels: Iterable[Level]) -> None:
    given = levels if isinstance(levels, list) else list(levels)
    side.update(given)
    for price, quantity in given:
        if not quantity and not side.get(price, 1.0):
            del side[price]
