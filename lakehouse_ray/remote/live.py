"""`lake.live` of a lake behind a query service, by its websocket; blocking and awaited.

Whatever ends a connection but the service's own word that there is nothing to come, the next one goes
on with the next event: each has a number, and none may be missing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, Self, TypeVar

import aiohttp
import orjson
import polars as pl

from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import BadDataError, DeniedError, InvalidError, UnavailableError
from lakehouse_ray.query.follow import SLOW_S
from lakehouse_ray.query.live_events import GAP, SLOW, LiveBatch, LiveEvent, slow_frame, told_frame
from lakehouse_ray.query.live_token import LiveToken, parse_live_token
from lakehouse_ray.query.step_rows import Wanted
from lakehouse_ray.remote.background import BACKGROUND
from lakehouse_ray.remote.refusals import PROBLEM, error_of
from lakehouse_ray.remote.transport import Address, session_of

T = TypeVar("T")

_PATH = "/v1/live"
# A server that says nothing at all for so long, and does not answer, is taken to be gone.
_HEARTBEAT_S = 15.0
# Between two attempts: doubled each time, and any part of it, so that not all come at once.
_WAIT_FIRST_S, _WAIT_MAX_S = 0.1, 5.0
_MESSAGE_BYTES_MAX = 64 << 20
_CLOSING_S = 2.0
# What ends it for good; the reason says why.
_POLICY, _GONE = 1008, 4010


class AsyncLive:
    """Follows a lake behind a query service. An asynchronous iterator over events and a context
    manager; for one task, `close` for any of its loop."""

    def __init__(
        self,
        address: Address,
        wanted: Wanted,
        *,
        resume: str | None = None,
        timeout_s: float | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """timeout_s: How long after now it ends. Raises InvalidError for what cannot be meant."""
        if timeout_s is not None and not timeout_s >= 0:
            raise InvalidError(f"timeout_s cannot be {timeout_s}", "seconds; None: without an end")
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._address = address
        self._wanted = wanted
        self._until_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        self._closed = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        # Where the next connection goes on; what was received may not have been taken yet.
        self._given = resume
        self._token = LiveToken() if resume is None else parse_live_token(resume, wanted)
        # That of the last event that was taken.
        self._told = self._token
        # Of this connection: how long it was not read from at most.
        self._blocked_s = 0.0
        self._batches = self._follow()
        self._events = self._each()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def resume(self) -> str:
        """Where it is: given as `resume=`, following goes on with the next event."""
        if self._given is None:
            raise InvalidError("it has not begun", "enter it first: async with lake.live(…)")
        return self._told.spell()

    async def open(self) -> None:
        """Connect: what is committed afterwards is told."""
        while self._socket is None and not self._over:
            await self._connect()

    async def close(self) -> None:
        """End it: what iterates over it stops."""
        self._closed.set()
        await self._hang_up()

    def batches(self) -> AsyncIterator[LiveBatch]:
        """The events, those that came together at once. Not beside the iteration over events."""
        return self._batches

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LiveEvent:
        return await anext(self._events)

    async def _each(self) -> AsyncIterator[LiveEvent]:
        async for batch in self._batches:
            for event in batch:
                self._told = event.token
                yield event

    @property
    def _over(self) -> bool:
        late = self._until_s is not None and self._clock.monotonic_s() >= self._until_s
        return late or self._closed.is_set()

    async def _follow(self) -> AsyncIterator[LiveBatch]:
        try:
            while not self._over:
                await self.open()
                message = await self._in_time(self._receive())
                if message is None:
                    if self._socket is None and self._blocked_s > SLOW_S:
                        yield self._slow()
                    continue
                for batch in self._taken(message):
                    self._told = batch.token
                    given_s = self._clock.monotonic_s()
                    yield batch
                    blocked_s = self._clock.monotonic_s() - given_s
                    self._blocked_s = max(self._blocked_s, blocked_s)
                    if self._closed.is_set():
                        return
                self._told = self._token
        finally:
            await self._hang_up()

    # The connection

    async def _connect(self) -> None:
        """Connect, trying again for as long as a question may take, or until its end."""
        wait_s, given_up_s = _WAIT_FIRST_S, self._clock.monotonic_s() + self._address.timeout_s
        while not self._over:
            try:
                message = await self._in_time(self._first())
            except UnavailableError as error:
                await self._hang_up()
                now_s = self._clock.monotonic_s()
                pause_s = max(error.retry_after_s or 0.0, wait_s * self._rng.uniform(0.5, 1))
                if now_s + pause_s > given_up_s:
                    raise
                await self._in_time(asyncio.sleep(pause_s))
                wait_s = min(2 * wait_s, _WAIT_MAX_S)
                continue
            except BaseException:
                await self._hang_up()
                raise
            if message is not None:
                # It says where following begins.
                assert not list(self._taken(message))
            self._told = self._token
            return

    async def _first(self) -> Mapping[str, Any]:
        """Open a connection and give its first message."""
        wanted = self._wanted
        params = {"dataset": wanted.dataset.name, "market": wanted.market}
        if wanted.interval is not None:
            params["interval"] = wanted.interval
        if wanted.symbols is not None:
            params["symbols"] = ",".join(sorted(wanted.symbols))
        if self._given is not None:
            params["resume"] = self._given
        if self._session is None:
            self._session = session_of(self._address)
        url = f"{self._address.url}{_PATH}"
        try:
            async with asyncio.timeout(self._address.timeout_s):
                self._socket = await self._session.ws_connect(
                    url, params=params, heartbeat=_HEARTBEAT_S, max_msg_size=_MESSAGE_BYTES_MAX
                )
                message = await self._receive(first=True)
                assert message is not None
                return message
        except aiohttp.WSServerHandshakeError as error:
            raise error_of(error.status, error.headers or {}, b"") from error
        except TimeoutError as error:
            raise UnavailableError(f"{self._address.url} does not answer") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            # By its kind alone: texts of the library may hold what was sent.
            raise UnavailableError(
                f"{self._address.url} cannot be reached: {type(error).__name__}"
            ) from error

    async def _hang_up(self) -> None:
        socket, session = self._socket, self._session
        self._socket = self._session = None
        if socket is not None:
            await socket.close()
        if session is not None:
            await session.close()

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What it returns; None: the time is up, or it was closed."""
        doing = asyncio.ensure_future(work)
        closed = asyncio.ensure_future(self._closed.wait())
        left_s = None if self._until_s is None else self._until_s - self._clock.monotonic_s()
        try:
            await asyncio.wait({doing, closed}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            closed.cancel()
            doing.cancel()

    # What it says

    async def _receive(self, *, first: bool = False) -> Mapping[str, Any] | None:
        """The next message; None: the connection has ended, and another one may go on.

        Raises what the service says, UnavailableError where the first message does not come.
        """
        socket = self._socket
        assert socket is not None
        heard = await socket.receive()
        if heard.type is aiohttp.WSMsgType.TEXT:
            message = _parsed(heard.data)
            problem = message.get("problem")
            if problem is None:
                return message
            code = problem.get("status") if isinstance(problem, dict) else None
            error = error_of(
                code if isinstance(code, int) else 500,
                {"Content-Type": PROBLEM},
                orjson.dumps(problem),
            )
            if first or not isinstance(error, UnavailableError):
                raise error
            heard = await socket.receive()
        code, reason = socket.close_code, str(heard.extra or "")
        await self._hang_up()
        if code == _POLICY:
            raise DeniedError(f"{self._address.url} ended the connection: {reason}")
        if code == _GONE:
            raise error_of(410, {}, b"")
        if first:
            raise UnavailableError(f"{self._address.url} ended the connection at once ({code})")
        return None

    def _slow(self) -> LiveBatch:
        """A connection was lost that was not read from. Nothing else is: the next one goes on."""
        self._token = self._told = replace(self._token, seq=self._token.seq + 1)
        self._given = self._token.spell()
        blocked_s, self._blocked_s = self._blocked_s, 0.0
        return LiveBatch(slow_frame(blocked_s, 0), self._wanted, self._token)

    def _taken(self, message: Mapping[str, Any]) -> Iterator[LiveBatch]:
        """The events of a message, those of a kind together."""
        try:
            events, resume = message["events"], message["resume"]
            token = parse_live_token(resume, self._wanted)
            numbers = [event["seq"] for event in events]
            frames = [
                told_frame(list(alike), self._wanted) for _, alike in groupby(events, key=_kind)
            ]
        except (ValueError, TypeError, KeyError, pl.exceptions.PolarsError) as error:
            raise _malformed() from error
        first = self._token.seq + 1
        if self._given is not None and numbers != list(range(first, first + len(events))):
            raise BadDataError(
                "SEQUENCE_BROKEN",
                f"{self._address.url} left out events: {numbers[:1]} after {first - 1}",
            )
        if token.seq != (numbers[-1] if numbers else self._token.seq):
            raise _malformed()
        left = sum(frame.height for frame in frames)
        for frame in frames:
            left -= frame.height
            self._token = token.before(left) if left else token
            self._given = self._token.spell()
            yield LiveBatch(frame, self._wanted, self._token)
        self._token, self._given = token, resume


def _kind(event: Mapping[str, Any]) -> str:
    kind = event["event"]
    return kind if kind in (GAP, SLOW) else "rows"


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _malformed() from error
    if not isinstance(message, dict):
        raise _malformed()
    return message


def _malformed() -> BadDataError:
    return BadDataError("ANSWER_MALFORMED", "a message of the service is not what it should be")


class RemoteLive:
    """The same for programs that are not asynchronous. An iterator over events and a context manager;
    for one thread, `close` for any."""

    def __init__(
        self,
        address: Address,
        wanted: Wanted,
        *,
        resume: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        async def made() -> AsyncLive:
            live = AsyncLive(address, wanted, resume=resume, timeout_s=timeout_s)
            await live.open()
            return live

        self._live = BACKGROUND.run(made())
        # That of the last event that was taken, where others of its batch were not.
        self._told: LiveToken | None = None
        self._batches = self._follow()
        self._events = self._each()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def resume(self) -> str:
        """Where it is: given as `resume=`, following goes on with the next event."""
        return self._live.resume if self._told is None else self._told.spell()

    def close(self) -> None:
        """End it: what iterates over it stops."""
        BACKGROUND.finish(self._live.close(), _CLOSING_S)

    def batches(self) -> Iterator[LiveBatch]:
        """The events, those that came together at once. Not beside the iteration over events."""
        return self._batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> LiveEvent:
        return next(self._events)

    def _each(self) -> Iterator[LiveEvent]:
        for batch in self._batches:
            for event in batch:
                self._told = event.token
                yield event
            self._told = None

    def _follow(self) -> Iterator[LiveBatch]:
        found = self._live.batches()

        async def following() -> LiveBatch | None:
            return await anext(found, None)

        while (batch := BACKGROUND.run(following())) is not None:
            yield batch
