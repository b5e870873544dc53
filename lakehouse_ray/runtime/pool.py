"""The executor on Ray: a bounded pool of actors that outlives the loss of any of them.

Ray restarts nothing here. A restarted actor with nowhere to go leaves its calls hanging without an
error, so the pool replaces lost workers itself, requeues their tasks on living ones at once, and
goes on with fewer where the cluster has no room.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import (
    RayError,
    RayTaskError,
)

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.cluster import ClusterView, memory_that_fits
from lakehouse_ray.runtime.dispatch import Dispatch, GivenUp, Ticket
from lakehouse_ray.runtime.executor import Done, PoolSpec, PoolStats
from lakehouse_ray.runtime.outcome import Failure, attempt, portable
from lakehouse_ray.runtime.ray_metrics import measure_on_ray
from lakehouse_ray.runtime.session import view_cluster
from lakehouse_ray.telemetry.meter import add, observe, set_to
from lakehouse_ray.telemetry.metrics import (
    POOL_IN_FLIGHT,
    POOL_LOST,
    POOL_QUEUED,
    POOL_WORKERS,
    TASK_SECONDS,
)

C = TypeVar("C")
T = TypeVar("T")
R = TypeVar("R")

# A pool whose replacements fail so often in a row stops asking for more: the fault is then in what
# they start, not in the one that died.
START_FAILURES_MAX = 3

# How long the pool sleeps at most before it looks at deadlines and pending workers again.
HEARTBEAT_S = 1.0

# How long the first worker waits for the others: what it did meanwhile would only take the CPUs that
# they need to come up, on one machine; on many, the first may be minutes ahead of the last.
STRAGGLERS_S = 1.5


def default_worker_env(cpus: float) -> dict[str, str]:
    """Environment of workers that reserve `cpus` CPUs each, unless the caller chooses another.

    The malloc settings keep the large buffers of CSV and Parquet in the heap instead of giving
    each back to the kernel and faulting it in again: 7 % of the time of a monthly zip.
    """
    return {
        "POLARS_MAX_THREADS": str(max(1, int(cpus))),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }


class RayExecutor:
    """Runs work on actors of the Ray cluster this process is connected to (see `session.connect`).

    worker_env: Environment of the workers; `default_worker_env` where it is None.
    inherited_env: What Ray's workers have in their environment anyway (`RaySession.inherited_env`).
        What is in both costs nothing; anything more gives each worker a fresh process instead of
        a prestarted one, about 0.2 s each.
    start_timeout_s: How long a pool may be without any worker, at its start and later.
    autoscaling: The cluster may grow: wait for a worker that no node of today could hold.
    node_labels: What a node must have for a worker to run there.
    """

    def __init__(
        self,
        *,
        worker_env: Mapping[str, str] | None = None,
        inherited_env: Mapping[str, str] | None = None,
        start_timeout_s: float = 60.0,
        autoscaling: bool = False,
        node_labels: Mapping[str, str] | None = None,
    ) -> None:
        self._worker_env = worker_env
        self._inherited_env = dict(inherited_env or {})
        self._start_timeout_s = start_timeout_s
        self._autoscaling = autoscaling
        self._node_labels = dict(node_labels or {})

    @contextmanager
    def pool(
        self, setup: Callable[[], C], work: Callable[[C, T], R], spec: PoolSpec
    ) -> Iterator[RayPool[T, R]]:
        """Start workers; the pool is ready with the first, the others join when they are up."""
        view = view_cluster()
        options = self._options(spec, view)
        wanted = default_worker_env(spec.cpus) if self._worker_env is None else self._worker_env
        missing = {k: v for k, v in wanted.items() if self._inherited_env.get(k) != v}
        if missing:
            options["runtime_env"] = {"env_vars": missing}
        actor_class = _worker_class().options(**options)
        pool = RayPool[T, R](
            lambda: actor_class.remote(setup, work), spec, self._start_timeout_s, view
        )
        try:
            pool.begin()
            yield pool
        finally:
            pool.end()

    def _options(self, spec: PoolSpec, view: ClusterView) -> dict[str, Any]:
        memory_bytes = memory_that_fits(view, spec.cpus, spec.memory_bytes)
        if memory_bytes is None:
            if not self._autoscaling:
                raise UnavailableError(
                    f"no node can hold a worker of {spec.cpus:g} CPUs; the cluster has {view}. "
                    "Choose a smaller profile or larger nodes"
                )
            memory_bytes = spec.memory_bytes
        return {
            "num_cpus": spec.cpus,
            "memory": memory_bytes or None,
            "label_selector": self._node_labels or None,
            # The pool replaces workers itself, see the top of this module.
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": spec.depth,
            # Each node's network and disk does its part, even where one node could hold all.
            "scheduling_strategy": "SPREAD",
        }


class RayPool(Generic[T, R]):
    """The pool of `RayExecutor`. Workers are known by a number that is never used again."""

    def __init__(
        self,
        spawn: Callable[[], Any],
        spec: PoolSpec,
        start_timeout_s: float,
        view: ClusterView,
    ) -> None:
        self._spawn = spawn
        self._spec = spec
        self._start_timeout_s = start_timeout_s
        self._view = view
        self._dispatch: Dispatch[int, T] = Dispatch(spec.depth, spec.attempts_max)
        self._actors: dict[int, Any] = {}  # every one that was started and not yet lost
        self._places: dict[int, str] = {}  # where those that are up run
        self._starting: dict[Any, int] = {}  # by the reference that tells when it is up
        self._flying: dict[Any, Ticket[int, T]] = {}
        self._outbox: deque[Done[T, R]] = deque()
        self._numbers = 0
        self._lost = 0
        self._start_failures = 0
        self._start_error: Exception | None = None
        self._none_up_since_s = time.monotonic()
        self._wanted = spec.actors

    def begin(self) -> None:
        """Ask for all workers and wait for the first, and a little for those right behind it.

        Raises what `setup` raises.
        """
        for _ in range(self._spec.actors):
            self._start_worker()
        while not self._places:
            self._step()
            if self._start_error is not None and not self._places:
                raise self._start_error
        until_s = time.monotonic() + STRAGGLERS_S
        while self._starting and time.monotonic() < until_s:
            self._step(until_s)

    def end(self) -> None:
        """Kill all workers, those that have not come up included."""
        for actor in self._actors.values():
            _kill(actor)
        self._actors.clear()
        self._places.clear()
        self._starting.clear()
        self._flying.clear()
        self._wanted = 0
        self._measure()

    def map_unordered(self, tasks: Iterable[T]) -> Iterator[Done[T, R]]:
        waiting = iter(tasks)
        more = True
        try:
            while True:
                # Before the yield, so that no worker idles while the caller uses the result.
                more = self._fill(waiting) if more else self._fill(iter(()))
                if self._outbox:
                    yield self._outbox.popleft()
                elif more or self._dispatch.busy:
                    self._step()
                else:
                    return
        finally:
            self._dispatch.drop_all()
            self._outbox.clear()

    def stats(self) -> PoolStats:
        return PoolStats(
            workers=len(self._places),
            workers_pending=len(self._starting),
            in_flight=len(self._flying),
            requeued=self._dispatch.requeued,
            workers_lost=self._lost,
        )

    def _fill(self, waiting: Iterator[T]) -> bool:
        """Start what there is room for; False where `waiting` is at its end."""
        while ticket := self._dispatch.start_retry(time.monotonic()):
            self._submit(ticket)
        while self._dispatch.room():
            try:
                task = next(waiting)
            except StopIteration:
                return False
            self._submit(self._dispatch.start_fresh(task, time.monotonic()))
        return True

    def _submit(self, ticket: Ticket[int, T]) -> None:
        self._flying[self._actors[ticket.worker].run.remote(ticket.task)] = ticket

    def _step(self, until_s: float = math.inf) -> None:
        """Wait for the next thing that happens, a heartbeat at most, and deal with it."""
        self._check_alive()
        patience_s = min(self._patience_s(), max(0.0, until_s - time.monotonic()))
        done, _ = ray.wait([*self._flying, *self._starting], timeout=patience_s)
        for ref in done:
            if ref in self._starting:
                self._settle_start(ref)
            else:
                self._settle_call(ref)
        self._end_late_workers()
        self._measure()

    def _measure(self) -> None:
        set_to(POOL_WORKERS, len(self._places), "up")
        set_to(POOL_WORKERS, len(self._starting), "starting")
        set_to(POOL_WORKERS, self._wanted, "wanted")
        set_to(POOL_IN_FLIGHT, len(self._flying))
        set_to(POOL_QUEUED, self._dispatch.queued)

    def _check_alive(self) -> None:
        if self._places:
            return
        waited_s = time.monotonic() - self._none_up_since_s
        if self._starting and waited_s < self._start_timeout_s:
            return
        happened = f": {self._start_error}" if self._start_error else ""
        raise UnavailableError(
            f"no worker of {self._spec.cpus:g} CPUs and {self._spec.memory_bytes >> 20} MiB came "
            f"up within {waited_s:.0f} s{happened}; {self._lost} were lost before; the cluster "
            f"had {self._view}"
        ) from self._start_error

    def _patience_s(self) -> float:
        oldest_s = self._dispatch.oldest_start_s()
        if oldest_s is None:
            return HEARTBEAT_S
        return min(HEARTBEAT_S, max(0.0, oldest_s + self._spec.deadline_s - time.monotonic()))

    def _start_worker(self) -> None:
        number = self._numbers
        self._numbers += 1
        actor = self._spawn()
        self._actors[number] = actor
        self._starting[actor.start.remote()] = number

    def _settle_start(self, ref: Any) -> None:
        number = self._starting.pop(ref)
        try:
            answer = ray.get(ref)
        except RayError as error:
            answer = Failure(UnavailableError(f"a worker did not come up: {_short(error)}"))
        if isinstance(answer, Failure):
            _kill(self._actors.pop(number))
            self._start_error = answer.error
            self._start_failures += 1
            if self._places and self._start_failures < START_FAILURES_MAX:
                self._start_worker()
            return
        self._start_failures = 0
        self._start_error = None
        self._places[number] = answer
        self._dispatch.add(number)

    def _settle_call(self, ref: Any) -> None:
        ticket = self._flying[ref]
        try:
            done = self._done(ticket, ref)
        except RayError as error:
            self._lose(ticket.worker, f"{self._places[ticket.worker]} was lost ({_short(error)})")
            return
        self._flying.pop(ref)
        observe(TASK_SECONDS, time.monotonic() - ticket.started_s)
        self._dispatch.finish(ticket)
        if not ticket.dropped:
            self._outbox.append(done)

    def _done(self, ticket: Ticket[int, T], ref: Any) -> Done[T, R]:
        """Read a finished call. Raises RayError where its worker, not `work`, is at fault."""
        try:
            value = ray.get(ref, timeout=self._spec.deadline_s)
        except RayTaskError as error:
            # Only what cannot be read or returned comes here: arguments and results that do not
            # pickle. `work`'s own errors are values.
            cause = error.cause if isinstance(error.cause, Exception) else error
            return Done(ticket.task, None, portable(cause), ticket.attempts)
        if isinstance(value, Failure):
            return Done(ticket.task, None, value.error, ticket.attempts)
        return Done(ticket.task, value, None, ticket.attempts)

    def _end_late_workers(self) -> None:
        late = self._dispatch.late(time.monotonic(), self._spec.deadline_s)
        for worker, tickets in late.items():
            finished = self._finished_of(worker)
            blamed = [ticket for ticket in tickets if ticket not in finished.values()]
            if blamed:  # else the results are there, and only nobody has read them yet
                place = self._places[worker]
                self._lose(worker, f"{place} gave no result in {self._spec.deadline_s:g} s", blamed)

    def _finished_of(self, worker: int) -> dict[Any, Ticket[int, T]]:
        flying = [ref for ref, ticket in self._flying.items() if ticket.worker == worker]
        finished, _ = ray.wait(flying, num_returns=len(flying), timeout=0)
        return {ref: self._flying[ref] for ref in finished}

    def _lose(self, worker: int, reason: str, blamed: list[Ticket[int, T]] | None = None) -> None:
        """Take a worker out, keep what it had finished, requeue the rest, ask for another."""
        for ref, ticket in self._finished_of(worker).items():
            with contextlib.suppress(RayError):  # its task is lost with the worker
                done = self._done(ticket, ref)
                self._dispatch.finish(ticket)
                if not ticket.dropped:
                    self._outbox.append(done)
        self._flying = {ref: t for ref, t in self._flying.items() if t.worker != worker}
        _kill(self._actors.pop(worker))
        self._places.pop(worker)
        self._lost += 1
        add(POOL_LOST)
        if not self._places:
            self._none_up_since_s = time.monotonic()
        for given_up in self._dispatch.lose(worker, reason, blamed):
            self._outbox.append(_unfinished(given_up))
        if self._start_failures < START_FAILURES_MAX:
            self._start_worker()


class PoolWorker:
    """One worker process: the component, made once, and `depth` threads that Ray runs around it.

    No method may be a coroutine: one is enough to make it an asyncio actor, whose plain methods
    run one after the other whatever `max_concurrency` says, without an error.
    """

    def __init__(self, setup: Callable[[], Any], work: Callable[[Any, Any], Any]) -> None:
        measure_on_ray()
        self._setup = setup
        self._work = work
        self._component: Any = None
        self._place = f"worker {os.getpid()} on {_own_ip()}"

    def start(self) -> Any:
        """Make the component; return where this worker runs, or the Failure of `setup`."""

        def make() -> str:
            self._component = self._setup()
            return self._place

        return attempt(make, self._place)

    def run(self, task: Any) -> Any:
        return attempt(lambda: self._work(self._component, task), self._place)


def _own_ip() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _worker_class() -> Any:
    # Wrapped when used: Ray exports an actor class once per connection, and this module lives
    # longer than one.
    return ray.remote(PoolWorker)


def _unfinished(given_up: GivenUp[T]) -> Done[T, Any]:
    error = UnavailableError(
        f"given up after {len(given_up.losses)} attempts: {'; '.join(given_up.losses)}"
    )
    return Done(given_up.task, None, error, given_up.attempts)


def _kill(actor: Any) -> None:
    # It may be gone already, and so may the cluster.
    with contextlib.suppress(Exception):
        ray.kill(actor, no_restart=True)


def _short(error: Exception) -> str:
    """The sentence of Ray's message that says what happened."""
    text = str(error)
    found = re.search(r"(?:Worker exit detail|cause|reason): *(.+)", text)
    line = found.group(1) if found else text.strip().partition("\n")[0]
    line = line.partition(" Some common causes")[0]  # five lines of advice, the same each time
    return f"{type(error).__name__}: {line[:200]}"
