"""Whether what arrives is all that was sent: duplicates dropped, order restored, holes told at once.

Every message of a numbered stream covers a range of numbers `(before, last]`: a trade its own, a
change of the book those since the message before it, a bar its place on the grid. A series is whole
as long as each message begins where the one before ended. One that begins later waits for what is
missing, at most so long; then what is missing is a gap, and the series goes on behind it.

Time is that of the messages themselves (when they were received), so that the same messages give the
same result whenever they are looked at.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

# Gaps that are remembered so that a message that is late is known from one that comes twice.
GAPS_MAX = 256


@dataclass(frozen=True)
class Gap:
    """Numbers `first` to `last`, both included, that did not come. found_us: When that was clear."""

    first: int
    last: int
    found_us: int


@dataclass
class Released(Generic[T]):
    """What a look at messages gives out.

    items: In order of their numbers, each once.
    late: Of gaps that were told before: each once, too, without order.
    gaps: Told now, each number in one alone.
    duplicates: Messages that were dropped.
    """

    items: list[T] = field(default_factory=list)
    late: list[T] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    duplicates: int = 0


class Continuity(Generic[T]):
    """One numbered series. Not safe for several threads.

    last: Up to where the series was seen before; None: it begins with the smallest number of what
        comes within `wait_us` of the first message.
    wait_us: How long a message may wait for those before it. held_max: How many may wait.
    gaps: First and last of those told before, in which late messages may still arrive.
    """

    def __init__(
        self,
        last: int | None,
        *,
        wait_us: int,
        held_max: int = 10_000,
        gaps: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.last = last
        self._wait_us = wait_us
        self._held_max = held_max
        # By where they begin; with where they end and when they were received.
        self._held: dict[int, tuple[int, int, T]] = {}
        # Where they begin, as a heap, and in the order in which they came: one that is far ahead
        # must not cost each that follows.
        self._order: list[int] = []
        self._came: deque[tuple[int, int]] = deque()
        self._gaps: deque[tuple[int, int]] = deque(gaps, maxlen=GAPS_MAX)

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """First and last number of what is still missing, of the latest gaps."""
        return list(self._gaps)

    def feed(
        self,
        before: npt.NDArray[np.int64],
        last: npt.NDArray[np.int64],
        items: Sequence[T],
        times_us: npt.NDArray[np.int64],
    ) -> Released[T]:
        """Take messages as they were received.

        before, last: What each covers. times_us: When each came; never going back.
        Those that follow one another are taken together, whatever their number.
        """
        out: Released[T] = Released()
        count = len(last)
        follows = (before[1:] <= last[:-1]) & (last[1:] > last[:-1])
        # Where runs of messages that follow one another end; the last one at the end.
        ends = [*(np.flatnonzero(~follows) + 1).tolist(), count]
        run = at = 0
        while at < count:
            if ends[run] <= at:
                run += 1
                continue
            first, here = int(before[at]), int(last[at])
            if self.last is not None and not self._held and first <= self.last < here:
                out.items += items[at : ends[run]]
                at = ends[run]
                self.last = int(last[at - 1])
            else:
                self._take(first, here, items[at], int(times_us[at]), out)
                at += 1
        return out

    def pass_time(self, now_us: int) -> Released[T]:
        """Give up what has waited long enough."""
        out: Released[T] = Released()
        self._give_up(now_us, out)
        return out

    def give_back(self) -> list[T]:
        """Take out the messages that still wait, in the order in which they came.

        Fed again with their times they wait as if nothing had been.
        """
        held = sorted(self._held.values(), key=lambda entry: entry[1])
        self._held.clear()
        self._order.clear()
        self._came.clear()
        return [item for _, _, item in held]

    def _take(self, before: int, last: int, item: T, now_us: int, out: Released[T]) -> None:
        if self.last is not None and last <= self.last:
            self._take_old(last, item, out)
        elif self.last is not None and before <= self.last:
            self.last = last
            out.items.append(item)
            if self._held:
                self._drain(out)
        elif before in self._held and self._held[before][0] >= last:
            out.duplicates += 1
        elif before in self._held:
            # Two connections cut the same differently: the one that reaches further has it all.
            out.duplicates += 1
            self._held[before] = last, self._held[before][1], item
        else:
            self._held[before] = last, now_us, item
            heapq.heappush(self._order, before)
            self._came.append((now_us, before))
        if self._held:
            self._give_up(now_us, out)

    def _take_old(self, last: int, item: T, out: Released[T]) -> None:
        """What is behind the series already: of a gap that was told, or a duplicate."""
        for index, (first, end) in enumerate(self._gaps):
            if first <= last <= end:
                del self._gaps[index]
                self._gaps.extend(
                    part for part in ((first, last - 1), (last + 1, end)) if part[0] <= part[1]
                )
                out.late.append(item)
                return
        out.duplicates += 1

    def _drain(self, out: Released[T]) -> None:
        """Give out what waited and has what it waited for."""
        assert self.last is not None
        while self._order and self._order[0] <= self.last:
            last, _, item = self._held.pop(heapq.heappop(self._order))
            if last <= self.last:
                out.duplicates += 1
                continue
            self.last = last
            out.items.append(item)

    def _give_up(self, now_us: int, out: Released[T]) -> None:
        while self._held:
            while self._came[0][1] not in self._held:
                self._came.popleft()
            waiting_since_us = self._came[0][0]
            if now_us - waiting_since_us < self._wait_us and len(self._held) <= self._held_max:
                return
            next_before = self._order[0]
            if self.last is not None and next_before > self.last:
                out.gaps.append(Gap(self.last + 1, next_before, now_us))
                self._gaps.append((self.last + 1, next_before))
            self.last = next_before
            self._drain(out)
