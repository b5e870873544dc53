"""The account of what may be asked of an exchange, kept in the lake: bans outlive the process.

Each instance has a file of its own: what it spent lately, and what it was told to leave alone. It is
written before more is granted than the file may leave out, so a successor never grants what was
granted already. Others' files are read at the start, and their bans again every few seconds: runs
that share a lake and no cluster stop for each other.
"""

from __future__ import annotations

import contextlib
import math
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.budget import Budget, Grant, Limit, Memory, Seen
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.paths import budget_folder, budget_path

log = structlog.get_logger()

# Part of each limit that may be granted before the file says so.
_SLACK_SHARE = 0.05
_LISTEN_S = 5.0
# A file that is older says nothing of the last minutes.
_TELL_S = 60.0
# The longest window, and time for whoever wrote to have ended.
_USE_AGE_US = 10 * 60 * 1_000_000


class KeptBudget:
    """`Budget`, kept in the lake. Safe for several threads.

    exchange: Names the exchange that is asked; runs that ask another share nothing.
    share, lease_s: As `Budget` takes them.
    """

    def __init__(
        self,
        limits: Mapping[Market, Sequence[Limit]],
        store: ObjectStore,
        clock: Clock,
        *,
        exchange: str,
        share: float,
        lease_s: float = 140.0,
    ) -> None:
        self._budget = Budget(limits, clock, share=share, lease_s=lease_s)
        self._slack = {
            (market, limit.name): limit.amount * share * _SLACK_SHARE
            for market, of_market in limits.items()
            for limit in of_market
        }
        self._store = store
        self._clock = clock
        self._exchange = exchange
        self._own = budget_path(exchange, uuid.uuid4().hex)
        self._lock = threading.Lock()
        self._untold: dict[tuple[Market, str], int] = {}
        self._told_s = -math.inf
        self._listened_s = clock.monotonic_s()
        self._take_over()

    def ask(self, ticket: str, market: Market, costs: Mapping[str, int]) -> Grant:
        """As `Budget.ask`. Raises LakehouseError where the lake cannot be written."""
        with self._lock:
            if self._clock.monotonic_s() - self._listened_s > _LISTEN_S:
                self._listen()
            grant = self._budget.ask(ticket, market, costs)
            if grant.granted:
                for name, amount in costs.items():
                    key = market, name
                    self._untold[key] = self._untold.get(key, 0) + amount
                stale = self._clock.monotonic_s() - self._told_s > _TELL_S
                if stale or any(n > self._slack[key] for key, n in self._untold.items()):
                    self._tell()
            return grant

    def settle(self, ticket: str, market: Market, seen: Seen) -> None:
        """As `Budget.settle`."""
        with self._lock:
            self._budget.settle(ticket, market, seen)
            if seen.quiet_s > 0:
                self._tell()

    def give_back(self, ticket: str) -> None:
        with self._lock:
            self._budget.give_back(ticket)

    def used(self, market: Market) -> dict[str, tuple[int, int]]:
        with self._lock:
            return self._budget.used(market)

    def blocked_s(self, market: Market) -> float:
        with self._lock:
            self._listen()
            return self._budget.blocked_s(market)

    def close(self) -> None:
        """Say that nothing was granted beyond what the file tells."""
        with self._lock:
            self._tell(ended=True)

    def _tell(self, *, ended: bool = False) -> None:
        memory = self._budget.memory()
        document = {
            "written_us": self._clock.now_us(),
            "ended": ended,
            "spent": memory.spent,
            "blocked": memory.blocked,
        }
        self._store.put(self._own, orjson.dumps(document))
        self._untold.clear()
        # Whoever begins anew after the end says so with the first grant.
        self._told_s = -math.inf if ended else self._clock.monotonic_s()

    def _take_over(self) -> None:
        now_us = self._clock.now_us()
        for path, document in self._others():
            memory = _memory(document)
            if now_us - document["written_us"] <= _USE_AGE_US:
                self._budget.remember(memory, 0.0 if document["ended"] else _SLACK_SHARE)
                continue
            self._budget.remember(Memory({}, memory.blocked))
            if all(until_us < now_us for until_us in memory.blocked.values()):
                # It says nothing any more. Whoever it is of writes it again with its next grant.
                self._store.delete(path)

    def _listen(self) -> None:
        self._listened_s = self._clock.monotonic_s()
        for _, document in self._others():
            self._budget.hear_of_blocks(_memory(document).blocked)

    def _others(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for path, _ in list(self._store.walk(budget_folder(self._exchange))):
            if path == self._own:
                continue
            with contextlib.suppress(NotFoundError):
                try:
                    document = orjson.loads(self._store.get(path))
                    _memory(document)
                    assert isinstance(document["written_us"], int)
                    found.append((path, document))
                except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
                    log.warning("no account of an exchange", path=path, error=str(error))
        return found


def _memory(document: dict[str, Any]) -> Memory:
    spent = {
        market: {
            name: [(int(at), int(amount)) for at, amount in entries]
            for name, entries in names.items()
        }
        for market, names in document["spent"].items()
    }
    return Memory(spent, {where: int(us) for where, us in document["blocked"].items()})
