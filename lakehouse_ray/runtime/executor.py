"""Where work runs: one contract, and its implementation in this process.

A stage hands plain functions to an `Executor` and never sees Ray. `lakehouse_ray.runtime.pool` has
the implementation on Ray; `lakehouse_ray.testing.executor_suite` holds both to this contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

C = TypeVar("C")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class PoolSpec:
    """The shape of a pool of workers.

    actors: Worker processes.
    cpus: CPUs that each worker reserves.
    memory_bytes: Memory that each worker reserves.
    depth: Calls of `work` that run at once in one worker (so that the download of the next unit
        runs beside the work on this one). `work` must bear that: components lock what needs it.
    attempts_max: Times a task is tried before its error is final. Only the loss of a worker or of
        its node and a missed deadline count as an attempt: an error raised by `work` is final at
        once, since `work` retries what it can itself.
    deadline_s: Time one call of `work` may take before its worker is taken for lost.
    """

    actors: int
    cpus: float
    memory_bytes: int
    depth: int = 2
    attempts_max: int = 3
    deadline_s: float = 1800.0


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """One finished task: its result, or the error that ended it.

    attempts: How often the task was started.
    """

    task: T
    result: R | None
    error: Exception | None
    attempts: int


class Pool(Protocol[T, R]):
    """Workers that wait for tasks. Made by `Executor.pool`; may be asked any number of times."""

    def map_unordered(self, tasks: Iterable[T]) -> Iterator[Done[T, R]]:
        """Yield one `Done` per task, in the order they finish.

        `tasks` is read lazily and at most `actors * depth` are out at once, so memory stays bounded
        however long the list is. A task that raises is yielded with its error and never stops its
        siblings. A task whose worker or node dies is run again on a living worker, so `work` must
        be safe to repeat. Closing the iterator early gives up what is still running.
        """


class Executor(Protocol):
    """Makes pools."""

    def pool(
        self, setup: Callable[[], C], work: Callable[[C, T], R], spec: PoolSpec
    ) -> AbstractContextManager[Pool[T, R]]:
        """Start workers that call `setup` once each and then `work(component, task)`.

        `setup`, `work`, tasks and results must pickle; the component need not. Leaving the context
        ends the workers. Raises UnavailableError where no worker can be started in time (the
        message says what the cluster lacks).
        """
