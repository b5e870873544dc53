"""What every request passes: its id, whose it is, its size; and what every answer leaves with."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter as Tally
from collections.abc import Collection
from typing import Protocol
from urllib.parse import parse_qsl

import structlog
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakehouse_ray.access.keys import Holder
from lakehouse_ray.clock import Clock
from lakehouse_ray.serve.exchange_errors import spell_problem
from lakehouse_ray.serve.handshake import HOLDS, is_foreign, key_offered, refuse
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.problems import Problem, respond

_log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
# Probes carry no key. They say nothing of what is stored.
OPEN_PATHS = ("/health", "/ready")
_READING = ("GET", "HEAD", "OPTIONS")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


class KeyCheck(Protocol):
    """Says whose a key is."""

    def holder(self, key: str) -> Holder | None:
        """Who has a key that holds now, or None; takes as long for one as for the other."""


class Seen(Protocol):
    """Is told of each request that ended."""

    def __call__(self, route: str, method: str, status: int, seconds: float) -> None: ...


class Border:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        clock: Clock,
        keys: KeyCheck | None,
        hosts: Collection[str] | None,
        seen: Seen,
        tells_id: bool = True,
        origins: Collection[str] = (),
    ) -> None:
        """keys: None: whoever can connect may ask.

        hosts: Names by which the server may be called; None: any. On loopback without keys a web
            page could else reach it through a name of its own that leads to this machine.
        tells_id: Whether answers get the header X-Request-Id here; Ray Serve adds its own.
        origins: Pages of other places that may open a websocket, such as https://charts.example.
        """
        self._app = app
        self._limits = limits
        self._clock = clock
        self._keys = keys
        self._hosts = hosts
        self._seen = seen
        self._tells_id = tells_id
        self._origins = frozenset(origin.lower() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = self._clock.monotonic_s()
        request = Request(scope, receive)
        request_id = _name(scope, request)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            told = request_id if self._tells_id else None
            outgoing = _Outgoing(send, told, self._limits.send_timeout_s)
            try:
                await self._pass(scope, request, receive, outgoing)
            finally:
                seconds = self._clock.monotonic_s() - began_s
                route = getattr(scope.get("route"), "path", "none")
                self._seen(route, scope["method"], outgoing.status, seconds)
                _log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    query=scope["query_string"].decode("latin-1")[:500],
                    status=outgoing.status,
                    bytes=outgoing.size,
                    ms=round(seconds * 1000, 1),
                    key=scope.get("lakehouse.key"),
                )

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A websocket, from its handshake to its end."""
        began_s = self._clock.monotonic_s()
        connection = HTTPConnection(scope)
        sent = _Frames(send)
        with structlog.contextvars.bound_contextvars(request_id=_name(scope, connection)):
            try:
                refusal = self._refusal(scope, connection)
                if refusal is None and is_foreign(connection, self._origins):
                    refusal = Problem(
                        403, "wrong_origin", "a page of another place may not connect"
                    )
                if refusal is not None:
                    path = scope["path"]
                    body = spell_problem(refusal.code, refusal.status, refusal.detail, "GET", path)
                    await refuse(scope, sent, refusal.status, body, refusal.headers)
                else:
                    await self._app(scope, receive, sent)
            finally:
                # Not what was asked with: a token of some kilobytes, or what is no parameter.
                _log.info(
                    "websocket",
                    path=scope["path"][:500],
                    status=sent.status,
                    code=sent.code,
                    frames=sent.count,
                    bytes=sent.size,
                    seconds=round(self._clock.monotonic_s() - began_s, 3),
                    key=scope.get("lakehouse.key"),
                )

    async def _pass(
        self, scope: Scope, request: Request, receive: Receive, outgoing: _Outgoing
    ) -> None:
        refusal = self._refusal(scope, request)
        if refusal is not None:
            await respond(request, refusal)(scope, receive, outgoing)
            return
        try:
            await self._app(scope, _bounded(receive, self._limits.body_bytes_max), outgoing)
        except Exception as error:
            if outgoing.status or isinstance(error, TimeoutError):
                raise  # an answer that was begun can only be broken off
            _log.exception("unexpected error", path=scope["path"])
            problem = Problem(
                500,
                "internal",
                "something went wrong here",
                "it is our mistake; the server's log has more under the request_id",
            )
            await respond(request, problem)(scope, receive, outgoing)

    def _refusal(self, scope: Scope, request: HTTPConnection) -> Problem | None:
        """Why a request is turned away before it is looked at."""
        if self._hosts is not None and _host(request) not in self._hosts:
            return Problem(
                421, "wrong_host", "this server does not answer to that name",
                f"call it {' or '.join(sorted(self._hosts))}",
            )  # fmt: skip
        # Without keys, whatever runs on this machine may ask: so may a web page that its browser
        # shows, though not read the answer. It cannot hide where it is from.
        if self._keys is None and _changes(scope) and is_foreign(request, ()):
            return Problem(
                403, "cross_origin", "a web page of elsewhere may not ask this",
                "programs send no header Origin",
            )  # fmt: skip
        if self._keys is not None and scope["path"] not in OPEN_PATHS:
            key, keys = _key(request), self._keys
            holder = keys.holder(key)
            if holder is None:
                return Problem(
                    401, "key_needed", "a valid API key is needed",
                    "send Authorization: Bearer lk_…; `lakehouse keys create` makes one",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            scope["lakehouse.key"], scope["lakehouse.may"] = holder.id, holder.may
            # For what goes on for longer than a request.
            scope[HOLDS] = lambda: keys.holder(key) == holder
        length = request.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._limits.body_bytes_max:
            return _too_large(self._limits.body_bytes_max)
        counts = Tally(name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), True))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            return Problem(
                422, "invalid", f"given more than once: {', '.join(twice)[:200]}",
                "each parameter is given once; several values go into one, with commas",
            )  # fmt: skip
        return None


