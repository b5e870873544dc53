"""One websocket: what the client says, and the feed's events as frames."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import structlog
from fastapi import WebSocket, WebSocketDisconnect

from lakehouse_ray.errors import InvalidError, LakehouseError
from lakehouse_ray.query.versions import ExpiredError
from lakehouse_ray.serve.streams.events import Series
from lakehouse_ray.serve.streams.feed import Feed
from lakehouse_ray.serve.streams.hub import Holds, Hub
from lakehouse_ray.serve.streams.options import Options
from lakehouse_ray.serve.streams.protocol import (
    INVALID_REQUEST,
    Command,
    ProtocolError,
    error_of,
    parse_command,
    result_of,
    told,
)
from lakehouse_ray.serve.streams.tokens import Token

_log = structlog.get_logger()

# Codes with which a connection ends (RFC 6455; from 4000 on our own).
NORMAL, GOING_AWAY, POLICY, TOO_BIG, INTERNAL = 1000, 1001, 1008, 1009, 1011
SLOW, GONE = 4008, 4010
_HOLDS_EVERY_S = 2.0
# Messages that wait for the answer to the one before.
_WAITING_MAX = 100
_CLOSE_TIMEOUT_S = 1.0


class ClosedError(Exception):
    """The connection is to end. reason: At most 123 bytes."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Connection:
    def __init__(self, websocket: WebSocket, hub: Hub, options: Options, combined: bool) -> None:
        self._websocket = websocket
        self._hub = hub
        self._options = options
        self._combined = combined
        self._feed = Feed(hub, options, self._send_event)
        self._heard_s: deque[float] = deque()
        self._said: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_MAX)
        self._prefixes: dict[str, bytes] = {}
        # Until it is known: the connection was lost.
        self._code = 1006

    async def run(self, holds: Holds | None) -> None:
        """Serve an accepted connection until it ends.

        holds: Whether its key still does; None: it has none.
        """
        ending = asyncio.ensure_future(self._hub.ending.wait())
        feeding = asyncio.ensure_future(self._feed.run())
        tasks: list[asyncio.Future[Any]] = [ending, feeding]
        tasks += [asyncio.ensure_future(work()) for work in (self._listen, self._answer_all)]
        if holds is not None:
            tasks.append(asyncio.ensure_future(_lost(holds)))
        try:
            self._feed.add(await self._prepare(self._options.streams))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                raise ClosedError(GOING_AWAY, "the server stops")
            for task in tasks:
                if task.done():
                    task.result()
            raise ClosedError(NORMAL, "end of replay" if feeding.done() else "")
        except WebSocketDisconnect as error:
            self._code = error.code
        except ClosedError as error:
            await self._close(error.code, error.reason)
        except ExpiredError as error:
            await self._fail(error, GONE)
        except InvalidError as error:
            await self._fail(error, POLICY)
        except LakehouseError as error:
            _log.warning("a stream ended", reason=str(error))
            await self._fail(error, INTERNAL)
        except Exception:  # noqa: BLE001 - told in the log alone
            _log.exception("unexpected error")
            await self._fail(LakehouseError(), INTERNAL)  # of which nothing is told
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._hub.told.closed(self._code)

    # From the client

    async def _listen(self) -> None:
        limits, clock = self._hub.limits, self._hub.service.clock
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1005)
            said = message.get("text")
            data = message.get("bytes") or b"" if said is None else said.encode()
            if len(data) > limits.message_bytes_max:
                raise ClosedError(
                    TOO_BIG, f"a message has {limits.message_bytes_max} bytes at most"
                )
            now_s = clock.monotonic_s()
            self._heard_s.append(now_s)
            while now_s - self._heard_s[0] >= 1:
                self._heard_s.popleft()
            # Heard at once, so that nothing of a flood is kept, and answered one by one.
            if len(self._heard_s) > limits.messages_per_s or self._said.full():
                raise ClosedError(POLICY, "Too many requests")
            self._said.put_nowait(data)

    async def _answer_all(self) -> None:
        while True:
            await self._answer(await self._said.get())

    async def _answer(self, data: bytes) -> None:
        try:
            command = parse_command(data)
        except ProtocolError as error:
            await self._send(error_of(error.code, error.message, error.message_id))
            return
        try:
            await self._obey(command)
        except LakehouseError as error:
            await self._send(error_of(*told(error), command.id))

    async def _obey(self, command: Command) -> None:
        if command.method == "SUBSCRIBE":
            prepared = await self._prepare(command.streams)
            # Before its first event.
            await self._send(result_of(command.id))
            self._feed.add(prepared)
            return
        result: object = None
        if command.method == "UNSUBSCRIBE":
            self._feed.remove(command.streams)
        elif command.method == "LIST_SUBSCRIPTIONS":
            result = list(self._feed.streams)
        elif command.method == "SET_PROPERTY":
            self._combined = command.combined
        else:
            result = self._combined
        await self._send(result_of(command.id, result))

    async def _prepare(self, streams: Sequence[str]) -> list[Series]:
        """All of the streams, or an error."""
        most = self._hub.limits.streams_max
        if len({*self._feed.streams, *streams}) > most:
            raise ProtocolError(
                INVALID_REQUEST, f"Invalid request: too many streams, a connection has {most}"
            )
        return await self._feed.prepare(streams)

    # To the client

    async def _send_event(
        self, stream: str, body: bytes, seq: int, token: Callable[[], Token]
    ) -> None:
        frame = body
        if self._combined or self._options.events:
            prefix = self._prefixes.get(stream)
            if prefix is None:
                prefix = b'{"stream":' + orjson.dumps(stream) + b',"data":'
                self._prefixes[stream] = prefix
            frame = prefix + body
            if self._options.events:
                frame += b',"seq":%d,"resume":"%s"' % (seq, token().spell().encode())
            frame += b"}"
        await self._send(frame)
        self._hub.told.event(stream.partition("@")[2].partition("_")[0] or stream)

    async def _send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(self._hub.limits.send_timeout_s):
                await self._websocket.send({"type": "websocket.send", "text": frame.decode()})
        except TimeoutError as error:
            raise ClosedError(SLOW, "slow consumer") from error

    async def _fail(self, error: LakehouseError, code: int) -> None:
        number, text = told(error)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._send(error_of(number, text))
        await self._close(code, text)

    async def _close(self, code: int, reason: str) -> None:
        self._code = code
        # Nobody may be there to hear it.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._websocket.close(code, reason.encode()[:120].decode(errors="ignore"))


async def _lost(holds: Holds) -> None:
    while await asyncio.to_thread(holds):  # noqa: ASYNC110 - a file says so, no event
        await asyncio.sleep(_HOLDS_EVERY_S)
    raise ClosedError(POLICY, "the API key holds no more")
