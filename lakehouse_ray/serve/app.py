"""The application: built by a factory, run by any ASGI server, by Ray Serve among them."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from orjson import dumps

from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import LakehouseError, UnavailableError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.serve import facts, jobs, live, row_routes, sql, symbols
from lakehouse_ray.serve.binance import routes as binance
from lakehouse_ray.serve.border import Border, KeyCheck
from lakehouse_ray.serve.cache.level import Level
from lakehouse_ray.serve.described import described
from lakehouse_ray.serve.docs_page import CSP, page
from lakehouse_ray.serve.job_desk import JobDesk
from lakehouse_ray.serve.lake_state import LakeState
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.measures import Measures
from lakehouse_ray.serve.problems import install, problem_of, respond
from lakehouse_ray.serve.service import Service, Source, service_of
from lakehouse_ray.serve.streams.hub import Hub, StreamLimits
from lakehouse_ray.serve.streams.routes import router as streams_router

_log = structlog.get_logger()

_DESCRIPTION = """Questions to a lake of crypto market data.

Times are ISO 8601 and UTC, ranges half-open: `[start, end)`. Every answer says in
`Lakehouse-Snapshots` which versions of the tables it was read from; given back as `as_of`, the same
question has the same answer. Answers are JSON, NDJSON, CSV, Arrow or Parquet, by `Accept` or
`format=`. An answer without `limit` has all rows of its range, or is an error.
"""
# A probe comes every few seconds from each of several places.
_READY_FOR_S = 2.0
_READY_TIMEOUT_S = 5.0


def create_app(
    source: Source,
    limits: Limits | None = None,
    *,
    keys: KeyCheck | None = None,
    hosts: Collection[str] | None = None,
    clock: Clock | None = None,
    tells_id: bool = True,
    levels: Sequence[Level] = (),
    origins: Collection[str] = (),
    streams: StreamLimits | None = None,
    desk: JobDesk | str = "it only reads",
    state: LakeState | None = None,
) -> FastAPI:
    """Build the application over one lake.

    keys: Who may ask; None: whoever can connect. hosts: Names it answers to; None: any.
    tells_id: Whether answers get the header X-Request-Id here, not from what runs the application.
    levels: Where answers are kept beyond this process, the nearest first.
    origins: Pages of other places that may open a websocket. streams: What websockets may cost.
    desk: What takes jobs; or why there are none. state: What is said of the lake at /metrics.
    """
    limits = limits or Limits()
    clock = clock or SystemClock()
    service = Service(source, limits, clock, levels)
    measures = Measures(service)
    hub = Hub(service, streams or StreamLimits(), measures)
    measures.watch(hub)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.open()
        yield
        await hub.end()
        hub.close()
        service.close()
        await service.answers.close()
        if isinstance(desk, JobDesk):
            desk.close()

    app = FastAPI(
        title="lakehouse_ray",
        version=importlib.metadata.version("lakehouse-ray"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        # The pages that come with FastAPI load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.state.hub = hub
    app.state.measures = measures
    app.state.jobs = desk
    made = app.openapi
    app.openapi = lambda: app.openapi_schema or described(made())  # type: ignore[method-assign]
    install(app)
    app.add_middleware(
        Border, limits=limits, clock=clock, keys=keys, hosts=hosts, seen=measures,
        tells_id=tells_id, origins=origins,
    )  # fmt: skip
    # What is asked most is found first.
    row_routes.add_routes(app)
    _add_state(app, service, measures, state)
    app.include_router(facts.routes)
    app.include_router(symbols.routes)
    app.include_router(sql.routes)
    app.include_router(jobs.routes)
    app.include_router(binance.router())
    app.include_router(streams_router(hub))
    app.include_router(live.router(hub))
    return app


def _add_state(app: FastAPI, service: Service, measures: Measures, state: LakeState | None) -> None:
    ready_at_s = float("-inf")

    @app.get("/health", summary="Whether this process answers", tags=["state"])
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": app.version}

    @app.get("/ready", summary="Whether the catalog and a query answer", tags=["state"])
    async def ready(request: Request) -> Response:
        nonlocal ready_at_s
        now_s = service.clock.monotonic_s()
        if now_s - ready_at_s > _READY_FOR_S:
            try:
                async with asyncio.timeout(_READY_TIMEOUT_S):
                    await asyncio.to_thread(_ask_something, service)
            except (LakehouseError, TimeoutError) as error:
                _log.warning("not ready", reason=str(error))
                return respond(request, problem_of(_unready(error)))
            ready_at_s = service.clock.monotonic_s()
        return Response(dumps({"status": "ready"}), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        made = page(app.openapi())
        return Response(made, headers={"Content-Security-Policy": CSP}, media_type="text/html")

    @app.get("/metrics", summary="For Prometheus", tags=["state"], response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        assert service_of(request) is service
        told = measures.text() + (b"" if state is None else (await state.text()).encode())
        return Response(told, media_type="text/plain; version=0.0.4; charset=utf-8")


def _unready(error: Exception) -> LakehouseError:
    return UnavailableError(str(error))


def _ask_something(service: Service) -> None:
    """Look for a table and run a statement: what every question needs."""
    service.source.find(KLINES.table("1m").name)
    with service.engine().run("SELECT 42 AS answer", [], {}) as result:
        assert result.rows() == [{"answer": 42}]
