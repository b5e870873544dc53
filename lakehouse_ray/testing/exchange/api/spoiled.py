"""Faults of REST: what is answered instead of, or made of, a good body."""

from __future__ import annotations

import random
from collections.abc import Mapping

import orjson

from lakehouse_ray.testing.exchange.api.market_data import Reply
from lakehouse_ray.testing.exchange.api.refusals import RESTRICTED, Refusal, too_many_requests
from lakehouse_ray.testing.exchange.faults import Rule

_HTML = (
    b"<!DOCTYPE html><html><head><title>Binance</title></head><body><p>Please try again later.</p>"
    b"</body></html>"
)
_INTERNAL = "Internal error; unable to process your request. Please try again."
_BUSY = "Server is currently overloaded with other requests. Please try again in a few minutes."
_BODIES = {"empty_body": b"", "null_body": b"null", "empty_list": b"[]"}


def instead(rule: Rule, market: str, weight_max: int) -> Reply | None:
    """The answer that a rule puts in place of the good one, if it is of that kind."""
    fault, params = rule.fault, rule.params
    if fault in _BODIES:
        return Reply(200, _BODIES[fault])
    if fault == "html_page":
        return Reply(200, _HTML, {"Content-Type": "text/html"})
    if fault == "not_found":
        return Reply(404, _HTML, {"Content-Type": "text/html"})
    if fault == "denied":
        return Reply(int(params["status"]), _HTML, {"Content-Type": "text/html"})
    if fault == "restricted":
        return _refused(Refusal(0, RESTRICTED, 451))
    if fault == "throttled":
        refusal = too_many_requests(market, weight_max)
        return _refused(Refusal(refusal.code, refusal.message, int(params["status"])), params)
    if fault == "server_error":
        status = int(params["status"])
        code, message = (-1008, _BUSY) if status == 503 else (-1001, _INTERNAL)
        return _refused(Refusal(code, message, status), params)
    return None


def spoil(rule: Rule, body: bytes, chance: random.Random) -> bytes:
    """What a rule makes of a good body."""
    if rule.fault == "cut_json":
        return body[: int(len(body) * float(rule.params["keep"]))]
    if rule.fault not in ("repeated_rows", "shuffled_rows"):
        return body
    rows = orjson.loads(body)
    if not isinstance(rows, list):
        return body
    if rule.fault == "shuffled_rows":
        chance.shuffle(rows)
        return orjson.dumps(rows)
    hit = int(rule.params["rows"]) or len(rows)
    twice = set(chance.sample(range(len(rows)), min(hit, len(rows))))
    return orjson.dumps([row for at, row in enumerate(rows) for _ in range(1 + (at in twice))])


def _refused(refusal: Refusal, params: Mapping[str, object] | None = None) -> Reply:
    wait = (params or {}).get("retry_after_s")
    headers = {"Retry-After": str(wait)} if wait else {}
    return Reply(refusal.status, refusal.body, headers)
