"""What all connections of a process share: watchers, limits, measures, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import structlog

from lakehouse_ray.serve.service import Service
from lakehouse_ray.serve.streams.courses import Courses
from lakehouse_ray.serve.streams.watchers import Watchers
from lakehouse_ray.serve.work import StoppableEngine, Workers

T = TypeVar("T")

_log = structlog.get_logger()

_END_S = 3.0


@dataclass(frozen=True)
class StreamLimits:
    """connections_max: Of one process. streams_max: Of one connection.

    poll_s: Between two looks at a table. messages_per_s, message_bytes_max: From one client.
    send_timeout_s: A client that takes no byte for so long is given up.
    """

    connections_max: int = 200
    streams_max: int = 1024
    poll_s: float = 1.0
    messages_per_s: int = 10
    message_bytes_max: int = 64 << 10
    send_timeout_s: float = 60.0


class Told(Protocol):
    """Is told what connections do."""

    def event(self, kind: str) -> None:
        """One was sent. kind: Of its stream."""

    def closed(self, code: int) -> None: ...


class Silent:
    """Tells nobody."""

    def event(self, kind: str) -> None: ...

    def closed(self, code: int) -> None: ...


class Hub:
    def __init__(self, service: Service, limits: StreamLimits, told: Told) -> None:
        self.service = service
        self.limits = limits
        self.told = told
        self.watchers = Watchers(service.source.find, limits.poll_s)
        self.courses = Courses(service.source.find, limits.poll_s, self.work)
        # Apart from questions, which are not to wait for replays; who waits here waits for its turn.
        threads = max(service.limits.statements // 2, 1)
        self._workers = Workers(replace(service.limits, statements=threads))
        self._turn = asyncio.Semaphore(threads)
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
