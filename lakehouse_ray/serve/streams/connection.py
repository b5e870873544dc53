"""One websocket: what the client says, and the feed's events as frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import orjson
from fastapi import WebSocket

from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.serve.streams.events import Series
from lakehouse_ray.serve.streams.feed import Feed
from lakehouse_ray.serve.streams.hub import Holds, Hub
from lakehouse_ray.serve.streams.link import POLICY, ClosedError, Link
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

# Messages that wait for the answer to the one before.
_WAITING_MAX = 100


class Connection:
    def __init__(self, websocket: WebSocket, hub: Hub, options: Options, combined: bool) -> None:
        self._link = Link(websocket, hub, _spelled)
        self._hub = hub
        self._options = options
        self._combined = combined
        self._feed = Feed(hub, options, self._send_event)
        self._said: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_MAX)
        self._prefixes: dict[str, bytes] = {}

    async def run(self, holds: Holds | None) -> None:
        """Serve an accepted connection until it ends.

        holds: Whether its key still does; None: it has none.
        """

        async def begin() -> None:
            self._feed.add(await self._prepare(self._options.streams))

        await self._link.run(self._feed.run, (self._listen, self._answer_all), begin, holds)

    # From the client

    async def _listen(self) -> None:
        while True:
            data = await self._link.hear()
            # Heard at once, so that nothing of a flood is kept, and answered one by one.
            if self._said.full():
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
        await self._link.send(frame)


def _spelled(error: LakehouseError) -> tuple[bytes, str]:
    number, text = told(error)
    return error_of(number, text), text
