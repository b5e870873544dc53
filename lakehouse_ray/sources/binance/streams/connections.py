"""The sockets of a capture: opened, read, answered and closed as their sessions say."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
import structlog

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.limits import CONNECTS
from lakehouse_ray.sources.binance.rest_answers import hear
from lakehouse_ray.sources.binance.streams.names import Stream
from lakehouse_ray.sources.binance.streams.session import (
    Action,
    ConnectPace,
    Session,
    SessionRules,
    spread,
)
from lakehouse_ray.sources.budget import Seen
from lakehouse_ray.sources.turns import Turns

# Frames of the exchange are some KB at most; what is larger is none.
FRAME_BYTES_MAX = 4 << 20
_CONNECT_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
# How often sessions are asked what is due, and what came is handed over.
TICK_S = 0.05
_NAME_FROM = len(b'{"stream":"')
# A warning of the exchange is shorter than this.
_WARNING_BYTES_MAX = 160

log = structlog.get_logger(__name__)


class Sink(Protocol):
    """Where frames go. Called in the thread of the event loop; has to be quick."""

    def frames(self, received_us: list[int], connections: list[int], data: list[bytes]) -> None:
        """What came since the last call, in the order in which it came; before any mark of what
        happened later. When each was received may go back where the machine's clock was set back."""

    def mark(self, received_us: int, connection: int, what: str) -> None:
        """Something happened to a connection."""

    def unheard(self, received_us: int, connection: int, since_us: int, names: list[str]) -> None:
        """Streams are heard again that no connection had. since_us: 0: since before this capture."""

    def tick(self) -> None:
        """A moment has passed; called some twenty times a second."""


@dataclass
class _Inbox:
    """What came on a connection since it was handed over last. received_us: Of each."""

    received_us: list[int] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)


@dataclass
class Tally:
    """What the connections of a capture did. failure: Why the last one that failed did."""

    opened: int = 0
    failed: int = 0
    ended: int = 0
    replaced: int = 0
    frames: int = 0
    frame_bytes: int = 0
    failure: str = ""


def stream_url(base: str, names: Sequence[str], *, microseconds: bool) -> str:
    """The address of a combined connection. base: `wss://…`, of one market."""
    streams = "/".join(quote(name, safe="@") for name in names)
    return f"{base}/stream?streams={streams}" + ("&timeUnit=MICROSECOND" if microseconds else "")


