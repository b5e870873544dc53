"""What clients say, and the exchange's answers to it.

Codes and texts are those of Binance's documentation of its streams ("Error Messages") and of frames
that users posted: `Invalid request: invalid stream`, `Too many subscriptions` (code 4).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
UNKNOWN_PROPERTY, INVALID_VALUE, INVALID_REQUEST, INVALID_JSON, TOO_MANY = 0, 1, 2, 3, 4
_ID_LENGTH_MAX = 36


class CommandError(Exception):
    """A message that the exchange refuses. id: Of the message, None where it had none."""

    def __init__(self, code: int, text: str, id: int | str | None = None) -> None:
        super().__init__(code, text, id)
        self.code = code
        self.text = text
        self.id = id

    def answer(self) -> bytes:
        error = {"code": self.code, "msg": self.text}
        return _json({"error": error} if self.id is None else {"error": error, "id": self.id})


@dataclass(frozen=True)
class Command:
    method: str
    id: int | str | None
    params: tuple[Any, ...] = ()


def parse_command(text: str | bytes) -> Command:
    """Raises CommandError."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        raise CommandError(
            INVALID_JSON, f"Invalid JSON: expected value at line {line} column {column}"
        ) from error
    if not isinstance(given, dict):
        raise _invalid("expected an object")
    id = given.get("id")
    if id is not None and not _is_id(id):
        raise _invalid("request ID must be an unsigned integer")
    method = given.get("method")
    if method is None:
        raise _invalid("missing field `method`", id)
    if method not in METHODS:
        expected = ", ".join(f"`{name}`" for name in METHODS)
        raise _invalid(f"unknown variant `{str(method)[:40]}`, expected one of {expected}", id)
    params = given.get("params", [])
    if not isinstance(params, list):
        raise _invalid("params must be a list", id)
    _check(method, params, id)
    return Command(method, id, tuple(params))


def result(id: int | str | None, value: Any = None) -> bytes:
    return _json({"result": value, "id": id})


def _check(method: str, params: list[Any], id: int | str | None) -> None:
    if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
        if not params or not all(isinstance(name, str) for name in params):
            raise _invalid("params must be names of streams", id)
    elif method == "LIST_SUBSCRIPTIONS":
        if params:
            raise _invalid("too many parameters", id)
    elif not params or not isinstance(params[0], str):
        raise _invalid("property name must be a string", id)
    elif params[0] != "combined":
        raise CommandError(UNKNOWN_PROPERTY, "Unknown property", id)
    elif len(params) > (2 if method == "SET_PROPERTY" else 1):
        raise _invalid("too many parameters", id)
    elif method == "SET_PROPERTY" and (len(params) < 2 or not isinstance(params[1], bool)):
        raise CommandError(INVALID_VALUE, "Invalid value type: expected Boolean", id)


def _is_id(id: object) -> bool:
    if isinstance(id, str):
        return len(id) <= _ID_LENGTH_MAX
    return isinstance(id, int) and not isinstance(id, bool) and id >= 0


def _invalid(why: str, id: int | str | None = None) -> CommandError:
    return CommandError(INVALID_REQUEST, f"Invalid request: {why}", id)


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
