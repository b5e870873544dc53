"""The websocket half of the replica: every connection, and what they listen to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from lakehouse_ray.testing.exchange.faults import Faults, Rule
from lakehouse_ray.testing.exchange.replay_clock import ReplayClock
from lakehouse_ray.testing.exchange.streams.book import RecordedBooks
from lakehouse_ray.testing.exchange.streams.connection import (
    INTERNAL,
    MESSAGE_BYTES_MAX,
    Asked,
    Connection,
)
from lakehouse_ray.testing.exchange.streams.events import Source
from lakehouse_ray.testing.exchange.streams.faulty import FaultLog
from lakehouse_ray.testing.exchange.streams.limits import LIMITS, StreamLimits, Window
from lakehouse_ray.testing.exchange.streams.names import PREFIXES
from lakehouse_ray.testing.exchange.streams.player import Player

_SECOND_US = 1_000_000
# Addresses whose connections are counted.
_ADDRESSES_MAX = 10_000
_CLOSE_TIMEOUT_S = 1.0


class Streams:
    """Serves websockets in the event loop in which it was started.

    sources: The first that has a stream plays it.
    books: What `depth` answers from. limits: By market.

    `cut`, `half_open`, `shut_down`, `depth`, `set_faults` and `planted` may be called from any thread.
    """

    def __init__(
        self,
        clock: ReplayClock,
        sources: Sequence[Source],
        workers: Executor,
        faults: Faults | None = None,
        *,
        books: RecordedBooks | None = None,
        limits: Mapping[str, StreamLimits] = LIMITS,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._books = books
        self._log = FaultLog(faults or Faults())
        self._player = Player(clock, sources, workers)
        self._connections: dict[int, Connection] = {}
        self._opened = 0
        self._connects: dict[tuple[str, str], Window] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._playing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._playing = self._loop.create_task(self._player.run())
        self._playing.add_done_callback(self._failed)

    async def stop(self) -> None:
        """End all connections, without a word. Raises what ended the replay before, if anything."""
        for connection in self._connections.values():
            connection.end(0, "")
        if self._playing is not None:
            self._playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._playing

    def _failed(self, playing: asyncio.Task[None]) -> None:
        """No client is to wait for what cannot come."""
        if not playing.cancelled():
            for connection in self._connections.values():
                connection.end(INTERNAL, "the replay failed")

    async def serve(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        """Answer one request for a websocket, until its connection ends."""
        limits = self._limits[asked.market]
        if not self._may_connect(request.remote or "", asked.market, limits):
            return web.Response(status=429, text="Too many connections")
        self._opened += 1
        number = self._opened
        rules = self._strikes(asked.path, number)
        wait_s = sum(float(rule.params.get("handshake_s", 0)) for rule in rules)
        await self._clock.wait_until(self._clock.now_us() + round(wait_s * _SECOND_US))
        websocket = web.WebSocketResponse(
            timeout=_CLOSE_TIMEOUT_S,
            autoping=False,
            autoclose=False,
            compress=False,
            max_msg_size=MESSAGE_BYTES_MAX,
        )
        if not websocket.can_prepare(request).ok:
            return web.Response(status=400, text="a websocket is served here")
        transport = request.transport
        if transport is None:  # it left already
            return web.Response(status=400)
        connection = Connection(
            number, asked, websocket, transport, self._player, self._clock, limits, self._log,
            rules,
        )  # fmt: skip
        self._connections[number] = connection
        try:
            await connection.run(request)
        finally:
            del self._connections[number]
        return websocket

    def set_faults(self, faults: Faults) -> None:
        """Rules of messages hold from the next message on, those of connections for new ones."""
        self._log.replace(faults)

    def cut(self, match: str = "*", how: str = "abort") -> int:
        """End every connection whose path matches, now; how many. how: `abort` or `close`."""
        return self._each(match, lambda connection: connection.cut(how))

    def half_open(self, match: str = "*") -> int:
        """Leave every connection whose path matches open but dead, now; how many."""
        return self._each(match, Connection.half_open)

    def shut_down(self, match: str = "*", in_s: float = 600.0) -> int:
        """Announce the end of every connection whose path matches, and end it in_s later."""
        return self._each(match, lambda connection: connection.shut_down(in_s))

    def depth(self, market: str, symbol: str, levels: int) -> bytes | None:
        """The book as it is now, as the depth route answers it; None where there is none of it."""
        if self._books is None:
            return None
        return self._books.answer(market, symbol, levels, self._clock.now_us())

    def planted(self) -> list[dict[str, Any]]:
        """Every fault of streams that was shown: at_us, fault, where, connection, body."""
        return self._log.planted()

    def state(self) -> dict[str, Any]:
        """What there is of connections, and how many messages left in all."""
        connections = [
            {"number": c.number, "path": c.asked.path, "streams": c.streams, "sent": c.sent}
            for c in list(self._connections.values())
        ]
        return {
            "connections": connections,
            "opened": self._opened,
            "sent": self._player.sent,
        }

    def _each(self, match: str, work: Callable[[Connection], None]) -> int:
        chosen = [
            one for one in list(self._connections.values()) if fnmatchcase(one.asked.path, match)
        ]
        for connection in chosen:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(work, connection)
        return len(chosen)

    def _may_connect(self, address: str, market: str, limits: StreamLimits) -> bool:
        if len(self._connects) >= _ADDRESSES_MAX:
            self._connects.clear()
        window = self._connects.setdefault(
            (address, market), Window(limits.connects_max, limits.connects_window_s)
        )
        return window.allows(self._clock.paced_s())

    def _strikes(self, path: str, number: int) -> list[Rule]:
        return [
            rule
            for at, rule in self._log.rules("connection", path)
            if self._log.shows(at, rule, path, number)
        ]


def asked_for(path: str, query: str) -> Asked | None:
    """What an address asks for; None where it is none of streams.

    path: Without its first "/". Names are in it, or in `streams` of the query.
    """
    for prefix, market in PREFIXES.items():
        if not path.startswith(prefix):
            continue
        root, _, names = path.removeprefix(prefix).partition("/")
        if root not in ("ws", "stream") or (root == "stream" and names):
            continue
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        texts = [*names.split("/"), *parameters.get("streams", "").split("/")]
        # Clients number their connections: /ws/0 is no stream.
        streams = tuple(dict.fromkeys(text for text in texts if text and not text.isdigit()))
        micro = market == "spot" and parameters.get("timeUnit", "").upper() == "MICROSECOND"
        return Asked(market, prefix + root, root == "stream", streams, micro)
    return None
