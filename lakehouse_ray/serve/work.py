"""Questions at work: so many at once, each stopped at its deadline or when its client hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import duckdb

from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.problems import BusyError, DeadlineError, GoneAwayError

T = TypeVar("T")

# An interrupt that comes before a statement has begun is lost, so it is repeated.
_INTERRUPT_EVERY_S = 0.05
# Time a statement has to hear that it is to end. Its thread is taken again when it does.
_PATIENCE_S = 2.0


class Interruptible(Protocol):
    """What runs, and can be told to end."""

    def interrupt(self) -> None: ...


class Databases(Protocol):
    """Opens empty databases, at less cost than each by itself."""

    def open(self) -> duckdb.DuckDBPyConnection: ...

    def release(self, connection: duckdb.DuckDBPyConnection) -> None: ...


@dataclass(frozen=True)
class StoppableEngine(Engine):
    """An engine for one question, whose statements can be stopped from elsewhere.

    databases: None: each is one of its own.
    """

    databases: Databases | None = None
    memory_bytes: int = 1 << 30
    _open: list[Interruptible] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: list[LakehouseError] = field(default_factory=list)

    def connect(self) -> duckdb.DuckDBPyConnection:
        self.check()
        connection = super().connect()
        connection.execute(f"SET memory_limit='{self.memory_bytes}B'")
        self.watch(connection)
        return connection

    def open(self) -> duckdb.DuckDBPyConnection:
        if self.databases is None:
            return self.connect()
        self.check()
        connection = self.databases.open()
        self.watch(connection)
        return connection

    def release(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self.databases is None:
            connection.close()
        else:
            self.databases.release(connection)

    @property
    def text_views(self) -> bool:
        return self.databases is None

    def watch(self, running: Interruptible) -> None:
        """Interrupt this too when the question is stopped."""
        with self._lock:
            self._open.append(running)
        if self._stopped:
            running.interrupt()

    def check(self) -> None:
        """Raise what the question was stopped for, if it was."""
        if self._stopped:
            raise self._stopped[0]

    def stop(self, why: LakehouseError) -> None:
        """Interrupt what runs, and let nothing more begin. To be repeated until it has ended."""
        if not self._stopped:
            self._stopped.append(why)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(duckdb.Error):  # closed meanwhile
                    connection.interrupt()


def _tame(work: Callable[[], T]) -> T:
    """Do work. A panic of a library in Rust is no Exception, and would pass by what tells of errors."""
    try:
        return work()
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


class Workers:
    """Threads that answer questions; a bounded number waits for them.

    Not for several event loops.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.statements, thread_name_prefix="question")
        # Questions that were given to the pool and have not ended, however long ago their client
        # was told so.
        self._running = 0

    @property
    def in_flight(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        """Of these, how many no thread works on yet."""
        return max(self._running - self._limits.statements, 0)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(
        self,
        engine: StoppableEngine,
        work: Callable[[], T],
        gone: Callable[[], Awaitable[object]],
    ) -> T:
        """Do work in a thread.

        engine: What the work runs its statements with.
        gone: Returns when the client has hung up.

        Raises BusyError where too many wait, DeadlineError, GoneAwayError, or what the work raises.
        """
        limits = self._limits
        if self._running >= limits.statements + limits.waiting_max:
            raise BusyError(
                f"{limits.statements} questions are worked on and {limits.waiting_max} wait", 1.0
            )
        self._running += 1
        future = self._pool.submit(_tame, work)
        job = asyncio.wrap_future(future)
        job.add_done_callback(self._ended)
        watch = asyncio.ensure_future(gone())
        why: LakehouseError = GoneAwayError("the client has hung up")
        try:
            both: set[asyncio.Future[Any]] = {job, watch}
            await asyncio.wait(
                both,
                timeout=limits.statement_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not job.done() and not watch.done():
                why = DeadlineError(
                    f"it took longer than the {limits.statement_timeout_s:g} s it may"
                )
            if not job.done():
                if future.cancel():  # it had not begun
                    raise why
                await self._end(engine, job, why)
            return job.result()
        finally:
            watch.cancel()
            if not job.done():  # the request was cancelled, or the work hears nothing
                engine.stop(why)
                future.cancel()

    async def _end(
        self, engine: StoppableEngine, job: asyncio.Future[T], why: LakehouseError
    ) -> None:
        """Stop a job. Raises `why`, whatever the job says meanwhile."""
        for _ in range(round(_PATIENCE_S / _INTERRUPT_EVERY_S)):
            engine.stop(why)
            done, _pending = await asyncio.wait({job}, timeout=_INTERRUPT_EVERY_S)
            if done:
                job.exception()
                break
        raise why

    def _ended(self, job: asyncio.Future[T]) -> None:
        self._running -= 1
        if not job.cancelled():
            job.exception()  # looked at, so that nobody complains that it was not
