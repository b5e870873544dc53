"""The replica's own routes, by which tests of other processes control it; for loopback alone.

GET  /_control/limits      by market: requests, refused, bans, the weight used in each minute
GET  /_control/requests    {"requests": {key: count}, "total": n}; listings as "?prefix=..."
POST /_control/faults      replaces the rules; the body is a fault file as JSON
POST /_control/republish   {"match": glob, "then": defect}: new content from now on
GET  /_control/clock       {"now_us": µs since 1970, "speed": x}
POST /_control/clock       any of {"speed": x, "advance_s": seconds, "now_us": µs}
GET  /_control/streams     {"connections": […], "opened": n, "sent": n}
GET  /_control/planted     {"planted": [{"at_us", "fault", "where", "connection", "body"}]}
POST /_control/streams     {"do": "cut" | "half_open" | "shut_down", "match": glob over paths,
                           "how": "abort" | "close" (cut), "in_s": seconds (shut_down)}
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.faults import Faults
from lakehouse_ray.testing.exchange.replay_clock import ReplayClock
from lakehouse_ray.testing.exchange.streams.hub import Streams

PREFIX = "_control/"
_ORDERS = ("faults", "republish", "clock", "streams")
_BODY_BYTES_MAX = 2**20


class Controlled(Protocol):
    """What can be told to a replica."""

    clock: ReplayClock
    streams: Streams

    def requests(self) -> dict[str, int]: ...

    def told_limits(self) -> dict[str, dict[str, Any]]: ...

    def set_faults(self, faults: Faults) -> None: ...

    def republish(self, match: str, then: str) -> None: ...


async def answer(exchange: Controlled, request: web.BaseRequest, route: str) -> web.Response:
    """Do what is asked, or say why not."""
    if not _from_loopback(request):
        return web.json_response({"error": "loopback only"}, status=403)
    if request.method == "GET":
        told = _tell(exchange, route)
    elif request.method == "POST" and route in _ORDERS:
        body = await request.content.read(_BODY_BYTES_MAX)
        try:
            told = _do(exchange, route, body)
        except InvalidError as error:
            return web.json_response({"error": str(error), "hint": error.hint}, status=400)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return web.json_response({"error": f"not understood: {error!r}"}, status=400)
    else:
        told = None
    if told is None:
        return web.json_response({"error": f"no such control route: {route}"}, status=404)
    return web.json_response(told)


def _tell(exchange: Controlled, route: str) -> Mapping[str, Any] | None:
    if route == "requests":
        counted = exchange.requests()
        return {"requests": counted, "total": sum(counted.values())}
    if route == "limits":
        return exchange.told_limits()
    if route == "clock":
        return {"now_us": exchange.clock.now_us(), "speed": exchange.clock.speed}
    if route == "streams":
        return exchange.streams.state()
    if route == "planted":
        return {"planted": exchange.streams.planted()}
    return None


def _do(exchange: Controlled, route: str, body: bytes) -> Mapping[str, Any]:
    if route == "faults":
        exchange.set_faults(Faults.parse(body.decode(), "json"))
        return {"ok": True}
    asked: dict[str, Any] = json.loads(body)
    if route == "republish":
        exchange.republish(asked["match"], asked.get("then", "stale_values"))
        return {"ok": True}
    if route == "clock":
        return _set_clock(exchange.clock, asked)
    return {"ok": True, "connections": _strike(exchange.streams, asked)}


def _set_clock(clock: ReplayClock, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = [name for name in asked if name not in ("speed", "advance_s", "now_us")]
    if unknown or not asked:
        raise InvalidError(
            f"a clock is not told {unknown or 'nothing'}", "give speed, advance_s or now_us"
        )
    if "now_us" in asked:
        clock.advance_to(int(asked["now_us"]))
    if "advance_s" in asked:
        clock.advance(float(asked["advance_s"]))
    if "speed" in asked:
        clock.set_speed(float(asked["speed"]))
    return {"now_us": clock.now_us(), "speed": clock.speed}


def _strike(streams: Streams, asked: dict[str, Any]) -> int:
    work, match = asked.get("do"), str(asked.get("match", "*"))
    if work == "cut":
        how = str(asked.get("how", "abort"))
        if how not in ("abort", "close"):
            raise InvalidError(f"a connection is not cut by {how!r}", "give abort or close")
        return streams.cut(match, how)
    if work == "half_open":
        return streams.half_open(match)
    if work == "shut_down":
        return streams.shut_down(match, float(asked.get("in_s", 600)))
    raise InvalidError(f"connections cannot {work!r}", "give cut, half_open or shut_down")


def _from_loopback(request: web.BaseRequest) -> bool:
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False
