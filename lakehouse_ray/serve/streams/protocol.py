"""What clients say and what they are answered: the exchange's messages, its errors among them.

Errors are `{"error": {"code": 2, "msg": "…"}, "id": 1}`, as its servers send them. Codes 0 to 3 and
their texts are those of Binance's documentation of its streams; the others those of its REST API.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson

from lakehouse_ray.errors import InvalidError, LakehouseError, UnavailableError
from lakehouse_ray.query.versions import ExpiredError
from lakehouse_ray.serve.exchange_errors import BAD_SYMBOL, OVERLOADED, TIMED_OUT, UNKNOWN
from lakehouse_ray.serve.problems import DeadlineError

UNKNOWN_PROPERTY = 0
INVALID_VALUE = 1
INVALID_REQUEST = 2
INVALID_JSON = 3
# Ours: the exchange keeps nothing that could expire.
SNAPSHOT_GONE = -1
_ID_LENGTH_MAX = 36

Method = Literal["SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY"]
METHODS: tuple[Method, ...] = get_args(Method)
Id = int | str | None


class ProtocolError(InvalidError):
    """A message or a stream that the exchange would refuse. message_id: Of what was refused."""

    def __init__(self, code: int, message: str, message_id: Id = None) -> None:
        super().__init__(message)
        self.args = (code, message, message_id)
        self.code = code
        self.message_id = message_id


@dataclass(frozen=True)
class Command:
    """streams: Of SUBSCRIBE and UNSUBSCRIBE. combined: Of SET_PROPERTY."""

    method: Method
    id: Id
    streams: tuple[str, ...] = ()
    combined: bool = False


def parse_command(text: str | bytes) -> Command:
    """Raises ProtocolError for what is no command."""
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(
            INVALID_JSON,
            f"Invalid JSON: expected value at line {error.lineno} column {error.colno}",
        ) from error
    if not isinstance(given, dict):
        raise ProtocolError(INVALID_REQUEST, "Invalid request: expected an object")
    message_id = _id(given)
    method = given.get("method")
    if method is None:
        raise ProtocolError(INVALID_REQUEST, "Invalid request: missing field `method`", message_id)
    if not isinstance(method, str) or method not in METHODS:
        expected = ", ".join(f"`{name}`" for name in METHODS)
        raise ProtocolError(
            INVALID_REQUEST,
            f"Invalid request: unknown variant `{str(method)[:40]}`, expected one of {expected}",
            message_id,
        )
    unknown = [name for name in given if name not in ("method", "params", "id")]
    if unknown:
        raise ProtocolError(
            INVALID_REQUEST, f"Invalid request: unknown field `{unknown[0][:40]}`", message_id
        )
    parameters = given.get("params", [])
    if not isinstance(parameters, list):
        raise ProtocolError(INVALID_REQUEST, "Invalid request: params is a list", message_id)
    return _command(method, message_id, parameters)


def _id(given: dict[str, Any]) -> Id:
    value = given.get("id", False)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and len(value) <= _ID_LENGTH_MAX:
        return value
    raise ProtocolError(INVALID_REQUEST, "Invalid request: request ID must be an unsigned integer")


def _command(method: Method, message_id: Id, parameters: Sequence[Any]) -> Command:
    if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
        if not parameters or not all(isinstance(name, str) for name in parameters):
            raise ProtocolError(
                INVALID_REQUEST, "Invalid request: params are names of streams", message_id
            )
        return Command(method, message_id, tuple(dict.fromkeys(parameters)))
    if method == "LIST_SUBSCRIPTIONS":
        if parameters:
            raise ProtocolError(INVALID_REQUEST, "Invalid request: too many parameters", message_id)
        return Command(method, message_id)
    if not parameters or not isinstance(parameters[0], str):
        raise ProtocolError(
            INVALID_REQUEST, "Invalid request: property name must be a string", message_id
        )
    if parameters[0] != "combined":
        raise ProtocolError(UNKNOWN_PROPERTY, "Unknown property", message_id)
    if len(parameters) > (2 if method == "SET_PROPERTY" else 1):
        raise ProtocolError(INVALID_REQUEST, "Invalid request: too many parameters", message_id)
    if method == "GET_PROPERTY":
        return Command(method, message_id)
    if len(parameters) < 2 or not isinstance(parameters[1], bool):
        raise ProtocolError(INVALID_VALUE, "Invalid value type: expected Boolean", message_id)
    return Command(method, message_id, combined=parameters[1])


def result_of(message_id: Id, result: Any = None) -> bytes:
    return orjson.dumps({"result": result, "id": message_id})


def error_of(code: int, message: str, message_id: Id = None) -> bytes:
    return orjson.dumps({"error": {"code": code, "msg": message}, "id": message_id})


def invalid_symbol() -> ProtocolError:
    return ProtocolError(BAD_SYMBOL, "Invalid symbol.")


def told(error: LakehouseError) -> tuple[int, str]:
    """Code and text of what a client is told of an error of ours. Paths and values are not."""
    if isinstance(error, ProtocolError):
        return error.code, error.message
    if isinstance(error, ExpiredError):
        return SNAPSHOT_GONE, f"{error}; begin anew, without resume"
    if isinstance(error, InvalidError):
        return INVALID_REQUEST, f"Invalid request: {error}; {error.hint}".rstrip("; ")
    if isinstance(error, DeadlineError):
        return TIMED_OUT, "Timeout waiting for response from backend server."
    if isinstance(error, UnavailableError):
        return OVERLOADED, "The lake cannot be read for now. Please try again in a few minutes."
    return UNKNOWN, "An unknown error occurred while processing the request."
