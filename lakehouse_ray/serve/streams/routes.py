"""`/ws` and `/stream`, of futures below `/fapi` and `/dapi`, as their REST interfaces are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, WebSocket

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.serve.exchange_errors import OVERLOADED, spell
from lakehouse_ray.serve.handshake import HOLDS, SUBPROTOCOL, refuse
from lakehouse_ray.serve.streams.connection import Connection
from lakehouse_ray.serve.streams.hub import Hub
from lakehouse_ray.serve.streams.link import POLICY
from lakehouse_ray.serve.streams.options import read_options
from lakehouse_ray.serve.streams.protocol import error_of, told

# USD-M clients of 2026 put the kind of stream before the path; here all kinds are everywhere.
PREFIXES: dict[str, Market] = {
    "": "spot", "/fapi": "um", "/fapi/market": "um", "/fapi/public": "um", "/dapi": "cm",
}  # fmt: skip


def router(hub: Hub) -> APIRouter:
    routes = APIRouter()
    for prefix, market in PREFIXES.items():
        for path, combined in (("/ws", False), ("/ws/{names:path}", False), ("/stream", True)):
            routes.add_api_websocket_route(prefix + path, _endpoint(hub, market, combined))
    return routes


def _endpoint(hub: Hub, market: Market, combined: bool) -> Callable[[WebSocket], Awaitable[None]]:
    async def stream(websocket: WebSocket) -> None:
        if hub.full or hub.ending.is_set():
            body = spell(OVERLOADED, "There are as many connections as there may be. Try later.")
            await refuse(websocket.scope, websocket.send, 503, body)
            return
        with hub.connected():
            offered = websocket.scope.get("subprotocols", [])
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            try:
                names = websocket.path_params.get("names", "")
                options = read_options(market, names, websocket.query_params)
            except InvalidError as error:
                code, text = told(error)
                await websocket.send_text(error_of(code, text).decode())
                await websocket.close(POLICY, text.encode()[:120].decode(errors="ignore"))
                return
            await Connection(websocket, hub, options, combined).run(websocket.scope.get(HOLDS))

    return stream
