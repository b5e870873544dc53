"""The exchange's own time: as fast as it is told, or standing still until it is moved."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable

from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import InvalidError

_SECOND_US = 1_000_000
# One wait of the machine; longer ones are several, as are those while the clock stands still.
_WAIT_S_MAX = 3600.0


class ReplayClock:
    """A Clock whose seconds last as long as it is told. Safe to change from any thread.

    start_us: Its first moment, µs since 1970; None: the machine's, so that at speed 1 it is the
        machine's clock.
    speed: Seconds that go by in one of the machine's. 0: it stands still until `advance` moves it.
    machine: What real time is read from.

    It never goes back.
    """

    def __init__(
        self, start_us: int | None = None, speed: float = 1.0, machine: Clock | None = None
    ) -> None:
        self._machine = machine or SystemClock()
        self._changed = threading.Condition()
        self._speed = _checked(speed)
        self._start_us = self._machine.now_us() if start_us is None else start_us
        self._then_us = self._start_us
        self._then_s = self._machine.monotonic_s()
        self._paced_s = 0.0
        self._wakers: set[Callable[[], None]] = set()

    @property
    def speed(self) -> float:
        return self._speed

    def now_us(self) -> int:
        with self._changed:
            return self._now_us()

    def monotonic_s(self) -> float:
        return (self.now_us() - self._start_us) / _SECOND_US

    def paced_s(self) -> float:
        """Seconds by which a client's diligence is measured: this clock's, or real ones where
        those are more. Who lives by the machine's clock is not punished because this one is slow.
        """
        with self._changed:
            return self._paced_s + self._real_s() * max(1.0, self._speed)

    def set_speed(self, speed: float) -> None:
        """From now on. Raises InvalidError unless it is a number, 0 or more."""
        checked = _checked(speed)
        with self._changed:
            self._settle()
            self._speed = checked
            self._tell()

    def advance(self, seconds: float) -> None:
        """Let so many seconds have gone by at once. Raises InvalidError for less than 0."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InvalidError(f"the clock cannot advance by {seconds!r} s", "give 0 or more")
        with self._changed:
            self._settle()
            self._then_us += round(seconds * _SECOND_US)
            self._paced_s += seconds
            self._tell()

    def advance_to(self, moment_us: int) -> None:
        """Let it be this moment. Raises InvalidError where that is over."""
        self.advance((moment_us - self.now_us()) / _SECOND_US)

    def sleep(self, seconds: float) -> None:
        """Block this thread until so many seconds of this clock are over."""
        with self._changed:
            due_us = self._now_us() + round(seconds * _SECOND_US)
            while (left_s := self._left_s(due_us)) > 0:
                self._changed.wait(min(left_s, _WAIT_S_MAX))

    async def wait_until(self, moment_us: int, interrupt: asyncio.Event | None = None) -> None:
        """Return once it is this moment, whatever the clock is told in between.

        interrupt: Whose setting ends the wait early; so may a change of the clock then.
        """
        woken = interrupt or asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        with self._changed:
            if self._left_s(moment_us) <= 0:
                return
            self._wakers.add(wake)
        try:
            while (left_s := self.left_s(moment_us)) > 0:
                handle = loop.call_later(min(left_s, _WAIT_S_MAX), woken.set)
                try:
                    await woken.wait()
                finally:
                    handle.cancel()
                if interrupt is not None:
                    return
                woken.clear()
        finally:
            with self._changed:
                self._wakers.discard(wake)

    def left_s(self, moment_us: int) -> float:
        """Real seconds until this moment at the present speed; infinite where it stands still."""
        with self._changed:
            return self._left_s(moment_us)

    def _left_s(self, moment_us: int) -> float:
        left_s = (moment_us - self._now_us()) / _SECOND_US
        if left_s <= 0:
            return 0.0
        return left_s / self._speed if self._speed else math.inf

    def _now_us(self) -> int:
        return self._then_us + int(self._real_s() * self._speed * _SECOND_US)

    def _real_s(self) -> float:
        return self._machine.monotonic_s() - self._then_s

    def _settle(self) -> None:
        real_s = self._real_s()
        self._then_us = self._now_us()
        self._paced_s += real_s * max(1.0, self._speed)
        self._then_s += real_s

    def _tell(self) -> None:
        self._changed.notify_all()
        for wake in self._wakers:
            wake()


def _checked(speed: float) -> float:
    if isinstance(speed, bool) or not (math.isfinite(speed) and speed >= 0):
        raise InvalidError(f"a clock's speed is {speed!r}", "give a number, 0 or more")
    return float(speed)
