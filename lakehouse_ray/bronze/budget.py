"""The account of what may be asked of an exchange, kept where it outlives the process.

On one machine all processes share one account: a file, read and replaced under a lock at every call.
So whatever they are (a capture's workers, an update beside them), together they stay within the limits,
and one that is killed leaves nothing that the others do not know of.

In the lake each machine has a file of its own: what it spent lately, and what it was told to leave
alone. It is written before more is granted than the file may leave out, so a successor elsewhere never
grants what was granted already. Others' files are read at the start, and their bans again every few
seconds: machines that share a lake and no cluster stop for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import structlog

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import LakehouseError, NotFoundError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.budget import Budget, Grant, Limit, Memory, Seen
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.paths import budget_folder, budget_path
from lakehouse_ray.telemetry.meter import set_to
from lakehouse_ray.telemetry.metrics import QUIET_UNTIL, WEIGHT_MAX, WEIGHT_USED

log = structlog.get_logger()

# Part of each limit that may be granted before the file says so.
_SLACK_SHARE = 0.05
_LISTEN_S = 5.0
# A file that is older says nothing of the last minutes.
_TELL_S = 60.0
# The longest window, and time for whoever wrote to have ended.
_USE_AGE_US = 10 * 60 * 1_000_000
# A ban that is over is known for so long.
_KEPT_AGE_US = 24 * 3600 * 1_000_000
# A lake that is away is not tried at every request: the machine's own file knows all meanwhile.
_AWAY_S = 30.0


class KeptBudget:
    """`Budget`, kept. Safe for several threads, and with `machine` for several processes.

    exchange: Names the exchange that is asked; runs that ask another share nothing.
    share, lease_s: As `Budget` takes them.
    machine: The file that this machine's processes share; None: this process is alone.
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
        machine: Path | None = None,
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
        self._name = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._untold: dict[tuple[Market, str], int] = {}
        self._told_s = -math.inf
        self._listened_s = clock.monotonic_s()
        self._away_until_s = -math.inf
        self._machine = None if machine is None else _open_machine(machine)
        self._taken_over = False
        with self._held():
            pass

    def ask(self, ticket: str, market: Market, costs: Mapping[str, int]) -> Grant:
        """As `Budget.ask`. Raises LakehouseError where neither the lake nor a machine's file can be
        written."""
        heard = self._heard()
        with self._held():
            self._budget.hear_of_blocks(heard)
            grant = self._budget.ask(ticket, market, costs)
            self._measure(market)
            document = self._charged(market, costs) if grant.granted else None
        self._tell(document)
        return grant

    def settle(
        self, ticket: str, market: Market, seen: Seen, costs: Mapping[str, int] | None = None
    ) -> None:
        """As `Budget.settle`."""
        with self._held():
            charged = self._budget.settle(ticket, market, seen, costs)
            document = self._charged(market, costs) if charged and costs else None
            self._measure(market)
            if seen.quiet_s > 0:
                document = self._document()
        self._tell(document)

    def give_back(self, ticket: str) -> None:
        with self._held():
            self._budget.give_back(ticket)

    def used(self, market: Market) -> dict[str, tuple[int, int]]:
        with self._held():
            return self._budget.used(market)

    def blocked_s(self, market: Market) -> float:
        heard = self._blocks()
        with self._held():
            self._budget.hear_of_blocks(heard)
            return self._budget.blocked_s(market)

    def _measure(self, market: Market) -> None:
        for name, (used, most) in self._budget.used(market).items():
            set_to(WEIGHT_USED, used, market, name)
            set_to(WEIGHT_MAX, most, market, name)
        blocked_s = self._budget.blocked_s(market)
        set_to(QUIET_UNTIL, self._clock.now_us() / 1e6 + blocked_s if blocked_s else 0.0, market)

    def close(self) -> None:
        """Say that nothing was granted beyond what the file tells."""
        with self._held():
            document = self._document(ended=True)
        self._tell(document)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The account as it is now, kept from others until it is left."""
        with self._lock:
            if self._machine is None:
                self._begin()
                yield
                return
            with self._machine.held():
                self._read(self._machine)
                self._begin()
                yield
                self._machine.write(
                    {
                        "name": self._name,
                        "at_s": self._clock.monotonic_s(),
                        "told_s": None if math.isinf(self._told_s) else self._told_s,
                        "untold": [(*key, amount) for key, amount in self._untold.items()],
                        "state": self._budget.state(),
                    }
                )

    def _read(self, machine: _MachineFile) -> None:
        """Go on from what another process of this machine has left."""
        if (document := machine.read()) is None:
            return
        try:
            if document["at_s"] > self._clock.monotonic_s():
                return  # the machine was started anew since: the lake's files tell what holds
            self._budget.go_on_from(document["state"])
            self._name = str(document["name"])
            told_s = document["told_s"]
            self._told_s = -math.inf if told_s is None else float(told_s)
            self._untold = {
                (market, name): int(amount) for market, name, amount in document["untold"]
            }
            self._taken_over = True
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("no account of an exchange", path=str(machine.path), error=str(error))

    def _begin(self) -> None:
        """Know what earlier processes, or other machines, have told the lake; once."""
        if not self._taken_over:
            self._take_over()
            self._taken_over = True

    def _charged(self, market: Market, costs: Mapping[str, int]) -> dict[str, Any] | None:
        """What the lake has to be told now: it would know of less than it must."""
        for name, amount in costs.items():
            key = market, name
            self._untold[key] = self._untold.get(key, 0) + amount
        stale = self._clock.monotonic_s() - self._told_s > _TELL_S
        if stale or any(n > self._slack[key] for key, n in self._untold.items()):
            return self._document()
        return None

    @property
    def _own(self) -> str:
        return budget_path(self._exchange, self._name)

    def _document(self, *, ended: bool = False) -> dict[str, Any]:
        memory = self._budget.memory()
        self._untold.clear()
        # Whoever begins anew after the end says so with the first grant.
        self._told_s = -math.inf if ended else self._clock.monotonic_s()
        return {
            "written_us": self._clock.now_us(),
            "ended": ended,
            "spent": memory.spent,
            "blocked": memory.blocked,
            "ahead_us": memory.ahead_us,
        }

    def _tell(self, document: dict[str, Any] | None) -> None:
        """Write to the lake what it has to know before a request is sent."""
        if document is None or self._clock.monotonic_s() < self._away_until_s:
            return
        try:
            self._store.put(self._own, orjson.dumps(document))
        except LakehouseError as error:
            if self._machine is None:
                raise
            self._away(error)

    def _away(self, error: Exception) -> None:
        log.warning("the lake does not hear what an exchange was asked", why=str(error))
        self._away_until_s = self._clock.monotonic_s() + _AWAY_S

    def _take_over(self) -> None:
        now_us = self._clock.now_us()
        for path, document in self._others():
            memory = _memory(document)
            ahead_us = self._budget.ahead_us
            shift_us = 0
            if ahead_us is not None and memory.ahead_us is not None:
                shift_us = ahead_us - memory.ahead_us
            if now_us - document["written_us"] - shift_us <= _USE_AGE_US:
                self._budget.remember(memory, 0.0 if document["ended"] else _SLACK_SHARE)
                continue
            self._budget.remember(Memory({}, memory.blocked))
            if all(until_us + _KEPT_AGE_US < now_us for until_us in memory.blocked.values()):
                # It says nothing any more, not even to a machine whose clock is far behind this one's.
                # Whoever it is of writes it again with its next grant.
                self._store.delete(path)

    def _heard(self) -> dict[str, int]:
        """What others were told to leave alone, if it is time to listen again."""
        now_s = self._clock.monotonic_s()
        if now_s - self._listened_s <= _LISTEN_S or now_s < self._away_until_s:
            return {}
        self._listened_s = now_s
        try:
            return self._blocks()
        except LakehouseError as error:
            if self._machine is None:
                raise
            self._away(error)
            return {}

    def _blocks(self) -> dict[str, int]:
        blocked: dict[str, int] = {}
        for _, document in self._others():
            memory = _memory(document).by_clock(self._budget.ahead_us)
            for where, until_us in memory.blocked.items():
                blocked[where] = max(until_us, blocked.get(where, 0))
        return blocked

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


def _open_machine(path: Path) -> _MachineFile | None:
    """The file, or None where there can be none: a cluster's node need not have a home."""
    try:
        file = _MachineFile(path)
        with file.held():
            return file
    except OSError as error:
        log.warning(
            "processes here share no account of an exchange", path=str(path), why=str(error)
        )
        return None


class _MachineFile:
    """A document that processes of one machine read and replace in turn.

    It is replaced as a whole, so whoever is killed leaves the one before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: tuple[int, int] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self) -> dict[str, Any] | None:
        """The document; None where there is none, or it is the one that was written here."""
        try:
            if self._version() == self._known:
                return None
            document = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("no account of an exchange", path=str(self.path), error=str(error))
            return None
        return document if isinstance(document, dict) else None

    def write(self, document: dict[str, Any]) -> None:
        aside = self.path.with_suffix(".new")
        aside.write_bytes(orjson.dumps(document))
        os.replace(aside, self.path)
        self._known = self._version()

    def _version(self) -> tuple[int, int]:
        state = self.path.stat()
        return state.st_ino, state.st_mtime_ns


def _memory(document: dict[str, Any]) -> Memory:
    spent = {
        market: {
            name: [(int(at), int(amount)) for at, amount in entries]
            for name, entries in names.items()
        }
        for market, names in document["spent"].items()
    }
    blocked = {where: int(us) for where, us in document["blocked"].items()}
    ahead_us = document.get("ahead_us")
    return Memory(spent, blocked, None if ahead_us is None else int(ahead_us))
