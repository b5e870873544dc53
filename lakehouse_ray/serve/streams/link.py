"""A websocket as its connection sees it: sending within a time, hearing within limits, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from fastapi import WebSocket, WebSocketDisconnect

from lakehouse_ray.errors import InvalidError, LakehouseError
from lakehouse_ray.query.versions import ExpiredError
from lakehouse_ray.serve.streams.hub import Holds, Hub

_log = structlog.get_logger()

# Codes with which a connection ends (RFC 6455; from 4000 on our own).
NORMAL, GOING_AWAY, POLICY, TOO_BIG, INTERNAL = 1000, 1001, 1008, 1009, 1011
SLOW, GONE = 4008, 4010
_HOLDS_EVERY_S = 2.0
_CLOSE_TIMEOUT_S = 1.0


class ClosedError(Exception):
    """The connection is to end. reason: At most 123 bytes."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Link:
    """spell: An error as the client is told of it; of what is our mistake nothing is told."""

    def __init__(
        self, websocket: WebSocket, hub: Hub, spell: Callable[[LakehouseError], tuple[bytes, str]]
    ) -> None:
        self._websocket = websocket
        self._hub = hub
        self._spell = spell
        self._heard_s: deque[float] = deque()
        # Until it is known: the connection was lost.
        self._code = 1006

    async def run(
        self,
        feed: Callable[[], Awaitable[None]],
        beside: Sequence[Callable[[], Awaitable[None]]],
        begin: Callable[[], Awaitable[None]],
        holds: Holds | None,
    ) -> None:
        """Serve an accepted connection until it ends.

        feed: What is told; the connection ends with it. beside: What is done meanwhile, `hear` in it.
        begin: Done first; its errors end the connection as those of the others do.
        holds: Whether its key still does; None: it has none.
        """
        ending = asyncio.ensure_future(self._hub.ending.wait())
        feeding = asyncio.ensure_future(feed())
        tasks: list[asyncio.Future[Any]] = [ending, feeding]
        tasks += [asyncio.ensure_future(work()) for work in beside]
        if holds is not None:
            tasks.append(asyncio.ensure_future(_lost(holds)))
        try:
            await begin()
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

    async def hear(self) -> bytes:
        """The next message. Raises ClosedError for a flood or one that is too large."""
        limits, clock = self._hub.limits, self._hub.service.clock
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1005)
        said = message.get("text")
        data = message.get("bytes") or b"" if said is None else said.encode()
        if len(data) > limits.message_bytes_max:
            raise ClosedError(TOO_BIG, f"a message has {limits.message_bytes_max} bytes at most")
        now_s = clock.monotonic_s()
        self._heard_s.append(now_s)
        while now_s - self._heard_s[0] >= 1:
            self._heard_s.popleft()
        if len(self._heard_s) > limits.messages_per_s:
            raise ClosedError(POLICY, "Too many requests")
        return data

    async def send(self, frame: bytes) -> None:
        """Raises ClosedError for a client that takes nothing for too long."""
        try:
            async with asyncio.timeout(self._hub.limits.send_timeout_s):
                await self._websocket.send({"type": "websocket.send", "text": frame.decode()})
        except TimeoutError as error:
            raise ClosedError(SLOW, "slow consumer") from error

    async def _fail(self, error: LakehouseError, code: int) -> None:
        frame, text = self._spell(error)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.send(frame)
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
