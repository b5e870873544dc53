"""One websocket of the replica: commands in, frames out, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from aiohttp import WSMsgType, web

from lakehouse_ray.testing.exchange.faults import Rule
from lakehouse_ray.testing.exchange.replay_clock import ReplayClock
from lakehouse_ray.testing.exchange.streams import commands
from lakehouse_ray.testing.exchange.streams.commands import Command, CommandError
from lakehouse_ray.testing.exchange.streams.events import Event
from lakehouse_ray.testing.exchange.streams.faulty import FaultLog, FaultyMessages, Planted
from lakehouse_ray.testing.exchange.streams.frames import PING, PONG, encode, text_frame
from lakehouse_ray.testing.exchange.streams.limits import StreamLimits, Window
from lakehouse_ray.testing.exchange.streams.names import InvalidStreamError, StreamName, parse
from lakehouse_ray.testing.exchange.streams.player import Player, Timer

NORMAL, GOING_AWAY, POLICY, INTERNAL = 1000, 1001, 1008, 1011
MESSAGE_BYTES_MAX = 64 * 2**10
# What may wait in a socket before the replay waits for its client, and until when.
_BEHIND_BYTES_MAX = 4 * 2**20
_LOOK_EVERY_S = 0.002
# Real seconds: a client's own slowness must not look like the silence of a dead one at high speed.
_ANSWER_REAL_S_MIN = 1.0
_PING_REAL_S_MIN = 0.05
_CLOSE_TIMEOUT_S = 2.0
_SECOND_US = 1_000_000


@dataclass(frozen=True)
class Asked:
    """What the address says. path: Of the connection, without names; faults match it."""

    market: str
    path: str
    combined: bool
    streams: tuple[str, ...] = ()
    micro: bool = False


class Connection:
    """An accepted websocket, until `run` returns.

    rules: Faults of connections that strike this one.
    """

    def __init__(
        self,
        number: int,
        asked: Asked,
        websocket: web.WebSocketResponse,
        transport: asyncio.Transport,
        player: Player,
        clock: ReplayClock,
        limits: StreamLimits,
        log: FaultLog,
        rules: Sequence[Rule],
    ) -> None:
        self.number = number
        self.asked = asked
        self.combined = asked.combined
        self._websocket = websocket
        self._transport = transport
        self._player = player
        self._clock = clock
        self._limits = limits
        self._log = log
        self._rules = rules
        self._out: list[bytes] = []
        self._names: dict[str, StreamName] = {}
        self._messages = Window(limits.messages_per_s, 1.0)
        self._timers: set[Timer] = set()
        self._ping: tuple[bytes, float] | None = None
        self._ending: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        # Nothing of streams is sent; nothing at all, and nothing heard.
        self._silent = self._deaf = False
        self._faulty: FaultyMessages | None = None
        self._generation = -1
        self.sent = 0

    @property
    def streams(self) -> list[str]:
        return list(self._names)

    # The player's side

    def take(self, name: StreamName, event: Event, frame: bytes) -> None:
        if self._silent:
            return
        if self._generation != self._log.generation:
            self._generation = self._log.generation
            faulty = self._log.any("message")
            self._faulty = FaultyMessages(self._log, self) if faulty else None
        if self._faulty is None:
            self._out.append(frame)
        else:
            self._faulty.take(name, event, frame)

    def put(self, frame: bytes) -> None:
        """A message of a stream: none while the connection stalls."""
        if not self._silent:
            self._out.append(frame)

    def _say(self, frame: bytes) -> None:
        """An answer or a ping: those go on while it stalls, but not where it is half open."""
        if not self._deaf:
            self._out.append(frame)

    def flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self.sent += len(out)
            if not self._transport.is_closing():
                self._transport.write(b"".join(out))

    async def caught_up(self) -> None:
        waited_s = 0.0
        while self._transport.get_write_buffer_size() > _BEHIND_BYTES_MAX:
            if self._ending.done() or self._transport.is_closing():
                return
            if waited_s >= self._limits.slow_real_s:
                self._note("slow_consumer")
                self.end(0, "")
                return
            await asyncio.sleep(_LOOK_EVERY_S)
            waited_s += _LOOK_EVERY_S

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        moment_us = self.now_us() + round(delay_s * _SECOND_US)

        def run() -> None:
            self._timers.discard(timer)
            work()

        timer = self._player.at(moment_us, run)
        self._timers.add(timer)

    def now_us(self) -> int:
        return self._clock.now_us()

    # How it goes on and ends

    async def run(self, request: web.BaseRequest) -> None:
        """Serve until the client leaves, or the exchange ends it."""
        listening: asyncio.Future[None] | None = None
        try:
            # First, so that who reads that it is open misses nothing.
            self._begin()
            await self._websocket.prepare(request)
            self._player.listeners.add(self)
            listening = asyncio.ensure_future(self._listen())
            await asyncio.wait((listening, self._ending), return_when=asyncio.FIRST_COMPLETED)
            while self._deaf and not (self._ending.done() or self._transport.is_closing()):  # noqa: ASYNC110 - no event tells it
                # The client has said good-bye, and nobody is there who would hear it.
                await asyncio.sleep(_LOOK_EVERY_S)
            if self._ending.done():
                await self._close(*self._ending.result())
        finally:
            self._player.listeners.discard(self)
            for name in self._names.values():
                self._player.leave(name, self)
            self._forget_timers()
            if listening is not None:
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening

    def end(self, code: int, reason: str) -> None:
        """Close it soon. code: 0: without a closing handshake."""
        if not self._ending.done():
            self._ending.set_result((code, reason))

    def tell_shutdown(self) -> None:
        """The event that comes before the end of a connection of spot."""
        moment_ms = self.now_us() // 1000
        self._say(text_frame(b'{"e":"serverShutdown","E":%d}' % moment_ms))

    async def _close(self, code: int, reason: str) -> None:
        self.flush()
        if code and not self._deaf:
            # Nobody may be there to answer it, or to read it.
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._websocket.close(code=code, message=reason.encode())
        self._transport.abort()

    def _begin(self) -> None:
        self.later(self._limits.life_s, partial(self.end, GOING_AWAY, ""))
        if self._limits.notice_s:
            self.later(self._limits.life_s - self._limits.notice_s, self.tell_shutdown)
        self.later(self._limits.ping_every_s, self._send_ping)
        for rule in self._rules:
            self._arm(rule)
        try:
            self._subscribe(self.asked.streams, None)
        except CommandError as error:
            self._say(text_frame(error.answer()))
            self.end(POLICY, error.text)

    # The client's side

    async def _listen(self) -> None:
        while True:
            message = await self._websocket.receive()
            kind = message.type
            if kind in (WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR):
                return
            if self._deaf:
                if kind is WSMsgType.CLOSE:
                    return
                continue
            if kind is WSMsgType.CLOSE:
                self.end(message.data or NORMAL, "")
                return
            if not self._messages.allows(self._clock.paced_s()):
                self.end(POLICY, "Too many requests")
                return
            if kind is WSMsgType.PING:
                self._say(encode(PONG, bytes(message.data)))
            elif kind is WSMsgType.PONG:
                # One that was not asked for is allowed, and helps nobody.
                if self._ping is not None and bytes(message.data) == self._ping[0]:
                    self._ping = None
            else:
                self._obey(message.data)
            self.flush()

    def _obey(self, text: str | bytes) -> None:
        try:
            command = commands.parse_command(text)
            self._answer(command)
        except CommandError as error:
            self._say(text_frame(error.answer()))

    def _answer(self, command: Command) -> None:
        value: object = None
        if command.method == "SUBSCRIBE":
            self._subscribe(command.params, command.id)
        elif command.method == "UNSUBSCRIBE":
            for text in command.params:
                name = self._names.pop(text, None)
                if name is not None:
                    self._player.leave(name, self)
        elif command.method == "LIST_SUBSCRIPTIONS":
            value = list(self._names)
        elif command.method == "SET_PROPERTY":
            self.combined = command.params[1]
        else:
            value = self.combined
        # The answer before the first event: events are taken by the player, later.
        self._say(text_frame(commands.result(command.id, value)))

    def _subscribe(self, texts: tuple[str, ...], id: int | str | None) -> None:
        """All of them or none."""
        market, micro = self.asked.market, self.asked.micro
        try:
            names = {text: parse(market, text, micro=micro) for text in texts}
        except InvalidStreamError as error:
            raise CommandError(
                commands.INVALID_REQUEST, "Invalid request: invalid stream", id
            ) from error
        if len(self._names | names) > self._limits.streams_max:
            raise CommandError(commands.TOO_MANY, "Too many subscriptions", id)
        self._names |= names
        for name in names.values():
            self._player.listen(name, self)

    # Pings

    def _send_ping(self) -> None:
        now_us = self.now_us()
        if self._ping is None:
            payload = str(now_us // 1000).encode()
            self._ping = (payload, asyncio.get_running_loop().time())
            self.later(self._limits.pong_within_s, partial(self._expect_pong, payload))
        self._say(encode(PING, self._ping[0]))
        every_s = max(self._limits.ping_every_s, _PING_REAL_S_MIN * self._clock.speed)
        self.later(every_s, self._send_ping)

    def _expect_pong(self, payload: bytes) -> None:
        if self._ping is None or self._ping[0] != payload:
            return
        loop = asyncio.get_running_loop()
        left_s = self._ping[1] + _ANSWER_REAL_S_MIN - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._expect_pong, payload)
        else:
            self.end(POLICY, "Pong timeout")

    # Faults of the connection

    def _arm(self, rule: Rule) -> None:
        params = rule.params
        work: Callable[[], None]
        if rule.fault == "slow_start":
            if params["first_s"]:
                self._stall(rule.fault, float(params["first_s"]))
            return
        if rule.fault == "connection_stalls":
            work = partial(self._stall, rule.fault, float(params["for_s"]))
        elif rule.fault == "half_open":
            work = self.half_open
        else:
            work = partial(self.cut, str(params["how"]))
        self.later(float(params["after_s"]), work)

    def cut(self, how: str) -> None:
        """The exchange ends it: how is `close` (with a handshake) or `abort` (without)."""
        self._note("connection_cut")
        self.end(GOING_AWAY if how == "close" else 0, "")

    def half_open(self) -> None:
        """From now on nothing is sent and nothing is heard, and the socket stays as it is."""
        self._note("half_open")
        self.flush()
        self._silent = self._deaf = True
        self._forget_timers()

    def shut_down(self, in_s: float) -> None:
        """Tell it, and end it later."""
        self.tell_shutdown()
        self.later(in_s, partial(self.end, GOING_AWAY, ""))

    def _stall(self, fault: str, for_s: float) -> None:
        self._note(fault)
        self._silent = True
        if for_s:
            self.later(for_s, partial(self._go_on, fault))

    def _go_on(self, fault: str) -> None:
        self._note(f"{fault}_over")
        self._silent = False

    def _forget_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _note(self, fault: str) -> None:
        self._log.note(Planted(self.now_us(), fault, self.asked.path, self.number))