class Connections:
    """All connections of one market's streams.

    per_connection_max: Streams that share one. pace: Of this machine's address, or its part.
    turns: Of all who connect from it, or ask anything else.
    microseconds: Ask for times in µs; spot alone gives them.
    """

    def __init__(
        self,
        base: str,
        market: Market,
        streams: Sequence[Stream],
        sink: Sink,
        *,
        per_connection_max: int,
        rules: SessionRules,
        pace: ConnectPace,
        turns: Turns,
        clock: Clock,
        rng: random.Random,
        microseconds: bool = True,
    ) -> None:
        self._market = market
        self._turns = turns
        self._sink = sink
        self._clock = clock
        groups = spread([(stream.symbol, stream.name) for stream in streams], per_connection_max)
        asked = microseconds and market == "spot"
        self._groups = groups
        self._unheard_since_us = dict.fromkeys(range(len(groups)), 0)
        self._urls = [stream_url(base, group, microseconds=asked) for group in groups]
        self._sessions = [
            Session(rules, pace, rng, first, len(groups)) for first in range(len(groups))
        ]
        self._sockets: dict[int, aiohttp.ClientWebSocketResponse[bool]] = {}
        # By connection; counted and handed over all at once.
        self._inboxes: dict[int, _Inbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    @property
    def up(self) -> int:
        """Groups of streams that have an open connection."""
        return sum(session.up for session in self._sessions)

    @property
    def groups(self) -> int:
        return len(self._sessions)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the connections up until `stop` is set; then close them.

        Errors of single connections are answered by opening the next; what is raised here is our
        own fault, or the sink's.
        """
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
        ) as http:
            try:
                while not stop.is_set():
                    self._step(http)
                    self._sink.tick()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), TICK_S)
            finally:
                await self._close_all()
                self._sink.tick()

    def _step(self, http: aiohttp.ClientSession) -> None:
        now_s = self._clock.monotonic_s()
        self._hand_over()
        for session in self._sessions:
            for action in session.due(now_s):
                self._start(http, session, action)
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()

    def _hand_over(self) -> None:
        """Give out what came, in its order."""
        now_s = self._clock.monotonic_s()
        filled = [(number, inbox) for number, inbox in self._inboxes.items() if inbox.frames]
        if not filled:
            return
        times: list[int] = []
        numbers: list[int] = []
        frames: list[bytes] = []
        for number, inbox in filled:
            self._count(number, inbox, now_s)
            times += inbox.received_us
            numbers += [number] * len(inbox.frames)
            frames += inbox.frames
            inbox.received_us, inbox.frames = [], []
        if len(filled) > 1:
            order = sorted(range(len(times)), key=times.__getitem__)
            times = [times[place] for place in order]
            numbers = [numbers[place] for place in order]
            frames = [frames[place] for place in order]
        self._sink.frames(times, numbers, frames)

    def _count(self, number: int, inbox: _Inbox, now_s: float) -> None:
        """Tell the session what came; say what a connection that was open did not hear."""
        frames = inbox.frames
        self.tally.frames += len(frames)
        self.tally.frame_bytes += sum(map(len, frames))
        symbols = Counter([data[_NAME_FROM : data.find(b"@", _NAME_FROM)] for data in frames])
        told = {name.decode(errors="replace"): count for name, count in symbols.items()}
        session = self._session(number)
        stalled = session.heard(number, told, now_s)
        if stalled is not None:
            group = self._groups[number % len(self._groups)]
            names = [name for name in group if name.partition("@")[0] not in stalled.heard]
            since_us = self._clock.now_us() - round((now_s - stalled.since_s) * 1e6)
            self._sink.unheard(inbox.received_us[0], number, since_us, names)
        if any(b'"serverShutdown"' in data for data in frames if len(data) < _WARNING_BYTES_MAX):
            session.warned(number)

    def _start(self, http: aiohttp.ClientSession, session: Session, action: Action) -> None:
        number = action.connection
        if action.what == "open":
            if action.why:
                self.tally.replaced += 1
                log.info("connection is replaced", connection=number, why=action.why)
            self._tasks.add(asyncio.create_task(self._listen(http, session, number)))
            return
        socket = self._sockets.get(number)
        if socket is None:
            return
        work = self._close(socket) if action.what == "close" else self._ping(socket)
        self._tasks.add(asyncio.create_task(work))

    async def _listen(self, http: aiohttp.ClientSession, session: Session, number: int) -> None:
        why = ""
        try:
            socket = await self._connect(http, self._urls[self._sessions.index(session)])
        except (aiohttp.ClientError, TimeoutError, OSError, UnavailableError) as error:
            self.tally.failed += 1
            why = self.tally.failure = f"{type(error).__name__}: {error}"[:300]
            log.warning("connection failed", connection=number, why=why)
            session.ended(number, self._clock.monotonic_s(), _seen(error).quiet_s)
            return
        self.tally.opened += 1
        self._sockets[number] = socket
        self._inboxes[number] = _Inbox()
        self._note_opened(session, number)
        try:
            why = await self._read(socket, session, number)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = f"{type(error).__name__}: {error}"[:300]
        finally:
            self.tally.ended += 1
            del self._sockets[number]
            self._hand_over()
            del self._inboxes[number]
            session.ended(number, self._clock.monotonic_s())
            now_us = self._clock.now_us()
            if not session.up:
                self._unheard_since_us[number % len(self._groups)] = now_us
            self._sink.mark(now_us, number, f"ended {why}".strip())
            with contextlib.suppress(Exception):
                await socket.close()

    async def _connect(
        self, http: aiohttp.ClientSession, url: str
    ) -> aiohttp.ClientWebSocketResponse[bool]:
        """Open a connection when it is this one's turn."""
        ticket = await self._turns.granted(self._market, {CONNECTS: 1})
        seen = Seen()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                return await http.ws_connect(
                    url,
                    autoping=False,
                    max_msg_size=FRAME_BYTES_MAX,
                    decode_text=False,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
                )
        except aiohttp.ClientError as error:
            seen = _seen(error)
            raise
        finally:
            await self._turns.settle(ticket, self._market, seen)

    def _note_opened(self, session: Session, number: int) -> None:
        self._hand_over()
        now_us, group = self._clock.now_us(), number % len(self._groups)
        if not session.up:
            since_us = self._unheard_since_us[group]
            self._sink.unheard(now_us, number, since_us, self._groups[group])
        session.opened(number, self._clock.monotonic_s())
        self._sink.mark(now_us, number, "opened")

    async def _read(
        self, socket: aiohttp.ClientWebSocketResponse[bool], session: Session, number: int
    ) -> str:
        """Hand over what comes until the connection ends; return why it did."""
        clock, inbox = self._clock, self._inboxes[number]
        receive, text, now_us = socket.receive, aiohttp.WSMsgType.TEXT, clock.now_us
        while True:
            message: Any = await receive()
            if message.type is text or message.type is aiohttp.WSMsgType.BINARY:
                inbox.received_us.append(now_us())
                inbox.frames.append(message.data)
            elif message.type is aiohttp.WSMsgType.PING:
                session.heard(number, {}, clock.monotonic_s())
                await socket.pong(message.data)
            elif message.type is aiohttp.WSMsgType.PONG:
                session.heard(number, {}, clock.monotonic_s())
            elif message.type is aiohttp.WSMsgType.ERROR:
                return f"{type(message.data).__name__}: {message.data}"[:300]
            else:
                return f"code {socket.close_code}"

    async def _ping(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        # It may end at this very moment; its reader says so.
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await socket.ping()

    async def _close(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            await socket.close()

    async def _close_all(self) -> None:
        await asyncio.gather(*(self._close(socket) for socket in [*self._sockets.values()]))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _session(self, number: int) -> Session:
        return self._sessions[number % len(self._sessions)]


def _seen(error: Exception) -> Seen:
    """What a handshake that was refused says of limits."""
    if not isinstance(error, aiohttp.WSServerHandshakeError):
        return Seen()
    return hear(error.status, error.headers or {}, b"").seen
