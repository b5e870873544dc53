"""Sends every event at its moment, by the exchange's clock, to whoever listens to its stream."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Protocol

from lakehouse_ray.testing.exchange.replay_clock import ReplayClock
from lakehouse_ray.testing.exchange.streams.events import Event, Source
from lakehouse_ray.testing.exchange.streams.frames import envelope, text_frame
from lakehouse_ray.testing.exchange.streams.names import StreamName

# Events and other work between two looks at the sockets.
BATCH = 500
_IDLE_US = 3_600_000_000
_NEVER: tuple[Event, ...] = ()


class Listener(Protocol):
    """Who gets events. combined: Whether each comes in an envelope with its stream's name."""

    combined: bool

    def take(self, name: StreamName, event: Event, frame: bytes) -> None: ...

    def flush(self) -> None:
        """Send what was taken."""

    async def caught_up(self) -> None:
        """Return once little of what was sent still waits; end the connection if it never does."""


class Timer:
    """Work that waits for its moment."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work

    def cancel(self) -> None:
        self._work = None

    def run(self) -> None:
        if self._work is not None:
            self._work()


class _Channel:
    """A stream that somebody listens to. It begins at the moment at which the first one does.

    The piece after the one that is played is read meanwhile.
    """

    __slots__ = ("_coming", "_pieces", "_workers", "at", "listeners", "name", "piece")

    def __init__(
        self, name: StreamName, pieces: Iterator[Sequence[Event]], workers: Executor
    ) -> None:
        self.name = name
        self.listeners: list[Listener] = []
        self.piece: Sequence[Event] = _NEVER
        self.at = 0
        self._pieces = pieces
        self._workers = workers
        self._coming = workers.submit(next, pieces, _NEVER)

    async def turn_page(self) -> bool:
        """Go on with the next piece, once it was read. Whether there is one."""
        self.piece, self.at = await asyncio.wrap_future(self._coming), 0
        if self.piece:
            self._coming = self._workers.submit(next, self._pieces, _NEVER)
        return bool(self.piece)

    def send(self, event: Event) -> None:
        plain = combined = b""
        for listener in self.listeners:
            # Encoded once, however many there are.
            if listener.combined:
                combined = combined or text_frame(
                    event.combined or envelope(self.name.text, event.body)
                )
                listener.take(self.name, event, combined)
            else:
                plain = plain or text_frame(event.body)
                listener.take(self.name, event, plain)


_Entry = tuple[int, int, int, "_Channel | Timer"]


class Player:
    """All streams of an exchange that somebody listens to, merged by time.

    It waits for listeners that are behind, so that nothing grows without bound; the clock does not.
    Everything but the reading of sources happens in one event loop.
    """

    def __init__(self, clock: ReplayClock, sources: Sequence[Source], workers: Executor) -> None:
        self._clock = clock
        self._sources = sources
        self._workers = workers
        self._channels: dict[StreamName, _Channel] = {}
        self._heap: list[_Entry] = []
        self._number = itertools.count()
        self._woken = asyncio.Event()
        self.listeners: set[Listener] = set()
        self.sent = 0

    def listen(self, name: StreamName, listener: Listener) -> None:
        """Give the listener what the stream sends from now on; nothing where no source has it."""
        channel = self._channels.get(name)
        if channel is None:
            now_us = self._clock.now_us()
            pieces = itertools.chain.from_iterable(_lazily(self._sources, name, now_us))
            channel = self._channels[name] = _Channel(name, pieces, self._workers)
            self._push(now_us, 0, channel)
        if listener not in channel.listeners:
            channel.listeners.append(listener)

    def leave(self, name: StreamName, listener: Listener) -> None:
        channel = self._channels.get(name)
        if channel is None or listener not in channel.listeners:
            return
        channel.listeners.remove(listener)
        if not channel.listeners:
            del self._channels[name]

    def at(self, moment_us: int, work: Callable[[], None]) -> Timer:
        """Do something at a moment; at once where it is over."""
        timer = Timer(work)
        self._push(moment_us, -1, timer)
        return timer

    async def run(self) -> None:
        """Play for ever."""
        while True:
            self._woken.clear()
            played = await self._play_due()
            for listener in tuple(self.listeners):
                listener.flush()
            if played:
                await asyncio.sleep(0)
                for listener in tuple(self.listeners):
                    await listener.caught_up()
            else:
                next_us = self._heap[0][0] if self._heap else self._clock.now_us() + _IDLE_US
                await self._clock.wait_until(next_us, self._woken)

    async def _play_due(self) -> int:
        """Do what is due, up to a batch; how much that was."""
        heap, now_us = self._heap, self._clock.now_us()
        played = 0
        while heap and heap[0][0] <= now_us and played < BATCH:
            played += 1
            _, _, number, item = heap[0]
            if isinstance(item, Timer):
                heapq.heappop(heap)
                item.run()
            elif not item.listeners:
                heapq.heappop(heap)
            elif item.at < len(item.piece):
                item.send(item.piece[item.at])
                self.sent += 1
                item.at += 1
                if item.at < len(item.piece):
                    event = item.piece[item.at]
                    heapq.heapreplace(heap, (event.due_us, event.order, number, item))
                # Else it is due at once, to read on.
            else:
                heapq.heappop(heap)
                if await item.turn_page():
                    self._push(item.piece[0].due_us, item.piece[0].order, item)
        return played

    def _push(self, due_us: int, order: int, item: _Channel | Timer) -> None:
        heapq.heappush(self._heap, (due_us, order, next(self._number), item))
        self._woken.set()


def _lazily(
    sources: Iterable[Source], name: StreamName, from_us: int
) -> Iterator[Iterator[Sequence[Event]]]:
    """The pieces of the first source that has the stream, looked for when they are asked for."""
    for source in sources:
        pieces = source.events(name, from_us)
        if pieces is not None:
            yield pieces
            return
