"""A bounded pool of actors on Ray that outlives the loss of any of them, and follows the load.

Ray restarts nothing here. A restarted actor with nowhere to go leaves its calls hanging without an
error, so the pool replaces lost workers itself, requeues their tasks on living ones at once, and
goes on with fewer where the cluster has no room. While it works it looks at itself and at the nodes
every few seconds, and grows, shrinks or moves (`runtime/resizing.py` decides).
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
import structlog
from ray.exceptions import (
    RayError,
    RayTaskError,
)

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.allocator import pack
from lakehouse_ray.runtime.cluster import ClusterView
from lakehouse_ray.runtime.dispatch import Dispatch, GivenUp, Ticket
from lakehouse_ray.runtime.executor import Done, PoolSpec, PoolStats
from lakehouse_ray.runtime.head import Head
from lakehouse_ray.runtime.outcome import Failure, portable
from lakehouse_ray.runtime.resizing import (
    Governor,
    PoolState,
    Resize,
)
from lakehouse_ray.runtime.scaling import Load
from lakehouse_ray.runtime.session import view_cluster
from lakehouse_ray.runtime.workers import Answer, Use
from lakehouse_ray.telemetry.meter import add, observe, set_to
from lakehouse_ray.telemetry.metrics import (
    POOL_DECISIONS,
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

# Sentences about its size that a pool remembers.
DECISIONS_MAX = 20

# How long the first worker waits for the others: what it did meanwhile would only take the CPUs that
# they need to come up, on one machine; on many, the first may be minutes ahead of the last.
STRAGGLERS_S = 1.5


_log = structlog.get_logger()


@dataclass(frozen=True)
class Place:
    """Where a worker runs: in words, and its node."""

    text: str
    node_id: str


@dataclass(frozen=True)
class Room:
    """What a worker needs of a node."""

    labels: Mapping[str, str]
    cpus: float
    memory_bytes: int

    def of(self, view: ClusterView) -> int:
        """How many more workers the nodes hold now."""
        return self._count(view.labelled(self.labels).free)

    def is_anywhere(self, view: ClusterView) -> bool:
        """Whether a node is there that would hold one if nobody else used it."""
        return self._count(view.labelled(self.labels)) > 0

    def _count(self, view: ClusterView) -> int:
        return pack(view, self.cpus, self.memory_bytes) if self.cpus else 0


@dataclass(frozen=True)
class Patience:
    """How long a pool may be without any worker.

    refused_s: Where the autoscaler says that it has no node for one; None: there is no autoscaler.
    """

    none_up_s: float
    refused_s: float | None


class RayPool(Generic[T, R]):
    """The pool of `RayExecutor`. Workers are known by a number that is never used again.

    spawn: Starts the worker of a number. task_name: Of all its tasks; empty: that of the method.
    """

    def __init__(
        self,
        spawn: Callable[[int], Any],
        task_name: str,
        spec: PoolSpec,
        room: Room,
        patience: Patience,
        governor: Governor,
        workload: str,
        view: ClusterView,
    ) -> None:
        self._spawn = spawn
        self._task_name = task_name
        self._spec = spec
        self._room = room
        self._patience = patience
        self._governor = governor
        self._workload = workload
        self._head = Head(ray.get_runtime_context().gcs_address)
        self._view = view
        self._dispatch: Dispatch[int, T] = Dispatch(spec.depth, spec.attempts_max)
        self._actors: dict[int, Any] = {}  # every one that was started and not yet lost
        self._places: dict[int, Place] = {}  # where those that are up run
        self._used: dict[int, Use] = {}  # what they said of themselves last
        self._starting: dict[Any, int] = {}  # by the reference that tells when it is up
        self._flying: dict[Any, Ticket[int, T]] = {}
        self._outbox: deque[Done[T, R]] = deque()
        self._decisions: deque[str] = deque(maxlen=DECISIONS_MAX)
        self._numbers = 0
        self._lost = 0
        self._wanted = spec.actors
        self._begun = 0
        self._more = True
        self._start_failures = 0
        self._start_error: Exception | None = None
        self._none_up_since_s = time.monotonic()

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
        self._more, self._begun = True, 0
        try:
            while True:
                # Before the yield, so that no worker idles while the caller uses the result.
                self._more = self._fill(waiting) if self._more else self._fill(iter(()))
                if self._outbox:
                    yield self._outbox.popleft()
                elif self._more or self._dispatch.busy:
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
            decisions=tuple(self._decisions),
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
            self._begun += 1
            self._submit(self._dispatch.start_fresh(task, time.monotonic()))
        return True

    def _submit(self, ticket: Ticket[int, T]) -> None:
        run = self._actors[ticket.worker].run
        if self._task_name:
            run = run.options(name=self._task_name)
        self._flying[run.remote(ticket.task)] = ticket

    def _step(self, until_s: float = math.inf) -> None:
        """Wait for the next thing that happens, a heartbeat at most, and deal with it."""
        if self._governor.due(time.monotonic()):
            self._look()
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
        up, starting = len(self._places), len(self._starting)
        for state, count in (("up", up), ("starting", starting), ("wanted", self._wanted)):
            set_to(POOL_WORKERS, count, self._workload, state)
        set_to(POOL_IN_FLIGHT, len(self._flying))
        set_to(POOL_QUEUED, self._waiting if self._wanted else 0)

    @property
    def _waiting(self) -> int:
        """Tasks that no worker is at."""
        queued = max(0, self._spec.tasks - self._begun) if self._more else 0
        return queued + self._dispatch.retries

    def _look(self) -> None:
        """Move off nodes that are gone, and grow or shrink where the pool may.

        Raises UnavailableError where the cluster's head is gone.
        """
        if not self._head.check():
            return
        self._view = view_cluster(free=True)
        gone = {node.node_id for node in self._view.nodes if not node.alive}
        for worker, place in list(self._places.items()):
            if place.node_id in gone:
                self._lose(worker, f"{place.text} was lost with its node")
        if not self._spec.actors_most or not self._places:
            return
        state = self._state()
        found = self._governor.decide(time.monotonic(), state)
        if found:
            self._resize(found)

    def _state(self) -> PoolState:
        idle = self._dispatch.idle()
        used = [Use() if w in idle else self._used.get(w, Use()) for w in self._places]
        cpus, memory_bytes = self._spec.cpus, self._spec.memory_bytes
        return PoolState(
            up=len(self._places),
            idle=len(idle),
            pending=len(self._starting),
            in_flight=len(self._flying),
            depth=self._spec.depth,
            load=Load(
                sum(use.cpus for use in used) / len(used) / cpus if cpus else 0.0,
                max(use.rss_bytes for use in used) / memory_bytes if memory_bytes else 0.0,
                self._waiting,
            ),
            room=max(0, self._room.of(self._view) - len(self._starting)),
        )

    def _resize(self, found: Resize) -> None:
        for _ in range(found.start):
            self._start_worker()
        for worker in self._dispatch.idle()[: found.end]:
            self._end_worker(worker)
        for ref, number in list(self._starting.items())[::-1][: found.cancel]:
            del self._starting[ref]
            _kill(self._actors.pop(number))
        self._wanted += found.start - found.end - found.cancel
        said = {"grown": found.start, "shrunk": found.end, "cancelled": found.cancel}
        for action, count in said.items():
            if not count:
                continue
            sentence = f"{action} by {count} to {len(self._actors)}: {found.reason}"
            self._decisions.append(sentence)
            _log.info("pool", decision=sentence, rule=found.rule)
            add(POOL_DECISIONS, 1, self._workload, action, found.rule)

    def _end_worker(self, worker: int) -> None:
        """End one that has nothing to do."""
        self._dispatch.lose(worker, "not needed")
        _kill(self._actors.pop(worker))
        self._places.pop(worker)
        self._used.pop(worker, None)

    def _check_alive(self) -> None:
        if self._places:
            return
        waited_s = time.monotonic() - self._none_up_since_s
        if self._starting and waited_s < self._patience.none_up_s:
            refused_s = self._patience.refused_s
            if refused_s is None or waited_s < refused_s or not self._refused():
                return
            raise UnavailableError(
                f"the cluster's autoscaler has no node for a worker of {self._size}"
                f"{self._labels}: no node type holds one, or all that it may start run already. The "
                f"cluster has {self._view}. Choose a smaller profile (compute.profile) or fewer CPUs "
                "(compute.cpus_max), or raise max_workers of the node types (KubeRay: maxReplicas "
                "of the groups)"
            )
        if not self._room.is_anywhere(self._view):
            raise UnavailableError(
                f"no node for a worker of {self._size}{self._labels} came within {waited_s:.0f} s; the "
                f"cluster has {self._view}, and none of these could hold one. `ray status` shows whether "
                "an autoscaler tries; else choose a smaller profile (compute.profile), compute.cpus_max "
                "within what there is, and no compute.node_label that its nodes do not have"
            )
        happened = f": {self._start_error}" if self._start_error else ""
        raise UnavailableError(
            f"no worker of {self._size}{self._labels} came up within {waited_s:.0f} s{happened}; "
            f"{self._lost} were lost before; the cluster had {self._view}. Others may hold its CPUs: "
            "`ray status` shows who waits; wait for them, or set compute.cpus_max and "
            "compute.profile to less"
        ) from self._start_error

    @property
    def _size(self) -> str:
        return f"{self._spec.cpus:g} CPUs and {self._room.memory_bytes >> 20} MiB"

    @property
    def _labels(self) -> str:
        told = ", ".join(f"{name}={value}" for name, value in self._room.labels.items())
        return f" on nodes with {told}" if told else ""

    def _refused(self) -> bool:
        return self._head.refuses({"CPU": self._spec.cpus})

    def _patience_s(self) -> float:
        oldest_s = self._dispatch.oldest_start_s()
        if oldest_s is None:
            return HEARTBEAT_S
        return min(HEARTBEAT_S, max(0.0, oldest_s + self._spec.deadline_s - time.monotonic()))

    def _start_worker(self) -> None:
        number = self._numbers
        self._numbers += 1
        actor = self._spawn(number)
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
        if number not in self._actors:  # cancelled while its answer was on the way
            return
        self._places[number] = Place(*answer)
        self._dispatch.add(number)

    def _settle_call(self, ref: Any) -> None:
        ticket = self._flying[ref]
        try:
            done = self._done(ticket, ref)
        except RayError as error:
            place = self._places[ticket.worker].text
            self._lose(ticket.worker, f"{place} was lost ({_short(error)})")
            return
        self._flying.pop(ref)
        observe(TASK_SECONDS, time.monotonic() - ticket.started_s)
        self._dispatch.finish(ticket)
        if not ticket.dropped:
            self._outbox.append(done)

    def _done(self, ticket: Ticket[int, T], ref: Any) -> Done[T, R]:
        """Read a finished call. Raises RayError where its worker, not `work`, is at fault."""
        try:
            answer: Answer | Failure = ray.get(ref, timeout=self._spec.deadline_s)
        except RayTaskError as error:
            # Only what cannot be read or returned comes here: arguments and results that do not
            # pickle. `work`'s own errors are values.
            cause = error.cause if isinstance(error.cause, Exception) else error
            return Done(ticket.task, None, portable(cause), ticket.attempts)
        if isinstance(answer, Failure):
            return Done(ticket.task, None, answer.error, ticket.attempts)
        self._used[ticket.worker] = answer.use
        return Done(ticket.task, answer.value, None, ticket.attempts)

    def _end_late_workers(self) -> None:
        late = self._dispatch.late(time.monotonic(), self._spec.deadline_s)
        for worker, tickets in late.items():
            finished = self._finished_of(worker)
            blamed = [ticket for ticket in tickets if ticket not in finished.values()]
            if blamed:  # else the results are there, and only nobody has read them yet
                place = self._places[worker].text
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
        self._used.pop(worker, None)
        self._lost += 1
        add(POOL_LOST)
        if not self._places:
            self._none_up_since_s = time.monotonic()
        for given_up in self._dispatch.lose(worker, reason, blamed):
            self._outbox.append(_unfinished(given_up))
        if self._start_failures < START_FAILURES_MAX:
            self._start_worker()


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
