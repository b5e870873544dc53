"""`/v1/sql`: one SELECT over the lake's tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from pyiceberg.manifest import DataFile

from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.query.gate import STATEMENT_BYTES_MAX, check_text
from lakehouse_ray.query.live import plan_live, sources_of
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import EVERYTHING, quoted
from lakehouse_ray.query.versions import spell_versions
from lakehouse_ray.query.views import SCHEMAS, VIEWS, View, mentioned
from lakehouse_ray.query.wanted import columns_of, where_of
from lakehouse_ray.serve.answers import respond, write_all
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.cursors import LENGTH_MAX
from lakehouse_ray.serve.described import ROWS_RESPONSES
from lakehouse_ray.serve.formats import Format, choose_format, rows_limit
from lakehouse_ray.serve.problems import BusyError, TooLargeError
from lakehouse_ray.serve.rows import AnswerQuery
from lakehouse_ray.serve.sandbox import Provide, SqlJob
from lakehouse_ray.serve.service import Service, hung_up, service_of
from lakehouse_ray.serve.work import StoppableEngine
from lakehouse_ray.storage.copies import NoRoomError

Pins = Mapping[str, Pin]
# The files of each table.
Planned = Mapping[str, Sequence[DataFile]]

# One statement that begins so tells columns and types, and nothing of rows.
_DESCRIBES = re.compile(r"\s*describe\b", re.I)

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
        pins = service.lake(tables, engine).pin(views)
        with (
            _job_of(service, engine, pins, views, body) as (job, provide),
            sandbox.run(job, engine, rows_limit(limits, form), provide) as answer,
        ):
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


@contextmanager
def _job_of(
    service: Service, engine: StoppableEngine, pins: Pins, views: Sequence[View], body: SqlBody
) -> Iterator[tuple[SqlJob, Provide | None]]:
    """The views over files of the pinned snapshots, on this machine while the context lasts."""
    made = [*pins, *(view.name for view in views if view.sql)]
    assert set(made) <= set(VIEWS)
    if service.copies is None:
        planned = plan_live(pins, EVERYTHING, engine.plan)
        every = [file for files in planned.values() for file in files]
        engine.verify(every)
        places = {file.file_path: file.file_path.removeprefix("file://") for file in every}
        statements = _statements(pins, planned, places, views)
        paths = list(places.values())
        yield SqlJob(body.query, body.parameters, SCHEMAS, made, statements, paths), None
        return
    columns = {view.name: told for view in views if (told := columns_of(view)) is not None}
    with ExitStack() as held:
        room = held.enter_context(service.copies.room())

        def provide(wanted: dict[str, Any]) -> list[str]:
            planned = _planned(engine, pins, views, {} if _DESCRIBES.match(body.query) else wanted)
            places = held.enter_context(_copied(service, engine, planned, room))
            return _statements(pins, planned, places, views)

        folders = [str(room)]
        yield (
            SqlJob(body.query, body.parameters, SCHEMAS, made, None, (), folders, columns),
            provide,
        )


def _planned(
    engine: StoppableEngine, pins: Pins, views: Sequence[View], wanted: dict[str, Any]
) -> Planned:
    """The files of each table that hold what a statement may want of any view of it."""
    found: dict[str, dict[str, DataFile]] = {name: {} for name in pins}
    for view in views:
        if view.name not in wanted:
            continue
        where = where_of(view, wanted[view.name])
        own = {table.name: pins[table.name] for table in view.tables}
        for name, files in plan_live(own, where, engine.plan).items():
            found[name] |= {file.file_path: file for file in files}
    return {name: list(files.values()) for name, files in found.items()}


@contextmanager
def _copied(
    service: Service, engine: StoppableEngine, planned: Planned, room: Path
) -> Iterator[dict[str, str]]:
    """Where each file is on this machine while the context lasts."""
    assert service.copies is not None
    root = f"{service.source.store.root}/"
    every = [file for files in planned.values() for file in files]
    sizes = {file.file_path.removeprefix(root): file.file_size_in_bytes for file in every}
    try:
        with service.copies.hold(sizes, room, engine.check) as places:
            yield {root + name: place for name, place in places.items()}
    except NoRoomError as error:
        if error.wanted_bytes > error.bytes_max:
            raise TooLargeError(
                f"the files that the statement needs have {error.wanted_bytes:,} bytes, and it may "
                f"read {error.bytes_max:,} of a lake in a bucket",
                "say which market, symbol, interval and times are wanted, each as `name = 'value'` in "
                "the WHERE beside the table; or see serve.sql_files_bytes_max",
            ) from error
        raise BusyError("other statements use the room for files", 1.0) from error


def _statements(
    pins: Pins, planned: Planned, places: Mapping[str, str], views: Sequence[View]
) -> list[str]:
    sources = sources_of({n: pin.shape for n, pin in pins.items()}, planned, EVERYTHING, places)
    return [
        *(_create(name, select) for name, select in sources.items()),
        *(_create(view.name, view.sql) for view in views if view.sql),
    ]


def _create(name: str, select: str) -> str:
    spelled = ".".join(quoted(part) for part in name.split("."))
    return f"CREATE VIEW {spelled} AS {select}"
