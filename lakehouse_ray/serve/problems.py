"""Every error as one shape: application/problem+json (RFC 9457) with a hint and the request's id.

What a caller did wrong is told in full. What went wrong here is told by its kind alone, since texts
of engines and systems hold paths and values; the log has it under the request's id.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from orjson import dumps
from starlette.exceptions import HTTPException

from lakehouse_ray.errors import (
    DeniedError,
    InvalidError,
    LakehouseError,
    NotFoundError,
    UnavailableError,
)
from lakehouse_ray.query.versions import ExpiredError
from lakehouse_ray.serve.exchange_errors import (
    ExchangeError,
    is_of_exchange,
    spell,
    spell_problem,
)

PROBLEM = "application/problem+json"
_ERRORS_SHOWN_MAX = 20
# What nginx and others write in their logs where the client hung up first.
CLIENT_CLOSED = 499
_log = structlog.get_logger()


class TooLargeError(InvalidError):
    """The answer would have more rows or bytes than one may."""


class FormatError(InvalidError):
    """None of the formats that the client takes is one of ours."""


class BusyError(UnavailableError):
    """More questions wait than may."""


class DeadlineError(LakehouseError):
    """The question took longer than it may."""

    @property
    def hint(self) -> str:
        return "narrow the range, ask for fewer columns or symbols, or page with limit"


class NotAllowedError(DeniedError):
    """Whoever asks is known, and may not do this."""


class NoJobsError(UnavailableError):
    """The cluster that runs jobs does not answer."""


class MediaTypeError(InvalidError):
    """The body is of a type that a route does not take."""


class GoneAwayError(LakehouseError):
    """The client has hung up; nobody reads what is answered."""


# Where an error has none of its own.
_HINTS = {
    404: "/v1/datasets lists what is stored, /openapi.json the paths",
    413: "ask for less at once",
    422: "/openapi.json lists the parameters, with examples",
}


@dataclass(frozen=True)
class Problem:
    """status: Of HTTP. code: Stable, for programs. errors: Of single parameters."""

    status: int
    code: str
    detail: str
    hint: str = ""
    errors: Sequence[Mapping[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, request_id: str, instance: str) -> bytes:
        document: dict[str, Any] = {
            "type": f"urn:lakehouse-ray:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "hint": self.hint or _HINTS.get(self.status, "/docs says how this service is asked"),
            "instance": instance,
            "request_id": request_id,
        }
        if self.errors:
            document["errors"] = list(self.errors)
        return dumps(document)


_ASK_THE_OPERATOR = "the server's log has more under the request_id"


def problem_of(error: Exception) -> Problem:
    """What a caller is told of an error of ours; the first class that fits decides."""
    text, hint = str(error), error.hint if isinstance(error, LakehouseError) else ""
    if isinstance(error, ExpiredError):
        return Problem(410, "snapshot_gone", text, hint)
    if isinstance(error, NotFoundError):
        return Problem(404, "not_found", text, hint)
    if isinstance(error, TooLargeError):
        return Problem(422, "too_large", text, hint)
    if isinstance(error, FormatError):
        return Problem(406, "not_acceptable", text, hint)
    if isinstance(error, MediaTypeError):
        return Problem(415, "media_type", text, hint)
    if isinstance(error, InvalidError):
        return Problem(422, "invalid", text, hint)
    if isinstance(error, NotAllowedError):
        return Problem(403, "not_allowed", text, hint)
    if isinstance(error, BusyError):
        seconds = f"{error.retry_after_s or 1:.0f}"
        return Problem(503, "busy", text, "try again later", headers={"Retry-After": seconds})
    if isinstance(error, DeadlineError):
        return Problem(504, "deadline", text, hint)
    if isinstance(error, UnavailableError):
        jobs = isinstance(error, NoJobsError)
        return Problem(
            503, "unavailable",
            "jobs cannot be asked for now" if jobs else "the lake cannot be read for now",
            f"try again later; {_ASK_THE_OPERATOR}", headers={"Retry-After": "5"},
        )  # fmt: skip
    return Problem(
        500, "internal", "something went wrong here", f"it is our mistake; {_ASK_THE_OPERATOR}"
    )


def respond(request: Request, problem: Problem) -> Response:
    path = request.url.path
    if is_of_exchange(path):
        body = spell_problem(problem.code, problem.status, problem.detail, request.method, path)
        # There a request that is wrong is 400.
        status = 400 if problem.status == 422 else problem.status
        return _refusal(body, status, problem.headers)
    request_id: str = request.scope.get("lakehouse.request_id", "")
    return Response(
        problem.body(request_id, request.url.path),
        problem.status,
        {**problem.headers, "Cache-Control": "no-store"},
        media_type=PROBLEM,
    )


def _refusal(body: bytes, status: int, headers: Mapping[str, str]) -> Response:
    """An error in the exchange's own shape."""
    kept = {**headers, "Cache-Control": "no-store"}
    return Response(body, status, kept, media_type="application/json")


def _of_validation(error: RequestValidationError) -> Problem:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        at = f"the body is no JSON, at character {first['loc'][-1]}"
        return Problem(422, "invalid", at, 'such as {"query": "select 1"}, in UTF-8')
    found = [
        {
            "field": ".".join(str(part) for part in one["loc"][1:]) or str(one["loc"][0]),
            "message": _message(one),
        }
        for one in error.errors()[:_ERRORS_SHOWN_MAX]
    ]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in found)
    return Problem(422, "invalid", detail, "/openapi.json lists the parameters", found)


def _message(one: Mapping[str, Any]) -> str:
    if one["type"] == "extra_forbidden":
        return "there is no such parameter"
    return str(one["msg"]).removeprefix("Value error, ")


_OF_STATUS = {
    404: ("not_found", "/openapi.json lists the paths"),
    400: ("invalid", "the body is JSON, in UTF-8"),
    413: ("body_too_large", _HINTS[413]),
    405: ("method_not_allowed", "/openapi.json lists the methods of each path"),
}


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""

    async def lakehouse_error(request: Request, error: Exception) -> Response:
        if isinstance(error, GoneAwayError):
            return Response(status_code=CLIENT_CLOSED)  # for the log; nobody reads it
        if isinstance(error, ExchangeError):
            return _refusal(spell(error.code, error.message), error.status, {})
        problem = problem_of(error)
        if problem.status == 500:
            _log.error("request failed", path=request.url.path, exc_info=error)
        elif problem.status > 500:
            _log.warning("request failed", path=request.url.path, reason=str(error))
        return respond(request, problem)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return respond(request, _of_validation(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, hint = _OF_STATUS.get(error.status_code, ("http_error", ""))
        if error.status_code == 404:
            paths = app.openapi()["paths"]
            near = difflib.get_close_matches(request.url.path, paths, n=1, cutoff=0.7)
            hint = f"did you mean {near[0]}?" if near else hint
        headers = dict(error.headers or {})
        if error.status_code == 405:
            # The router tells of the first route of a path alone.
            methods = app.openapi()["paths"].get(request.url.path)
            if methods:
                headers["Allow"] = ", ".join(sorted(method.upper() for method in methods))
        # A body that is no text in UTF-8 is as wrong as one that is no JSON.
        status = 422 if error.status_code == 400 else error.status_code
        return respond(request, Problem(status, code, str(error.detail), hint, headers=headers))

    app.add_exception_handler(LakehouseError, lakehouse_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
