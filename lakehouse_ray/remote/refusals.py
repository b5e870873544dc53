"""Answers that are errors, as the errors that the local lake raises."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson

from lakehouse_ray.errors import (
    DeniedError,
    InvalidError,
    LakehouseError,
    NotFoundError,
    UnavailableError,
)
from lakehouse_ray.query.versions import ExpiredError

PROBLEM = "application/problem+json"
_TEXT_MAX = 2000
_RETRY_AFTER_MAX_S = 3600.0


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> LakehouseError:
    """The error that an answer of another status than 2xx means; by what a problem says, else by its status."""
    told = _document(headers, body)
    detail = _text(told, "detail") or f"the server answered {status} {_phrase(status)}"
    hint = _text(told, "hint")
    if status in (401, 403):
        return DeniedError(f"{detail}: {hint}" if hint else detail)
    if status == 410:
        return ExpiredError(detail, hint)
    if status == 404:
        # Not ours: another service answers here, or a release without this path.
        return NotFoundError(detail, hint or "is this the address of the query service?")
    if 400 <= status < 500:
        return InvalidError(detail, hint)
    request = _text(told, "request_id")
    detail += f"; {hint}" if hint else ""
    detail += f" (request {request})" if request else ""
    if status == 503:
        return UnavailableError(detail, _retry_after_s(headers))
    if status in (502, 504):
        return UnavailableError(detail)
    return LakehouseError(detail)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What the header Retry-After asks for; None where it is not there, or no number of seconds."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds <= _RETRY_AFTER_MAX_S else None


def _document(headers: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
    if headers.get("Content-Type", "").partition(";")[0].strip() != PROBLEM:
        return {}
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    return value[:_TEXT_MAX] if isinstance(value, str) else ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
