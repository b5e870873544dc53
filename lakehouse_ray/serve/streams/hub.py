"""What all connections of a process share: courses, limits, measures, and the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import structlog

from lakehouse_ray.clock import Clock
from lakehouse_ray.serve.service import Service
from lakehouse_ray.serve.streams.courses import Courses
from lakehouse_ray.serve.streams.events import Series
from lakehouse_ray.serve.streams.names import Stream
from lakehouse_ray.serve.work import StoppableEngine, Workers

T = TypeVar("T")

_log = structlog.get_logger()

_END_S = 3.0
# Decimals are those of the last stored exchangeInfo: a new one is seen so much later.
_OPENED_FOR_S = 60.0
_OPENED_MAX = 20_000


@dataclass(frozen=True)
class StreamLimits:
    """connections_max: Of one process. streams_max: Of one connection.

    poll_s: Between two looks at a table. messages_per_s, message_bytes_max: From one client.
    send_timeout_s: A client that takes no byte for so long is given up.
    ping_every_s, pong_within_s: So is one that does not answer a ping. As of the exchange's spot market.
    """

    connections_max: int = 200
    streams_max: int = 1024
    poll_s: float = 0.25
    messages_per_s: int = 10
    message_bytes_max: int = 64 << 10
    send_timeout_s: float = 60.0
    ping_every_s: float = 20.0
    pong_within_s: float = 60.0


class Told(Protocol):
    """Is told what connections do."""

    def event(self, kind: str) -> None:
        """One was sent. kind: Of its stream."""

    def closed(self, code: int) -> None: ...


class Silent:
    """Tells nobody."""

    def event(self, kind: str) -> None: ...

    def closed(self, code: int) -> None: ...


class Opened:
    """Streams that connections have opened lately, so that the next one need not ask the tables. For
    several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[Stream, bool], tuple[float, Series]] = {}

    def get(self, key: tuple[Stream, bool]) -> Series | None:
        """key: The stream, and whether its times are microseconds."""
        known = self._known.get(key)
        return known[1] if known is not None and known[0] > self._clock.monotonic_s() else None

    def update(self, found: Mapping[tuple[Stream, bool], Series]) -> None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            if len(self._known) > _OPENED_MAX:
                self._known = {k: one for k, one in self._known.items() if one[0] > now_s}
            if len(self._known) <= _OPENED_MAX:
                until_s = now_s + _OPENED_FOR_S
                self._known.update({key: (until_s, series) for key, series in found.items()})


class Hub:
    def __init__(self, service: Service, limits: StreamLimits, told: Told) -> None:
        self.service = service
        self.limits = limits
        self.told = told
        self.courses = Courses(service.source.find, limits.poll_s, self.work)
        # Apart from questions, which are not to wait for replays; who waits here waits for its turn.
        threads = max(service.limits.statements // 2, 1)
        self._workers = Workers(replace(service.limits, statements=threads))
        self._turn = asyncio.Semaphore(threads)
        self.opened = Opened(service.clock)
        # What is too much to be held for all, each reads for itself: its database waits for its client.
        self.large = asyncio.Semaphore(threads)
        self.connections = 0
        self.ending = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def full(self) -> bool:
        return self.connections >= self.limits.connections_max

    async def work(self, work: Callable[[StoppableEngine], T]) -> T:
        """Do work in a thread. Raises DeadlineError, or what the work raises."""
        forever = asyncio.Event()

        async def gone() -> None:
            await forever.wait()

        async with self._turn:
            engine = self.service.engine()
            return await self._workers.run(engine, partial(work, engine), gone)

    @contextmanager
    def connected(self) -> Iterator[None]:
        self.connections += 1
        self._none.clear()
        try:
            yield
        finally:
            self.connections -= 1
            if not self.connections:
                self._none.set()

    async def end(self) -> None:
        """Close all connections as when a server goes away, and wait a little for them."""
        self.ending.set()
        try:
            async with asyncio.timeout(_END_S):
                await self._none.wait()
        except TimeoutError:
            _log.warning("websockets are still open", connections=self.connections)

    def close(self) -> None:
        self._workers.close()


Holds = Callable[[], bool]
