"""Errors as the exchange spells them, on the paths of its API: `{"code": -1121, "msg": "…"}`.

Its clients tell errors apart by `code` and, for whether to try again, by the status of HTTP. Codes
and texts are those of Binance's documentation of errors.
"""

from __future__ import annotations

from collections.abc import Mapping

from orjson import dumps

from lakehouse_ray.errors import LakehouseError

PREFIXES = ("/api/v3/", "/fapi/v1/", "/dapi/v1/")

UNKNOWN = -1000
TIMED_OUT = -1007
OVERLOADED = -1008
ILLEGAL_CHARACTERS = -1100
TOO_MANY_PARAMETERS = -1101
PARAMETER_MISSING = -1102
UNREAD_PARAMETERS = -1104
BAD_INTERVAL = -1120
BAD_SYMBOL = -1121
BAD_COMBINATION = -1128
BAD_PARAMETER = -1130
START_AFTER_END = -1023
RANGE_TOO_LONG = -4088
KEY_MALFORMED = -2014
KEY_REJECTED = -2015
NO_SUCH_PATH = -5000

# By the codes of our own problems.
_OF_PROBLEM: Mapping[str, tuple[int, str]] = {
    "wrong_origin": (KEY_REJECTED, "A page of another place may not connect."),
    "key_needed": (KEY_REJECTED, "Invalid API-key, IP, or permissions for action."),
    "busy": (OVERLOADED, "Server is currently overloaded with other requests. Please try again in a few minutes."),
    "unavailable": (OVERLOADED, "The lake cannot be read for now. Please try again in a few minutes."),
    "deadline": (TIMED_OUT, "Timeout waiting for response from backend server."),
    "internal": (UNKNOWN, "An unknown error occurred while processing the request."),
}  # fmt: skip


class ExchangeError(LakehouseError):
    """The request is one that the exchange would refuse, or that the lake cannot answer as it does.

    code, message: Of the body. status: Of HTTP.
    """

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return self.message


def is_of_exchange(path: str) -> bool:
    """Whether whoever asks for this path expects errors in the exchange's shape."""
    return path.startswith(PREFIXES)


def spell(code: int, message: str) -> bytes:
    return dumps({"code": code, "msg": message})


def spell_problem(code: str, status: int, detail: str, method: str, path: str) -> bytes:
    """Another problem of this service in the exchange's shape."""
    if status in (404, 405):
        return spell(NO_SUCH_PATH, f"Path {path}, Method {method} is invalid")
    known = _OF_PROBLEM.get(code)
    if known is not None:
        return spell(*known)
    if detail.startswith("given more than once"):
        return spell(TOO_MANY_PARAMETERS, "Duplicate values for a parameter detected.")
    return spell(BAD_PARAMETER if status < 500 else UNKNOWN, detail)
