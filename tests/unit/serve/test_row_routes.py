"""Routes that check their query by themselves, held against FastAPI's own."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse

from lakehouse_ray.serve.problems import install
from lakehouse_ray.serve.row_routes import RowsRoute
from lakehouse_ray.serve.rows import KlinesQuery


async def told(query: Annotated[KlinesQuery, Query()]) -> JSONResponse:
    return JSONResponse(
        {"query": query.model_dump(mode="json"), "set": sorted(query.model_fields_set)}
    )


async def told_of_request(request: Request, query: Annotated[KlinesQuery, Query()]) -> JSONResponse:
    return await told(query)


def application() -> FastAPI:
    app = FastAPI()
    install(app)
    app.router.add_api_route("/its", told)
    app.router.add_api_route("/ours", told_of_request, route_class_override=RowsRoute)
    return app


async def ask(app: FastAPI, path: str, query: dict[str, str]) -> tuple[int, Any]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "",
        "scheme": "http", "query_string": urlencode(query).encode(), "headers": [],
        "http_version": "1.1", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], {**json.loads(body), "instance": None}


GOOD = {"symbol": "BTCUSDT", "interval": "1m"}


@pytest.mark.parametrize(
    "query",
    [
        GOOD,
        GOOD | {"start": "2024-01-05", "limit": "10", "format": "arrow", "warmup": "3"},
        GOOD | {"from": "1m", "offset": "5m"},
        GOOD | {"source": "1m"},
        GOOD | {"from": "1m", "source": "1m"},
        {"interval": "1m"},
        {},
        GOOD | {"symbol": ""},
        GOOD | {"limit": "0"},
        GOOD | {"limit": "ten"},
        GOOD | {"limit": ""},
        GOOD | {"limit": "1.0"},
        GOOD | {"format": "xml"},
        GOOD | {"intervall": "1m", "end": "x" * 50},
        GOOD | {"warmup": "-1", "cursor": ""},
        GOOD | {"symbol": "Ω%2 +&"},
    ],
)
def test_a_query_is_read_and_refused_as_fastapi_does(query: dict[str, str]) -> None:
    async def run() -> None:
        app = application()
        its, ours = await ask(app, "/its", query), await ask(app, "/ours", query)
        assert ours == its

    asyncio.run(run())


def test_the_document_of_a_route_is_that_of_fastapi() -> None:
    paths = application().openapi()["paths"]
    assert paths["/ours"]["get"]["parameters"] == paths["/its"]["get"]["parameters"]
