"""How a websocket begins: whose it is, which page opened it, and how it is turned away."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import Scope, Send

# In the scope of a websocket with a key: says whether the key still holds.
HOLDS = "lakehouse.holds"
# Browsers can set no header but Sec-WebSocket-Protocol, and must be answered with one of what they
# offer there: this, never the key beside it.
SUBPROTOCOL = "lakehouse"
_KEY = "key."


def key_offered(scope: Scope) -> str:
    """The key among the offered subprotocols: `key.lk_…`; empty where there is none."""
    for offered in scope.get("subprotocols", []):
        if offered.startswith(_KEY):
            return str(offered.removeprefix(_KEY))
    return ""


def is_foreign(connection: HTTPConnection, origins: Collection[str]) -> bool:
    """Whether a web page of another place opens it. Browsers say so; other clients say nothing.

    origins: Pages that may.
    """
    origin = connection.headers.get("origin")
    if origin is None or origin.lower() in origins:
        return False
    try:
        place = urlsplit(origin.lower()).netloc
    except ValueError:
        return True
    return not place or place != connection.headers.get("host", "").lower()


async def refuse(
    scope: Scope, send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Answer a handshake with an error of HTTP; with 403 where the server can say no more."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    told = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
    spelled = [(name.lower().encode(), value.encode()) for name, value in told.items()]
    await send({"type": "websocket.http.response.start", "status": status, "headers": spelled})
    await send({"type": "websocket.http.response.body", "body": body})
