"""The one place that reads the time or waits for it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Onward:
    """Moments that a clock tells which may be set back, as moments that never go back.

    While the clock is behind what it told before, they go on at the pace of its monotonic one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_us = 0
        self._last_s = clock.monotonic_s()

    def us(self, told_us: int) -> int:
        """The moment that counts for one that was told now, µs."""
        now_s = self._clock.monotonic_s()
        if told_us < self._last_us:
            told_us = self._last_us + max(0, round((now_s - self._last_s) * 1_000_000))
        self._last_us, self._last_s = told_us, now_s
        return told_us
