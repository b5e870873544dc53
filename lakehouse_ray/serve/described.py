"""What the OpenAPI document says of answers and errors, once for all routes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from lakehouse_ray.serve.formats import MEDIA_TYPES, Format
from lakehouse_ray.serve.problems import PROBLEM


class ProblemDocument(BaseModel):
    """RFC 9457, with a hint and the id under which the server's log has more."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str
    instance: str
    request_id: str
    errors: list[dict[str, str]] = []


class ColumnDocument(BaseModel):
    name: str
    type: str


class RowsDocument(BaseModel):
    """`as_of` says which versions of the tables were read; `next` is the next page's cursor."""

    v: int
    columns: list[ColumnDocument]
    as_of: str
    rows: list[dict[str, Any]]
    row_count: int
    next: str | None = None


_EXAMPLE = {
    "v": 1,
    "columns": [
        {"name": "open_time", "type": "TIMESTAMP WITH TIME ZONE"},
        {"name": "close", "type": "DOUBLE"},
    ],
    "as_of": "silver.klines_coarse@-,silver.klines_fine@7352114902115",
    "rows": [{"open_time": "2024-01-05T00:00:00Z", "close": 44179.55}],
    "row_count": 1,
    "next": None,
}
_PROBLEM_EXAMPLE = {
    "type": "urn:lakehouse-ray:problem:not_found",
    "title": "Not Found",
    "status": 404,
    "code": "not_found",
    "detail": "there is no BTCUSD in spot klines 1m",
    "hint": "did you mean BTCUSDT?",
    "instance": "/v1/klines",
    "request_id": "6f1c0f2d8f6a4c1e",
}
_WHAT: dict[int, str] = {
    401: "A key is needed",
    403: "The key may not do this, or a web page of elsewhere asks",
    404: "No such symbol, or nothing of it stored",
    406: "None of the formats asked for",
    410: "The versions asked for are not kept any more",
    413: "The request is too large",
    415: "The body is not JSON",
    422: "A parameter that cannot be right, or an answer that would be too large",
    500: "A mistake of the server",
    503: "Too busy, or the lake cannot be read for now",
    504: "It took longer than it may",
}


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": _WHAT[status],
        "model": ProblemDocument,
        "content": {PROBLEM: {"example": _PROBLEM_EXAMPLE}},
    }


JOB_RESPONSES: dict[int | str, dict[str, Any]] = {
    # Of who speaks HTTP for the application, which hears nothing of it.
    400: {"description": "No HTTP, or a first line with headers beyond 64 KiB (behind HAProxy 15)"},
    **{status: _problem(status) for status in _WHAT},
}
PROBLEMS = {status: told for status, told in JOB_RESPONSES.items() if status != 415}


def described(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document whose errors are what they are: problems, and of this shape alone."""
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {})
                if status >= "400" and "application/json" in content:
                    told = content.pop("application/json")
                    content[PROBLEM] = {**told, **content.get(PROBLEM, {})}
    for unused in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(unused, None)
    return document


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"schema": {"type": "string"}}
ROWS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "All rows asked for. Headers: Lakehouse-Rows, Content-Digest (sha-256), "
        "Lakehouse-Snapshots, ETag; Lakehouse-Next and Link where there is a next page.",
        "model": RowsDocument,
        "content": {
            "application/json": {"example": _EXAMPLE},
            MEDIA_TYPES[Format.NDJSON]: _TEXT,
            MEDIA_TYPES[Format.CSV]: _TEXT,
            MEDIA_TYPES[Format.ARROW]: _BINARY,
            MEDIA_TYPES[Format.PARQUET]: _BINARY,
        },
    },
    304: {"description": "What the header If-None-Match names is still so"},
    **PROBLEMS,
}
