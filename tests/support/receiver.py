"""A real HTTP server that is sent alerts, and goes wrong as it is told."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass(frozen=True)
class Answer:
    """status: To answer. hang: Never to answer, before the headers or within the body. reset: To
    break the connection off."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: str = ""
    reset: bool = False


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)


class Receiver:
    """answers: For the requests to come, in turn; after them all is taken."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.received: list[Received] = []
        self.port = 0
        self._ended = asyncio.Event()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.received.append(Received(request.method, request.path_qs, request.headers, body))
        answer = self.answers.pop(0) if self.answers else Answer()
        if answer.reset:
            assert request.transport is not None
            sock = request.transport.get_extra_info("socket")
            # Closing then sends RST.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
        if answer.hang == "headers":
            await self._ended.wait()
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        await response.prepare(request)
        await response.write(b"an answer that nobody needs")
        if answer.hang == "body":
            await self._ended.wait()
        return response


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A receiver on a port of its own, in a thread of its own."""
    made, loop = Receiver(), asyncio.new_event_loop()
    application = web.Application(client_max_size=16 << 20)
    application.router.add_route("*", "/{path:.*}", made._handle)
    # The access log would repeat the addresses that a test looks for in logs.
    runner = web.AppRunner(application, shutdown_timeout=1, access_log=None)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop() -> None:
        made._ended.set()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