def _too_large(bytes_max: int) -> Problem:
    return Problem(413, "body_too_large", f"a request's body may have {bytes_max:,} bytes")


def _bounded(receive: Receive, bytes_max: int) -> Receive:
    """A body without a length may grow beyond what it may have."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > bytes_max:
                raise HTTPException(413, f"a request's body may have {bytes_max:,} bytes")
        return message

    return bounded


def _name(scope: Scope, request: HTTPConnection) -> str:
    """The id of a request: the client's own, if it may be one."""
    given = request.headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    scope["lakehouse.request_id"] = request_id
    return request_id


def _host(request: HTTPConnection) -> str:
    host = request.headers.get("host", "").lower()
    bare, _, port = host.rpartition(":")
    return bare if port.isdigit() and bare else host


def _changes(scope: Scope) -> bool:
    """Whether a request may change something; a websocket only asks."""
    return scope["type"] == "http" and scope["method"] not in _READING


def _key(request: HTTPConnection) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    # Clients of the exchange send theirs in a header of the exchange's name.
    named = request.headers.get("x-api-key") or request.headers.get("x-mbx-apikey")
    return named or key_offered(request.scope)


class _Outgoing:
    """The way to the client. status: 0 as long as no answer has begun."""

    def __init__(self, send: Send, request_id: str | None, timeout_s: float) -> None:
        self._send = send
        self._headers = list(_HEADERS)
        if request_id is not None:
            self._headers.append((b"x-request-id", request_id.encode()))
        self._timeout_s = timeout_s
        self.status = 0
        self.size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            added = [(name, value) for name, value in self._headers if name not in names]
            message = {**message, "headers": [*given, *added]}
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        async with asyncio.timeout(self._timeout_s):
            await self._send(message)


class _Frames:
    """The way to a websocket's client. status: Of the handshake. code: With which it was closed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.code: int | None = None
        self.count = 0
        self.size = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
        elif kind == "websocket.close":
            self.status = self.status or 403
            self.code = message.get("code", 1000)
        elif kind == "websocket.send":
            self.count += 1
            self.size += len(message.get("text") or message.get("bytes") or "")
        await self._send(message)
