"""`/v1/datasets`, `snapshots`, `coverage`, `gaps`, `quality`: what there is, and how good it is."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import polars as pl
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.assessment import ASSESSMENT_LOG
from lakehouse_ray.query.answered import Answered, series_name
from lakehouse_ray.query.asked import Asked, ask_for
from lakehouse_ray.query.contents import contents
from lakehouse_ray.query.contents_document import contents_document
from lakehouse_ray.query.coverage import coverage
from lakehouse_ray.query.gaps import gaps
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.lake_facts import quality_sql, snapshots_of_tables, table_names
from lakehouse_ray.query.versions import FixedTables
from lakehouse_ray.query.views import TABLES, VIEWS
from lakehouse_ray.serve.answers import reply, write_all, write_frame
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.described import PROBLEMS, ROWS_RESPONSES
from lakehouse_ray.serve.formats import Format, choose_format, hold_bytes
from lakehouse_ray.serve.rows import SYMBOLS_CHARS_MAX, AnswerQuery, span_of
from lakehouse_ray.serve.service import Service, service_of

# An error names so many series that cannot be read.
_NAMED_MAX = 5


class SeriesQuery(AnswerQuery):
    """Which series; what is not given means everything that is stored."""

    market: str | None = Field(None, description="spot, um or cm.", examples=["spot"])
    dataset: str | None = Field(None, description="Such as klines.", examples=["klines"])
    interval: str | None = Field(None, description="Of bars.", examples=["1m"])
    symbols: str | None = Field(
        None, max_length=SYMBOLS_CHARS_MAX, description="With commas.", examples=["BTCUSDT,ETHUSDT"]
    )
    start: str | None = Field(None, max_length=40, description="First instant, ISO, UTC.")
    end: str | None = Field(None, max_length=40, description="End, not included.")

    def asked(self) -> Asked:
        span = span_of(self.start, self.end)
        return ask_for(
            self.market,
            self.dataset,
            self.interval,
            self.symbols,
            span.start_us if span is not None and self.start else None,
            span.end_us if span is not None and self.end else None,
        )


class SnapshotsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    table: str | None = Field(
        None, max_length=100, description="One table.", examples=["silver.klines_fine"]
    )
    format: Format | None = Field(None, description="Before the header Accept.")


routes = APIRouter(prefix="/v1", tags=["facts"])


@routes.get("/datasets", responses=PROBLEMS, summary="Data sets, and what is stored of each")
async def datasets(request: Request) -> Response:
    service = service_of(request)
    tables = await service.fix(TABLES.values(), None)

    def produce(lake: Lake) -> Written:
        document = contents_document(contents(lake))
        return Written(hold_bytes(orjson.dumps(document), Format.JSON))

    question = {"of": "datasets", "states": _states(tables)}
    return await reply(request, service, Format.JSON, tables, question, produce)


def _states(tables: FixedTables) -> list[str]:
    """What tells one state of the tables' metadata from another, also where rows are the same."""
    found = [tables.find(name) for name in tables.versions]
    return sorted(table.metadata_location for table in found if table is not None)


@routes.get(
    "/snapshots",
    responses=ROWS_RESPONSES,
    summary="Versions of each table",
    response_class=Response,
)
async def snapshots(request: Request, query: Annotated[SnapshotsQuery, Query()]) -> Response:
    names = table_names(query.table)
    service = service_of(request)
    form = choose_format(query.format, request.headers.get("accept", ""))
    tables = await service.fix([TABLES[name] for name in names], None)

    def produce(lake: Lake) -> Written:
        return write_frame(
            lake, snapshots_of_tables({n: tables.find(n) for n in names}), form, service.limits
        )

    question = {"of": "snapshots", "names": names, "states": _states(tables)}
    return await reply(request, service, form, tables, question, produce)


@routes.get(
    "/coverage",
    responses=ROWS_RESPONSES,
    summary="How much of each day is there",
    response_class=Response,
)
async def get_coverage(request: Request, query: Annotated[SeriesQuery, Query()]) -> Response:
    asked = query.asked()
    service, form, tables = await _begin(request, query, TABLES)

    def produce(lake: Lake) -> Written:
        return write_frame(lake, whole(coverage(lake, asked)), form, service.limits)

    return await _reply(request, service, form, tables, query, "coverage", produce)


@routes.get(
    "/gaps", responses=ROWS_RESPONSES, summary="What is missing, and why", response_class=Response
)
async def get_gaps(request: Request, query: Annotated[SeriesQuery, Query()]) -> Response:
    asked = query.asked()
    service, form, tables = await _begin(request, query, TABLES)

    def produce(lake: Lake) -> Written:
        found = whole(gaps(lake, asked)).rename({"start_time": "start", "end_time": "end"})
        found = found.with_columns(interval=pl.when(pl.col("interval") != "").then("interval"))
        return write_frame(lake, found, form, service.limits)

    return await _reply(request, service, form, tables, query, "gaps", produce)


@routes.get(
    "/quality",
    responses=ROWS_RESPONSES,
    summary="Scores of each symbol's days",
    response_class=Response,
)
async def get_quality(request: Request, query: Annotated[SeriesQuery, Query()]) -> Response:
    """As the latest assessment of each series scored them."""
    asked = query.asked()
    view = VIEWS["gold.quality"]
    names = [table.name for table in view.tables]
    assert ASSESSMENT_LOG.name in names
    service, form, tables = await _begin(request, query, names)
    statement = quality_sql(asked)

    def produce(lake: Lake) -> Written:
        with lake.ask(statement, [view]) as result:
            return write_all(result, form, service.limits)

    return await _reply(request, service, form, tables, query, "quality", produce)


def whole(answer: Answered) -> pl.DataFrame:
    """The rows. Raises UnavailableError where files cannot be read: a reply is never a part."""
    if answer.whole:
        return answer.rows
    names = [series_name(row) for row in answer.unread.iter_rows(named=True)]
    more = f" and {len(names) - _NAMED_MAX:,} more" if len(names) > _NAMED_MAX else ""
    raise UnavailableError(
        f"files of {', '.join(names[:_NAMED_MAX])}{more} cannot be read; "
        "ask for other symbols, and the operator for `lakehouse verify`"
    )


async def _begin(
    request: Request, query: AnswerQuery, names: Any
) -> tuple[Service, Format, FixedTables]:
    service = service_of(request)
    form = choose_format(query.format, request.headers.get("accept", ""))
    return service, form, await service.fix([TABLES[name] for name in names], query.as_of)


async def _reply(
    request: Request,
    service: Service,
    form: Format,
    tables: FixedTables,
    query: AnswerQuery,
    of: str,
    produce: Any,
) -> Response:
    question = query.model_dump(exclude={"format"}, mode="json") | {"of": of}
    return await reply(request, service, form, tables, question, produce, pinned=tables.exact)
