"""What the exchange allows its websocket clients, and how it counts that."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class StreamLimits:
    """Of one market; seconds are the exchange's own. From Binance's pages on its streams.

    messages_per_s: That a client may send, pings and pongs among them; one more, and it is cut off.
    ping_every_s: The server pings; a ping that is not answered within pong_within_s ends it.
    life_s: A connection ends when it is so old; notice_s before a `serverShutdown` is sent, of a
        market that has it (else 0).
    connects_max: Connections that may be made from one address in connects_window_s; the next are
        refused with 429.
    slow_real_s: Real seconds for which the replay waits for a client that does not read; then its
        connection is closed.
    """

    messages_per_s: int
    ping_every_s: float
    pong_within_s: float
    notice_s: float = 0.0
    streams_max: int = 1024
    life_s: float = 86_400.0
    connects_max: int = 300
    connects_window_s: float = 300.0
    slow_real_s: float = 10.0


LIMITS: Mapping[str, StreamLimits] = MappingProxyType(
    {
        "spot": StreamLimits(5, ping_every_s=20, pong_within_s=60, notice_s=600),
        "um": StreamLimits(10, ping_every_s=180, pong_within_s=600),
        "cm": StreamLimits(10, ping_every_s=180, pong_within_s=600),
    }
)


class Window:
    """Counts what happened in the last seconds, up to one more than is allowed."""

    def __init__(self, most: int, window_s: float) -> None:
        self._most = most
        self._window_s = window_s
        self._moments_s: deque[float] = deque(maxlen=most + 1)

    def allows(self, now_s: float) -> bool:
        """Note one that happens now. Whether it was allowed; what was not counts too."""
        self._moments_s.append(now_s)
        while now_s - self._moments_s[0] >= self._window_s:
            self._moments_s.popleft()
        return len(self._moments_s) <= self._most
