"""Faults of answers: what goes over the wire instead of, or in the way of, a good response."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping

from aiohttp import web
from multidict import CIMultiDict

from lakehouse_ray.testing.exchange.faults import Rule
from lakehouse_ray.testing.exchange.listing import error_xml, no_such_key_xml

_HTML = (
    "<!DOCTYPE html><html><head><title>Binance Data Collection</title></head>"
    "<body><div id='listing'></div></body></html>"
)
# Ten writes a second look steady to a client and cost little.
_WRITES_PER_S = 10
_MESSAGES: Mapping[int, tuple[str, str]] = {
    429: ("SlowDown", "Please reduce your request rate."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


async def instead(rule: Rule, key: str) -> web.Response | None:
    """Wait as the fault says, then give the response it puts in place of the good one, if any."""
    params = rule.params
    if rule.fault == "slow":
        await asyncio.sleep(float(params["first_byte_s"]))
        return None
    if rule.fault == "not_found":
        return xml_response(404, no_such_key_xml(key))
    if rule.fault == "denied":
        return xml_response(int(params["status"]), error_xml("AccessDenied", "Access Denied"))
    if rule.fault in ("server_error", "throttled"):
        status = int(params["status"])
        response = xml_response(status, error_xml(*_MESSAGES.get(status, _MESSAGES[500])))
        if params["retry_after_s"]:
            response.headers["Retry-After"] = str(params["retry_after_s"])
        return response
    if rule.fault == "s3_error":
        code = str(params["code"])
        return xml_response(
            200, error_xml(code, "We encountered an internal error. Please try again.")
        )
    if rule.fault == "html_page":
        return web.Response(text=_HTML, content_type="text/html")
    return None


async def write(
    rule: Rule, request: web.BaseRequest, status: int, headers: CIMultiDict[str], body: bytes
) -> web.StreamResponse:
    """Send a good answer as slowly, or as far, as the fault lets it."""
    headers["Content-Length"] = str(len(body))
    response = web.StreamResponse(status=status, headers=headers)
    if rule.fault == "reset":
        await response.prepare(request)
        await response.write(body[: int(rule.params["after_bytes"])])
        _reset(request)
    elif rule.fault == "short_body":
        await response.prepare(request)
        await response.write(body[: int(len(body) * float(rule.params["keep"]))])
        if request.transport is not None:
            request.transport.close()
    else:
        await response.prepare(request)
        rate = float(rule.params.get("bytes_per_s", 0))
        piece = max(1, int(rate / _WRITES_PER_S)) if rate else max(1, len(body))
        for start in range(0, len(body), piece):
            sent = body[start : start + piece]
            await response.write(sent)
            if rate:
                await asyncio.sleep(len(sent) / rate)
    return response


def _reset(request: web.BaseRequest) -> None:
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    # Lingering for no time makes the close a RST, which is what a dying peer looks like.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def xml_response(status: int, text: str) -> web.Response:
    """An answer as S3 words it; without a charset in its content type, as S3 does."""
    headers = {"Content-Type": "application/xml", "Server": "AmazonS3"}
    return web.Response(status=status, body=text.encode(), headers=headers)
