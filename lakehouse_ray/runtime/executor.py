"""Where work runs: one contract, and its implementation in this process.

A stage hands plain functions to an `Executor` and never sees Ray. `lakehouse_ray.runtime.pool` has
the implementation on Ray; `lakehouse_ray.testing.executor_suite` holds both to this contract.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.telemetry.meter import observe, set_to
from lakehouse_ray.telemetry.metrics import POOL_IN_FLIGHT, TASK_SECONDS

C = TypeVar("C")
T = TypeVar("T")
R = TypeVar("R")

# How long a pool that is left waits for calls nobody reads any more, before it abandons their
# threads: long enough for a unit to finish its file, short enough for a person who pressed Ctrl-C.
LEAVE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class PoolSpec:
    """The shape of a pool of workers.

    actors: Worker processes.
    cpus: CPUs that each worker reserves.
    memory_bytes: Memory that each worker reserves; 0 reserves none.
    depth: Calls of `work` that run at once in one worker (so that the download of the next unit
        runs beside the work on this one). `work` must bear that: components lock what needs it.
    attempts_max: Times a task is tried before its error is final. Only the loss of a worker or of
        its node and a missed deadline count as an attempt: an error raised by `work` is final at
        once, since `work` retries what it can itself. From the second on, the last attempt runs
        alone on its worker, so that a task that kills workers takes no sibling with it.
    deadline_s: Time one call of `work` may take before its worker is taken for lost.
    actors_most: Workers the pool may grow to while it works; 0: it keeps its size. One that may grow
        shrinks too.
    tasks: How many there will be, about; of a longer list the pool does not know what waits.
    """

    actors: int
    cpus: float
    memory_bytes: int
    depth: int = 2
    attempts_max: int = 3
    deadline_s: float = 1800.0
    actors_most: int = 0
    tasks: int = 0

    def __post_init__(self) -> None:
        assert self.actors >= 1, "a pool has at least one worker"
        assert self.depth >= 1, "a worker runs at least one call at a time"
        assert self.attempts_max >= 1, "a task is tried at least once"
        assert self.cpus >= 0, "a worker cannot reserve less than no CPU"
        assert self.memory_bytes >= 0, "a worker cannot reserve less than no memory"

    @property
    def in_flight_max(self) -> int:
        return self.actors * self.depth


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """One finished task: its result, or the error that ended it.

    attempts: How often the task was started.
    """

    task: T
    result: R | None
    error: Exception | None
    attempts: int


@dataclass(frozen=True)
class PoolStats:
    """A pool at one moment, for a progress display.

    workers: Workers that take tasks now.
    workers_pending: Workers that were asked for and have not come up yet.
    in_flight: Calls that run now.
    requeued: Tasks given to another worker so far, because theirs was lost or late.
    workers_lost: Workers lost so far: died, gone with their node, or ended for a missed deadline.
    decisions: What the pool decided about its size while it worked, as sentences, the latest ones.
    """

    workers: int
    workers_pending: int
    in_flight: int
    requeued: int
    workers_lost: int
    decisions: tuple[str, ...] = ()


class Pool(Protocol[T, R]):
    """Workers that wait for tasks. Made by `Executor.pool`.

    May be asked any number of times, one after the other.
    """

    def map_unordered(self, tasks: Iterable[T]) -> Iterator[Done[T, R]]:
        """Yield one `Done` per task, in the order they finish.

        `tasks` is read lazily and at most `actors * depth` are out at once, so memory stays bounded
        however long the list is. A task that raises is yielded with its error and never stops its
        siblings. A task whose worker or node dies is run again on a living worker, so `work` must
        be safe to repeat. A task that has used up its attempts is yielded with UnavailableError.
        Closing the iterator early gives up what is still running: those calls may run to their end,
        unseen, and their results are dropped.

        Raises UnavailableError when every worker is lost and none can be started again; an error
        raised by `tasks` itself comes through as it is.
        """

    def stats(self) -> PoolStats:
        """Say how the pool is. May be called from another thread."""


class Executor(Protocol):
    """Makes pools."""

    def pool(
        self, setup: Callable[[], C], work: Callable[[C, T], R], spec: PoolSpec
    ) -> AbstractContextManager[Pool[T, R]]:
        """Start workers that call `setup` once each and then `work(component, task)`.

        `setup`, `work`, tasks and results must pickle; the component need not. Leaving the context
        ends the workers. Raises what `setup` raises, or UnavailableError where no worker can be
        started in time (the message says what the cluster lacks).
        """


class LocalExecutor:
    """Runs work in this process: one component, `actors * depth` threads around it.

    A thread cannot be killed. A call that misses its deadline is yielded with UnavailableError and
    not tried again; its thread goes on by itself, is replaced, and whatever it returns is dropped.
    A component that has a `close()` is closed when the pool ends.
    """

    @contextmanager
    def pool(
        self, setup: Callable[[], C], work: Callable[[C, T], R], spec: PoolSpec
    ) -> Iterator[LocalPool[T, R]]:
        component = setup()
        pool = LocalPool[T, R](lambda task: work(component, task), spec)
        try:
            yield pool
        finally:
            pool.leave(LEAVE_TIMEOUT_S)
            close = getattr(component, "close", None)
            if callable(close):
                close()


class LocalPool(Generic[T, R]):
    """The pool of `LocalExecutor`."""

    def __init__(self, call: Callable[[T], R], spec: PoolSpec) -> None:
        self._call = call
        self._spec = spec
        self._finished: queue.SimpleQueue[_Call[T, R]] = queue.SimpleQueue()
        self._idle: list[_Hand[T, R]] = []
        self._running: dict[_Call[T, R], _Hand[T, R]] = {}
        self._abandoned = 0

    def map_unordered(self, tasks: Iterable[T]) -> Iterator[Done[T, R]]:
        waiting = iter(tasks)
        mine: set[_Call[T, R]] = set()
        more = True
        while True:
            while more and len(self._running) < self._spec.in_flight_max:
                more = self._start_next(waiting, mine)
            if not mine and not more:
                return
            call = self._next_finished()
            if call in mine:  # else left over from an iterator that was closed early
                mine.remove(call)
                # Before the yield, so that no thread idles while the caller uses the result.
                more = more and self._start_next(waiting, mine)
                yield call.done(self._spec.deadline_s)

    def stats(self) -> PoolStats:
        return PoolStats(1, 0, len(self._running), 0, self._abandoned)

    def leave(self, timeout_s: float) -> None:
        """End the idle threads; wait for the running ones, together at most `timeout_s`."""
        until = time.monotonic() + timeout_s
        hands = [*self._idle, *self._running.values()]
        for hand in hands:
            hand.dismiss()
        for hand in hands:
            hand.join(max(0.0, until - time.monotonic()))

    def _start_next(self, waiting: Iterator[T], mine: set[_Call[T, R]]) -> bool:
        """Start the next task; False where there is none."""
        try:
            task = next(waiting)
        except StopIteration:
            return False
        call: _Call[T, R] = _Call(task)
        hand = self._idle.pop() if self._idle else _Hand(self._call, self._finished)
        self._running[call] = hand
        mine.add(call)
        hand.take(call)
        set_to(POOL_IN_FLIGHT, len(self._running))
        return True

    def _next_finished(self) -> _Call[T, R]:
        """Wait for a call that finished, or else for the first that misses its deadline."""
        while True:
            oldest = min(self._running, key=lambda call: call.started_s)
            left_s = oldest.started_s + self._spec.deadline_s - time.monotonic()
            try:
                call = self._finished.get(timeout=max(0.0, left_s))
            except queue.Empty:
                self._running.pop(oldest).dismiss()
                self._abandoned += 1
                return oldest
            hand = self._running.pop(call, None)
            if hand is not None:  # else it was yielded as late, and its thread is dismissed
                observe(TASK_SECONDS, time.monotonic() - call.started_s)
                set_to(POOL_IN_FLIGHT, len(self._running))
                self._idle.append(hand)
                return call


class _Call(Generic[T, R]):
    """One task on its way. Compared by identity."""

    def __init__(self, task: T) -> None:
        self.task = task
        self.started_s = time.monotonic()
        self.outcome: tuple[R | None, Exception | None] | None = None

    def done(self, deadline_s: float) -> Done[T, R]:
        result, error = self.outcome or (
            None,
            UnavailableError(f"no result within the deadline of {deadline_s:g} s"),
        )
        return Done(self.task, result, error, attempts=1)


class _Hand(Generic[T, R]):
    """A thread that runs calls one after the other. A daemon, so that a call that never ends does
    not keep the process from ending."""

    def __init__(self, call: Callable[[T], R], finished: queue.SimpleQueue[_Call[T, R]]) -> None:
        self._inbox: queue.SimpleQueue[_Call[T, R] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(call, self._inbox, finished), name="lakehouse-work", daemon=True
        )
        self._thread.start()

    def take(self, call: _Call[T, R]) -> None:
        self._inbox.put(call)

    def dismiss(self) -> None:
        """Let the thread end after what it does now."""
        self._inbox.put(None)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)


def _serve(
    run: Callable[[T], R],
    inbox: queue.SimpleQueue[_Call[T, R] | None],
    finished: queue.SimpleQueue[_Call[T, R]],
) -> None:
    while (call := inbox.get()) is not None:
        try:
            call.outcome = (run(call.task), None)
        except Exception as error:  # noqa: BLE001 - the border: reported as `Done.error`
            call.outcome = (None, error)
        except BaseException as error:  # noqa: BLE001 - SystemExit would lose the task silently
            call.outcome = (None, UnavailableError(f"the call ended with {error!r}"))
        finished.put(call)
