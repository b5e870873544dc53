"""Which task goes to which worker, and what becomes of it when its worker is lost.

Bookkeeping alone: nothing here starts, waits or knows Ray, so every case is a unit test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

W = TypeVar("W", bound=Hashable)
T = TypeVar("T")


@dataclass(eq=False)
class Ticket(Generic[W, T]):
    """One start of one task on one worker. Compared by identity.

    attempts: How often the task was started, this start included.
    losses: Why its earlier starts came to nothing, those that count against `attempts_max` only.
    dropped: Nobody waits for it any more; it only keeps its worker busy.
    """

    task: T
    worker: W
    attempts: int
    losses: tuple[str, ...]
    alone: bool
    started_s: float
    dropped: bool = False


@dataclass(frozen=True)
class GivenUp(Generic[T]):
    """A task that has used up its attempts."""

    task: T
    attempts: int
    losses: tuple[str, ...]


@dataclass(frozen=True)
class _Retry(Generic[T]):
    task: T
    attempts: int
    losses: tuple[str, ...]


class Dispatch(Generic[W, T]):
    """Tasks in flight on workers that come and go.

    Gives each task to the worker with the fewest, tasks of lost workers first. The last of several
    attempts runs alone: a task that kills its worker cannot be told from those that run beside it,
    and must not take their last chance with it.
    """

    def __init__(self, depth: int, attempts_max: int) -> None:
        self._depth = depth
        self._attempts_max = attempts_max
        self._loads: dict[W, set[Ticket[W, T]]] = {}
        self._retries: deque[_Retry[T]] = deque()
        self._last_chances: deque[_Retry[T]] = deque()
        self._reserved: W | None = None
        self.requeued = 0

    @property
    def in_flight(self) -> int:
        return sum(len(load) for load in self._loads.values())

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a task in flight or in the queue of retries."""
        if self._retries or self._last_chances:
            return True
        return any(not ticket.dropped for load in self._loads.values() for ticket in load)

    @property
    def retries(self) -> int:
        """Tasks of lost workers that wait to be started again."""
        return len(self._retries) + len(self._last_chances)

    def idle(self) -> list[W]:
        """Workers that have nothing to do and are kept free for nothing."""
        return [w for w, load in self._loads.items() if not load and w != self._reserved]

    def add(self, worker: W) -> None:
        assert worker not in self._loads, "a worker comes up once"
        self._loads[worker] = set()

    def start_retry(self, now_s: float) -> Ticket[W, T] | None:
        """Start a task of a lost worker again; None where none waits or no worker is free."""
        if self._last_chances and (ticket := self._start_alone(now_s)):
            return ticket
        if self._retries and (worker := self._least_loaded()) is not None:
            return self._begin(self._retries.popleft(), worker, False, now_s)
        return None

    def room(self) -> bool:
        """Whether `start_fresh` may be called now: a worker is free and no retry goes first."""
        return not self._retries and self._least_loaded() is not None

    def start_fresh(self, task: T, now_s: float) -> Ticket[W, T]:
        worker = self._least_loaded()
        assert worker is not None, "ask room() first"
        return self._begin(_Retry(task, 0, ()), worker, False, now_s)

    def finish(self, ticket: Ticket[W, T]) -> None:
        self._loads[ticket.worker].remove(ticket)

    def lose(
        self, worker: W, reason: str, blamed: Collection[Ticket[W, T]] | None = None
    ) -> list[GivenUp[T]]:
        """Take `worker` out and queue its tasks again; return those out of attempts.

        blamed: The tickets whose fault it is; only these are counted. None: nobody knows, so all.
        """
        given_up = []
        for ticket in sorted(self._loads.pop(worker), key=lambda t: t.started_s):
            if ticket.dropped:
                continue
            counts = blamed is None or ticket in blamed
            losses = (*ticket.losses, reason) if counts else ticket.losses
            if len(losses) >= self._attempts_max:
                given_up.append(GivenUp(ticket.task, ticket.attempts, losses))
                continue
            self.requeued += 1
            retry = _Retry(ticket.task, ticket.attempts, losses)
            last = len(losses) == self._attempts_max - 1 and bool(losses)
            (self._last_chances if last else self._retries).append(retry)
        if worker == self._reserved:
            self._reserved = None
        return given_up

    def late(self, now_s: float, deadline_s: float) -> dict[W, list[Ticket[W, T]]]:
        """The tickets that started `deadline_s` ago or before, by worker."""
        found: dict[W, list[Ticket[W, T]]] = {}
        for worker, load in self._loads.items():
            tickets = [ticket for ticket in load if now_s - ticket.started_s >= deadline_s]
            if tickets:
                found[worker] = tickets
        return found

    def oldest_start_s(self) -> float | None:
        """When the task that has run longest was started."""
        return min((t.started_s for load in self._loads.values() for t in load), default=None)

    def drop_all(self) -> None:
        """Forget what is queued; what is in flight only keeps its workers busy from now on."""
        self._retries.clear()
        self._last_chances.clear()
        self._reserved = None
        for load in self._loads.values():
            for ticket in load:
                ticket.dropped = True

    def _start_alone(self, now_s: float) -> Ticket[W, T] | None:
        """Start a last chance on an empty worker, or keep the emptiest one free for it."""
        if self._reserved is None:
            self._reserved = self._least_loaded()
        if self._reserved is None or self._loads[self._reserved]:
            return None
        worker, self._reserved = self._reserved, None
        return self._begin(self._last_chances.popleft(), worker, True, now_s)

    def _least_loaded(self) -> W | None:
        open_ = [
            (len(load), worker)
            for worker, load in self._loads.items()
            if len(load) < self._depth
            and worker != self._reserved
            and not any(ticket.alone for ticket in load)
        ]
        return min(open_, key=lambda pair: pair[0])[1] if open_ else None

    def _begin(self, retry: _Retry[T], worker: W, alone: bool, now_s: float) -> Ticket[W, T]:
        ticket = Ticket(retry.task, worker, retry.attempts + 1, retry.losses, alone, now_s)
        self._loads[worker].add(ticket)
        return ticket
