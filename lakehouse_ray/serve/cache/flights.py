"""Equal questions at the same time are worked on once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

from lakehouse_ray.serve.problems import GoneAwayError

T = TypeVar("T")

# Returns when nobody waits any more.
Gone = Callable[[], Awaitable[object]]


class _Flight(Generic[T]):
    def __init__(self, work: Callable[[Gone], Awaitable[T]]) -> None:
        self.waiting = 0
        self.deserted = asyncio.Event()
        self.job = asyncio.ensure_future(work(self.deserted.wait))


class Flights(Generic[T]):
    """Work in progress, by its key. For one event loop.

    joined: Questions that were answered by the work of another one.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Flight[T]] = {}
        self.joined = 0

    async def join(self, key: str, work: Callable[[Gone], Awaitable[T]], gone: Gone) -> T:
        """Wait for the work under a key; begin it if nobody has.

        work: Given what returns when all who wait for it have gone. gone: Returns when this one has.

        Raises GoneAwayError, or what the work raises.
        """
        flight = self._open.get(key)
        if flight is None:
            flight = self._open[key] = _Flight(work)
            flight.job.add_done_callback(partial(self._landed, key, flight))
        else:
            self.joined += 1
        flight.waiting += 1
        watch = asyncio.ensure_future(gone())
        try:
            both: set[asyncio.Future[object]] = {flight.job, watch}  # type: ignore[arg-type]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if flight.job.done():
                return flight.job.result()
            raise GoneAwayError("the client has hung up")
        finally:
            watch.cancel()
            flight.waiting -= 1
            if not flight.waiting and not flight.job.done():
                self._close(key, flight)  # what is about to be stopped is for nobody to join
                flight.deserted.set()

    def _landed(self, key: str, flight: _Flight[T], job: asyncio.Future[T]) -> None:
        self._close(key, flight)
        if not job.cancelled():
            job.exception()  # looked at, so that nobody complains that it was not

    def _close(self, key: str, flight: _Flight[T]) -> None:
        if self._open.get(key) is flight:
            del self._open[key]
