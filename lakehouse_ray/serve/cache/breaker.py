"""Whether something outside is asked at all: not for a while after it has failed."""

from __future__ import annotations

import structlog

from lakehouse_ray.clock import Clock

_log = structlog.get_logger()


class Breaker:
    """Open after a failure. Then one question is let through now and again, and closes it.

    Told once per change of state. For one event loop.
    """

    def __init__(
        self, what: str, clock: Clock, *, pause_s: float = 1.0, pause_s_max: float = 30.0
    ) -> None:
        """what: Its name in the log. pause_s: After the first failure; doubled with each trial."""
        self._what = what
        self._clock = clock
        self._first_s = pause_s
        self._most_s = pause_s_max
        self._pause_s = pause_s
        self._retry_at_s: float | None = None
        self._trying = False

    @property
    def closed(self) -> bool:
        return self._retry_at_s is None

    def allows(self) -> bool:
        """Whether to ask now. Who is let through has to tell what became of it."""
        if self._retry_at_s is None:
            return True
        now_s = self._clock.monotonic_s()
        if now_s < self._retry_at_s:
            return False
        self._trying = True
        self._retry_at_s = now_s + self._pause_s
        return True

    def succeeded(self) -> None:
        if self._retry_at_s is None:
            return
        self._retry_at_s, self._trying, self._pause_s = None, False, self._first_s
        _log.info("works again", what=self._what)

    def failed(self, reason: str) -> None:
        """reason: For the log; without addresses and passwords."""
        now_s = self._clock.monotonic_s()
        if self._retry_at_s is None:
            _log.warning("does not work; going on without it", what=self._what, reason=reason)
            self._retry_at_s = now_s + self._pause_s
        elif self._trying:
            # Others that fail were asked before: they say nothing new.
            self._trying = False
            self._pause_s = min(2 * self._pause_s, self._most_s)
            self._retry_at_s = now_s + self._pause_s
