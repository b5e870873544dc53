"""How much may still be asked of an exchange: one account for all who ask from one address.

An exchange counts weight and requests by address and minute, and bans who goes on after it said no.
So whoever sends asks here first, and says afterwards what came back.

A request reaches the exchange at some moment between its grant and the end of its answer. It is
charged from the grant until a whole window after that end, so that no window of the exchange, wherever
it begins, can hold more than was allowed here.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.venue import Market

WEIGHT = "weight"
# Stands for all markets in what is blocked.
EVERYWHERE = "*"
# What ended within so long of each other is one entry, at the end of it: windows stay small.
_GRAIN_S = 0.1
# Who waits is asked to come again within the first, and has lost its turn after the second.
_WAIT_MAX_S = 30.0
_PATIENCE_S = 60.0
# Added to every wait, so that rounding makes none of it end too early, and for ever.
_TICK_S = 0.001
# Between two looks at what is still under way.
_POLL_S = 0.1
_MINUTE_S = 60.0
# An answer of just after the minute may still count the minute before it.
_MINUTE_EDGE_S = 2.0
# The exchange tells its time in whole seconds: machines that differ by less are taken for alike, and
# one that differs by more waits so much longer. Of an answer that took longer nothing is learned.
_CLOCK_US = 2_000_000
_CLOCK_TRIP_S = 5.0


@dataclass(frozen=True)
class Limit:
    """amount: What the exchange allows in any `window_s`."""

    name: str
    amount: int
    window_s: float


@dataclass(frozen=True)
class Grant:
    """What an ask came to. granted: Send it now, and settle it.

    wait_s: Else ask again with the same ticket after this. reason: Why, in words.
    quiet_s: For how long the exchange asked to be left alone.
    """

    granted: bool
    wait_s: float = 0.0
    reason: str = ""
    quiet_s: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What an answer said of limits.

    used_weight: The exchange's own count of its current minute, others' use included.
    server_us: The exchange's clock, to the second.
    quiet_s: For how long it asks to be left alone.
    banned: By a ban, which holds for everything at this address.
    """

    used_weight: int | None = None
    server_us: int | None = None
    quiet_s: float = 0.0
    banned: bool = False


@dataclass(frozen=True)
class Memory:
    """What outlives the process. Times are UTC microseconds of this machine.

    spent: Of each market and limit, when what ended.
    blocked: Until when a market, or everything, is to be left alone.
    ahead_us: How far this machine's clock is ahead of the exchange's; None: not known.
    """

    spent: Mapping[str, Mapping[str, Sequence[tuple[int, int]]]] = field(default_factory=dict)
    blocked: Mapping[str, int] = field(default_factory=dict)
    ahead_us: int | None = None

    def by_clock(self, ahead_us: int | None) -> Memory:
        """The same in times of a machine whose clock is so far ahead; as far as that is known."""
        if ahead_us is None or self.ahead_us is None or abs(ahead_us - self.ahead_us) < _CLOCK_US:
            return self
        shift_us = ahead_us - self.ahead_us + _CLOCK_US
        return replace(
            self,
            spent={
                market: {
                    name: [(at_us + shift_us, amount) for at_us, amount in entries]
                    for name, entries in names.items()
                }
                for market, names in self.spent.items()
            },
            blocked={where: until_us + shift_us for where, until_us in self.blocked.items()},
            ahead_us=ahead_us,
        )


@dataclass(frozen=True)
class _Charge:
    market: Market
    costs: Mapping[str, int]
    since_s: float


@dataclass
class _Waiter:
    costs: Mapping[str, int]
    until_s: float


