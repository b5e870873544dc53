"""What the exchange lets one address ask: weights by the minute, requests by five minutes, bans.

Windows are those of the exchange's clock: a count begins anew when a minute does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lakehouse_ray.testing.exchange.api import refusals
from lakehouse_ray.testing.exchange.api.refusals import Refusal
from lakehouse_ray.testing.exchange.rest import WEIGHT_PER_MINUTE

MINUTE_MS = 60_000
_FIVE_MINUTES_MS = 300_000
# Windows whose totals are remembered: a week of minutes.
WINDOWS_MAX = 10_080
# Longer than any ban of the exchange: 3 days.
_BAN_MS_MAX = 259_200_000


@dataclass(frozen=True)
class RateLimits:
    """Per address and market.

    weight_per_minute: By market.
    counted: Routes that have a count of their own: their names to requests in five minutes. Those
        of one name share it.
    refused_max: Requests that are refused with 429 in a window; the next one gets a ban.
    ban_s: How long the first ban lasts; each further one twice as long as that before, to 3 days.
    """

    weight_per_minute: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType(WEIGHT_PER_MINUTE)
    )
    counted: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType({"funding": 500, "statistics": 1000})
    )
    refused_max: int = 10
    ban_s: float = 120.0


@dataclass(frozen=True)
class Admission:
    """Whether a request is answered, and what its headers say.

    refusal: None where it is. retry_after_s: With a refusal.
    """

    used_weight: int
    refusal: Refusal | None = None
    retry_after_s: int = 0


@dataclass
class _Address:
    """What one address has done in one market."""

    window_ms: int = -1
    used: int = 0
    refused: int = 0
    counted: dict[str, tuple[int, int]] = field(default_factory=dict)
    quiet_until_ms: int = 0
    banned_until_ms: int = 0
    bans: int = 0


class Meter:
    """Counts what addresses ask. To be used from one thread.

    Every request counts, those that are refused too.
    """

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._addresses: dict[tuple[str, str], _Address] = {}
        self._windows: dict[tuple[str, int], int] = {}
        self._told: Counter[tuple[str, str]] = Counter()

    def admit(
        self, market: str, address: str, weight: int, counted: str | None, now_ms: int
    ) -> Admission:
        """Count a request. counted: The name of the count that it has besides its weight."""
        state = self._addresses.setdefault((market, address), _Address())
        window_ms = now_ms - now_ms % MINUTE_MS
        if state.window_ms != window_ms:
            state.window_ms, state.used, state.refused = window_ms, 0, 0
        self._told[market, "requests"] += 1
        if now_ms < state.banned_until_ms:
            self._told[market, "while_banned"] += 1
            return _banned(market, state, now_ms)
        if now_ms < state.quiet_until_ms:
            self._told[market, "too_soon"] += 1
        state.used += weight
        self._note(market, window_ms, state.used)
        most = self._limits.weight_per_minute[market]
        wait_ms = 0
        if state.used > most:
            wait_ms = window_ms + MINUTE_MS - now_ms
        if counted is not None:
            wait_ms = max(wait_ms, self._count(state, counted, now_ms))
        if not wait_ms:
            return Admission(state.used)
        self._told[market, "refused"] += 1
        state.refused += 1
        if state.refused > self._limits.refused_max:
            self._ban(market, state, now_ms)
            return _banned(market, state, now_ms)
        wait_s = _seconds_up(wait_ms)
        self.hush(market, address, now_ms, wait_s)
        return Admission(state.used, refusals.too_many_requests(market, most), wait_s)

    def hush(self, market: str, address: str, now_ms: int, wait_s: float) -> None:
        """Note that an address was told to wait: what it asks before counts as too soon."""
        state = self._addresses.setdefault((market, address), _Address())
        state.quiet_until_ms = max(state.quiet_until_ms, now_ms + round(wait_s * 1000))

    def ban(self, market: str, address: str, now_ms: int, ban_s: float) -> Admission:
        """Ban an address from now on, whatever it did."""
        state = self._addresses.setdefault((market, address), _Address())
        state.banned_until_ms = max(state.banned_until_ms, now_ms + round(ban_s * 1000))
        self._told[market, "bans"] += 1
        return _banned(market, state, now_ms)

    def weight_max(self, market: str) -> int:
        return self._limits.weight_per_minute[market]

    def told(self) -> dict[str, dict[str, Any]]:
        """By market: requests, refused, too_soon, while_banned, bans, and the weight of each window.

        too_soon: Those that came before the end of a Retry-After; also such as were on their way
            when it was told.
        windows: The start of the minute, in ms since 1970, to the weight that one address used at
        most.
        """
        found: dict[str, dict[str, Any]] = {}
        for market in self._limits.weight_per_minute:
            names = ("requests", "refused", "too_soon", "while_banned", "bans")
            counts: dict[str, Any] = {name: self._told[market, name] for name in names}
            counts["limit"] = self._limits.weight_per_minute[market]
            counts["windows"] = {
                str(start): used for (of, start), used in self._windows.items() if of == market
            }
            found[market] = counts
        return found

    def _note(self, market: str, window_ms: int, used: int) -> None:
        key = (market, window_ms)
        self._windows[key] = max(self._windows.get(key, 0), used)
        while len(self._windows) > WINDOWS_MAX:
            del self._windows[next(iter(self._windows))]

    def _count(self, state: _Address, name: str, now_ms: int) -> int:
        """How long the count of a route is over, in ms; 0 where it is not."""
        window_ms = now_ms - now_ms % _FIVE_MINUTES_MS
        start_ms, count = state.counted.get(name, (window_ms, 0))
        count = count + 1 if start_ms == window_ms else 1
        state.counted[name] = (window_ms, count)
        return window_ms + _FIVE_MINUTES_MS - now_ms if count > self._limits.counted[name] else 0

    def _ban(self, market: str, state: _Address, now_ms: int) -> None:
        lasts_ms = min(_BAN_MS_MAX, round(self._limits.ban_s * 1000) * 2**state.bans)
        state.bans += 1
        state.banned_until_ms = now_ms + lasts_ms
        self._told[market, "bans"] += 1


def _banned(market: str, state: _Address, now_ms: int) -> Admission:
    until_ms = state.banned_until_ms
    return Admission(state.used, refusals.banned(market, until_ms), _seconds_up(until_ms - now_ms))


def _seconds_up(milliseconds: int) -> int:
    return max(1, -(-milliseconds // 1000))
