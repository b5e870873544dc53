"""`/v1/sql`: one SELECT over the lake's tables."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.query.gate import STATEMENT_BYTES_MAX, check_text
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import files_sql, plan_files, quoted
from lakehouse_ray.query.versions import FixedTables, spell_versions
from lakehouse_ray.query.views import SCHEMAS, VIEWS, View, mentioned
from lakehouse_ray.serve.answers import respond, write_all
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.cursors import LENGTH_MAX
from lakehouse_ray.serve.described import ROWS_RESPONSES
from lakehouse_ray.serve.formats import Format, choose_format, rows_limit
from lakehouse_ray.serve.rows import AnswerQuery
from lakehouse_ray.serve.sandbox import SqlJob
from lakehouse_ray.serve.service import hung_up, service_of

_Scalar = str | int | float | bool | None

routes = APIRouter(prefix="/v1", tags=["sql"])


class SqlBody(BaseModel):
    """One statement."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(
        min_length=1,
        max_length=STATEMENT_BYTES_MAX,
        description="One SELECT, over names as silver.klines.",
        examples=["select symbol, count(*) as bars from silver.klines group by symbol"],
    )
    parameters: list[_Scalar] | dict[str, _Scalar] | None = Field(
        None, description="For ? (a list) or $name (an object) in the statement."
    )
    as_of: str | None = Field(None, min_length=1, max_length=LENGTH_MAX)


# Characters, each at most 12 in a URL; servers and proxies take URLs of some 64 KiB.
URL_STATEMENT_MAX = 4_000


class SqlQuery(AnswerQuery):
    query: str = Field(
        min_length=1,
        max_length=URL_STATEMENT_MAX,
        description="Longer ones go into the body of a POST.",
        examples=["select 1 as one"],
    )


class _FormatQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Format | None = Field(None, description="Before the header Accept.")


@routes.get("/sql", responses=ROWS_RESPONSES, summary="One SELECT", response_class=Response)
async def get_sql(request: Request, query: Annotated[SqlQuery, Query()]) -> Response:
    body = SqlBody(query=query.query, parameters=None, as_of=query.as_of)
    return await _answer(request, body, query.format)


@routes.post("/sql", responses=ROWS_RESPONSES, summary="One SELECT", response_class=Response)
async def post_sql(
    request: Request, body: SqlBody, query: Annotated[_FormatQuery, Query()]
) -> Response:
    return await _answer(request, body, query.format)


async def _answer(request: Request, body: SqlBody, asked: Format | None) -> Response:
    service = service_of(request)
    form = choose_format(asked, request.headers.get("accept", ""))
    check_text(body.query)
    sandbox = service.sandbox
    if sandbox is None:
        raise NotFoundError(
            "this service takes no SQL",
            f"{service.no_sql}; `lakehouse sql` asks the lake locally",
        )
    views = mentioned(body.query)
    tables = await service.fix([t for view in views for t in view.tables], body.as_of)
    engine = service.engine()
    limits = service.limits

    def produce() -> Written:
        job = job_of(service.lake(tables, engine), views, tables, body)
        with sandbox.run(job, engine, rows_limit(limits, form)) as answer:
            answer.snapshots = dict(tables.versions)
            return write_all(answer, form, limits)

    written = await service.sql_workers.run(engine, produce, hung_up(request))
    service.hold(written.whole)
    headers = {
        # Functions such as now() and random() are allowed: it may be another one each time.
        "Cache-Control": "private, no-store",
        "Vary": "Accept, Authorization",
        "Lakehouse-Snapshots": spell_versions(tables.versions),
        "Lakehouse-Rows": str(written.whole.rows),
        "Content-Digest": written.whole.digest,
    }
    return respond(written.whole, headers)


def job_of(lake: Lake, views: list[View], tables: FixedTables, body: SqlBody) -> SqlJob:
    """The views over exactly the files of the pinned snapshots."""
    pins: dict[str, Pin] = lake.pin(views)
    statements: list[str] = []
    paths: list[str] = []
    made: list[str] = []
    for name, pin in pins.items():
        files = plan_files(pin)
        paths += [file.file_path.removeprefix("file://") for file in files]
        statements.append(_create(name, files_sql(pin.shape, files)))
        made.append(name)
    for view in views:
        if view.sql:
            statements.append(_create(view.name, view.sql))
            made.append(view.name)
    assert set(made) <= set(VIEWS)
    return SqlJob(body.query, body.parameters, SCHEMAS, statements, made, paths)


def _create(name: str, select: str) -> str:
    spelled = ".".join(quoted(part) for part in name.split("."))
    return f"CREATE VIEW {spelled} AS {select}"
