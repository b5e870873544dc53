"""A clock that goes on when it is told to."""

from __future__ import annotations


class TickingClock:
    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self.now = now_us

    def now_us(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1e6

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e6)