class _Window:
    """One limit of one market."""

    def __init__(self, limit: Limit, share: float) -> None:
        self.cap = int(limit.amount * share)
        self.window_s = limit.window_s
        self.under_way = 0
        self.ended = 0
        self._entries: deque[list[float]] = deque()

    @property
    def used(self) -> int:
        return self.under_way + self.ended

    def end(self, amount: int, at_s: float) -> None:
        at_s = (at_s // _GRAIN_S + 1) * _GRAIN_S
        self.ended += amount
        if self._entries and self._entries[-1][0] == at_s:
            self._entries[-1][1] += amount
        elif not self._entries or self._entries[-1][0] < at_s:
            self._entries.append([at_s, amount])
        else:
            bisect.insort(self._entries, [at_s, amount])

    def begin_with(self, entries: Iterable[Sequence[float]]) -> None:
        self.under_way = 0
        self._entries = deque([float(at_s), int(amount)] for at_s, amount in entries)
        self.ended = int(sum(amount for _, amount in self._entries))

    def forget(self, now_s: float) -> None:
        while self._entries and self._entries[0][0] + self.window_s < now_s:
            self.ended -= int(self._entries.popleft()[1])

    def free_at_s(self, amount: int, now_s: float) -> float:
        """When so much will have left the window, at the earliest."""
        for at_s, part in self._entries:
            amount -= int(part)
            if amount <= 0:
                return at_s + self.window_s + _GRAIN_S
        return now_s + _POLL_S

    def entries(self) -> list[tuple[float, int]]:
        return [(at_s, int(amount)) for at_s, amount in self._entries]


class Budget:
    """The account. Not safe for several threads at once.

    limits: Of each market. share: Part of each limit that is used at most.
    lease_s: Time after which a request that was never settled is taken for ended; longer than any
        request may take.
    waiting_max: Who waits in turn; who comes then waits without one.

    Waiters are served in the order in which they came: whoever comes later is granted only what is
    left when all before it have had theirs.
    """

    def __init__(
        self,
        limits: Mapping[Market, Sequence[Limit]],
        clock: Clock,
        *,
        share: float = 0.8,
        lease_s: float = 120.0,
        waiting_max: int = 10_000,
    ) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._waiting_max = waiting_max
        self._windows: dict[str, dict[str, _Window]] = {
            market: {limit.name: _Window(limit, share) for limit in of_market}
            for market, of_market in limits.items()
        }
        self._charges: OrderedDict[str, _Charge] = OrderedDict()
        self._waiting: dict[str, OrderedDict[str, _Waiter]] = {m: OrderedDict() for m in limits}
        self._blocked: dict[str, float] = {}
        # Weight that was settled lately, from when to when it may have arrived.
        self._settled: dict[str, deque[tuple[float, float, int]]] = {m: deque() for m in limits}
        self._foreign: dict[str, deque[tuple[float, int]]] = {m: deque() for m in limits}
        # How far this machine's clock is ahead of the exchange's, as its answers have told.
        self.ahead_us: int | None = None

    def ask(self, ticket: str, market: Market, costs: Mapping[str, int]) -> Grant:
        """Ask to send one request.

        ticket: Names the request, and its turn; the same until it is granted.
        costs: What it takes of each limit.

        Raises InvalidError for a request that no window could ever hold.
        """
        now_s = self._tidy()
        windows = self._windows[market]
        for name, amount in costs.items():
            if name not in windows or amount > windows[name].cap:
                allowed = windows[name].cap if name in windows else 0
                raise InvalidError(
                    f"a request of {amount} {name} is more than the {allowed} that {market} allows",
                    "raise update.limit_share, or the limits of the exchange in the settings",
                )
        if ticket in self._charges:
            return Grant(True)
        waiting = self._waiting[market]
        quiet_s = self._quiet_s(market, now_s)
        if quiet_s > 0:
            self._wait(waiting, ticket, costs, now_s)
            return _later(quiet_s, f"{market} asks to be left alone", quiet_s)
        ready_s = now_s
        for name, amount in costs.items():
            ahead = _ahead(waiting, ticket, name)
            window = windows[name]
            over = window.used + ahead + amount - window.cap
            if over > 0:
                ready_s = max(ready_s, window.free_at_s(over, now_s))
        if ready_s > now_s:
            self._wait(waiting, ticket, costs, now_s)
            return _later(ready_s - now_s, f"the limits of {market} are used up for now")
        waiting.pop(ticket, None)
        self._charges[ticket] = _Charge(market, dict(costs), now_s)
        for name, amount in costs.items():
            windows[name].under_way += amount
        return Grant(True)

    def settle(
        self, ticket: str, market: Market, seen: Seen, costs: Mapping[str, int] | None = None
    ) -> bool:
        """Say what came of a request that was granted and sent, an answer or none.

        costs: As they were asked for. A request that is not known here (another process granted it,
            which was killed) is charged from now on: it may have arrived just now.

        Returns whether it was.
        """
        now_s = self._tidy()
        charge = self._charges.pop(ticket, None)
        unknown = charge is None and bool(costs)
        if charge is not None:
            self._end(charge, now_s)
            if seen.server_us is not None and now_s - charge.since_s < _CLOCK_TRIP_S:
                self.ahead_us = self._clock.now_us() - seen.server_us
            if seen.used_weight is not None:
                self._learn(charge, seen, now_s)
        elif costs:
            self._end_unknown(market, costs, now_s)
        if seen.quiet_s > 0:
            self._block(EVERYWHERE if seen.banned else market, now_s + seen.quiet_s)
        return unknown

    def give_back(self, ticket: str) -> None:
        """Say that a request was not sent, and will not be."""
        charge = self._charges.pop(ticket, None)
        if charge is None:
            for waiting in self._waiting.values():
                waiting.pop(ticket, None)
            return
        for name, amount in charge.costs.items():
            self._windows[charge.market][name].under_way -= amount

    def used(self, market: Market) -> dict[str, tuple[int, int]]:
        """Of each limit what is charged now, and what may be charged at most."""
        self._tidy()
        return {name: (w.used, w.cap) for name, w in self._windows[market].items()}

    def blocked_s(self, market: Market) -> float:
        """For how long a market has to be left alone; 0: it may be asked."""
        return self._quiet_s(market, self._tidy())

    def memory(self) -> Memory:
        """What has to be known after a restart. What is under way counts as ended now."""
        now_s = self._tidy()
        now_us = self._clock.now_us()

        def wall(at_s: float) -> int:
            return now_us + int((at_s - now_s) * 1e6)

        spent: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for market, windows in self._windows.items():
            for name, window in windows.items():
                found = [(wall(at_s), amount) for at_s, amount in window.entries()]
                if window.under_way:
                    found.append((now_us, window.under_way))
                if found:
                    spent.setdefault(market, {})[name] = found
        blocked = {where: wall(until_s) for where, until_s in self._blocked.items()}
        return Memory(spent, blocked, self.ahead_us)

    def remember(self, memory: Memory, slack_share: float = 0.0) -> None:
        """Take over what an earlier process knew.

        slack_share: Part of each limit that it may have used beyond what it has told.

        Times in the future, of a clock that was put back, count as now.
        """
        memory = memory.by_clock(self.ahead_us)
        now_s = self._tidy()
        now_us = self._clock.now_us()
        for market, names in memory.spent.items():
            for name, entries in names.items():
                window = self._windows.get(market, {}).get(name)
                if window is None:
                    continue
                for at_us, amount in sorted(entries):
                    at_s = now_s - max(0.0, (now_us - at_us) / 1e6)
                    window.end(amount, at_s)
                    if name == WEIGHT:
                        self._settled[market].append((at_s - self._lease_s, at_s, amount))
        if slack_share:
            for windows in self._windows.values():
                for window in windows.values():
                    window.end(int(window.cap * slack_share), now_s)
        self.hear_of_blocks(memory.blocked)
        self._tidy()

    def hear_of_blocks(self, blocked: Mapping[str, int]) -> None:
        """Take over what others at this address were told to leave alone, and until when."""
        now_s, now_us = self._clock.monotonic_s(), self._clock.now_us()
        for where, until_us in blocked.items():
            if until_us > now_us and (where == EVERYWHERE or where in self._windows):
                self._block(where, now_s + (until_us - now_us) / 1e6)

    def state(self) -> dict[str, Any]:
        """Everything it knows, in lists and numbers, for another `Budget` of the same limits that goes
        on by the same clock: `go_on_from` takes it."""
        return {
            "windows": {
                market: {name: window.entries() for name, window in windows.items()}
                for market, windows in self._windows.items()
            },
            "charges": [
                (ticket, charge.market, charge.costs, charge.since_s)
                for ticket, charge in self._charges.items()
            ],
            "waiting": {
                market: [(ticket, one.costs, one.until_s) for ticket, one in waiting.items()]
                for market, waiting in self._waiting.items()
            },
            "blocked": dict(self._blocked),
            "settled": {market: list(found) for market, found in self._settled.items()},
            "foreign": {market: list(found) for market, found in self._foreign.items()},
            "ahead_us": self.ahead_us,
        }

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Forget everything and know what another one told by `state`.

        Raises KeyError, TypeError or ValueError for anything else; it is of no use then.
        """
        for market, windows in self._windows.items():
            for name, window in windows.items():
                window.begin_with(state["windows"].get(market, {}).get(name, ()))
        self._charges = OrderedDict()
        for ticket, market, costs, since_s in state["charges"]:
            self._charges[str(ticket)] = _Charge(market, costs, since_s)
            for name, amount in costs.items():
                self._windows[market][name].under_way += amount
        for market in self._waiting:
            self._waiting[market] = OrderedDict(
                (ticket, _Waiter(costs, until_s))
                for ticket, costs, until_s in state["waiting"].get(market, ())
            )
            self._settled[market] = deque(
                (since_s, end_s, weight)
                for since_s, end_s, weight in state["settled"].get(market, ())
            )
            self._foreign[market] = deque(
                (at_s, amount) for at_s, amount in state["foreign"].get(market, ())
            )
        self._blocked = {where: float(until_s) for where, until_s in state["blocked"].items()}
        ahead_us = state.get("ahead_us")
        self.ahead_us = None if ahead_us is None else int(ahead_us)

    def _tidy(self) -> float:
        """Bring everything to now; return it."""
        now_s = self._clock.monotonic_s()
        while self._charges:
            ticket, charge = next(iter(self._charges.items()))
            if charge.since_s + self._lease_s > now_s:
                break
            del self._charges[ticket]
            self._end(charge, charge.since_s + self._lease_s)
        for windows in self._windows.values():
            for window in windows.values():
                window.forget(now_s)
        for waiting in self._waiting.values():
            for ticket in [t for t, waiter in waiting.items() if waiter.until_s < now_s]:
                del waiting[ticket]
        for where in [w for w, until_s in self._blocked.items() if until_s <= now_s]:
            del self._blocked[where]
        for settled in self._settled.values():
            while settled and settled[0][1] < now_s - 3 * _MINUTE_S:
                settled.popleft()
        for foreign in self._foreign.values():
            while foreign and foreign[0][0] < now_s - 3 * _MINUTE_S:
                foreign.popleft()
        return now_s

    def _end(self, charge: _Charge, at_s: float) -> None:
        for name, amount in charge.costs.items():
            window = self._windows[charge.market][name]
            window.under_way -= amount
            window.end(amount, at_s)
        weight = charge.costs.get(WEIGHT, 0)
        if weight:
            self._settled[charge.market].append((charge.since_s, at_s, weight))

    def _end_unknown(self, market: Market, costs: Mapping[str, int], now_s: float) -> None:
        for name, amount in costs.items():
            self._windows[market][name].end(amount, now_s)
        if weight := costs.get(WEIGHT, 0):
            self._settled[market].append((now_s - self._lease_s, now_s, weight))

    def _learn(self, charge: _Charge, seen: Seen, now_s: float) -> None:
        """Charge what others have used, as far as the exchange's count is not our own.

        All that may be in the count by our own doing is taken off: who is alone learns nothing.
        What is under way may not be in it yet; the next answers tell.
        """
        assert seen.used_weight is not None
        server_s = (seen.server_us or self._clock.now_us()) / 1e6
        into_minute_s = server_s % _MINUTE_S
        trip_s = now_s - charge.since_s
        begin_s = now_s - into_minute_s - 1.0 - trip_s
        if into_minute_s < _MINUTE_EDGE_S or seen.server_us is None:
            begin_s -= _MINUTE_S
        market = charge.market
        own = self._windows[market][WEIGHT].under_way
        own += sum(amount for _, end_s, amount in self._settled[market] if end_s >= begin_s)
        known = sum(amount for at_s, amount in self._foreign[market] if at_s >= begin_s)
        others = seen.used_weight - own - known
        if others > 0:
            self._foreign[market].append((now_s, others))
            self._windows[market][WEIGHT].end(others, now_s)

    def _block(self, where: str, until_s: float) -> None:
        self._blocked[where] = max(until_s, self._blocked.get(where, 0.0))

    def _quiet_s(self, market: Market, now_s: float) -> float:
        until_s = max(self._blocked.get(market, 0.0), self._blocked.get(EVERYWHERE, 0.0))
        return max(0.0, until_s - now_s)

    def _wait(
        self,
        waiting: OrderedDict[str, _Waiter],
        ticket: str,
        costs: Mapping[str, int],
        now_s: float,
    ) -> None:
        if ticket in waiting:
            waiting[ticket].until_s = now_s + _PATIENCE_S
        elif len(waiting) < self._waiting_max:
            waiting[ticket] = _Waiter(dict(costs), now_s + _PATIENCE_S)


def _later(wait_s: float, reason: str, quiet_s: float = 0.0) -> Grant:
    return Grant(False, min(wait_s + _TICK_S, _WAIT_MAX_S), reason, quiet_s)


def _ahead(waiting: Mapping[str, _Waiter], ticket: str, name: str) -> int:
    """What those who came before are still waiting for."""
    total = 0
    for other, waiter in waiting.items():
        if other == ticket:
            break
        total += waiter.costs.get(name, 0)
    return total
