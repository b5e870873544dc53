"""What the exchange answers where it does not answer: codes and words of its error bodies.

Those that were recorded are word for word the recorded ones; the others are from Binance's
documentation of errors.
"""

from __future__ import annotations

import orjson

_WEBSOCKETS = {
    "spot": "Please use WebSocket Streams for live updates to avoid {}.",
    "um": "Please use the websocket for live updates to avoid {}.",
    "cm": "Please use the websocket for live updates to avoid {}.",
}
RESTRICTED = (
    "Service unavailable from a restricted location according to 'b. Eligibility' in "
    "https://www.binance.com/en/terms. Please contact customer service if you believe you received "
    "this message in error."
)


class Refusal(Exception):
    """An answer that is an error body. status: Of HTTP."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = status

    @property
    def body(self) -> bytes:
        return orjson.dumps({"code": self.code, "msg": self.message})


def missing(name: str) -> Refusal:
    return Refusal(
        -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
    )


def empty(name: str) -> Refusal:
    return Refusal(-1105, f"Parameter '{name}' was empty.")


def illegal(name: str, legal: str) -> Refusal:
    return Refusal(
        -1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'."
    )


def not_valid(name: str) -> Refusal:
    return Refusal(-1130, f"Data sent for parameter '{name}' is not valid.")


def unread(read: int, sent: int) -> Refusal:
    return Refusal(
        -1104,
        f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{sent}'.",
    )


def bad_symbol() -> Refusal:
    return Refusal(-1121, "Invalid symbol.")


def too_many_requests(market: str, most: int) -> Refusal:
    advice = _WEBSOCKETS[market].format("polling the API")
    if market == "spot":
        what = f"Too much request weight used; current limit is {most} request weight per 1 MINUTE"
    else:
        what = f"Too many requests; current limit is {most} requests per minute"
    return Refusal(-1003, f"{what}. {advice}", 429)


def banned(market: str, until_ms: int) -> Refusal:
    advice = _WEBSOCKETS[market].format("bans")
    what = "Way too much request weight used" if market == "spot" else "Way too many requests"
    return Refusal(-1003, f"{what}; IP banned until {until_ms}. {advice}", 418)


def no_such_path(path: str, method: str) -> Refusal:
    return Refusal(-5000, f"Path {path}, Method {method} is invalid", 404)
