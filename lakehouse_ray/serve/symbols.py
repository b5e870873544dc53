"""`/v1/universe`, `instruments`, `identities`, `exchangeInfo`, `why`: of symbols, and of one value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import orjson
import polars as pl
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import from_us, parse_time
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.views import TABLES
from lakehouse_ray.serve.answers import reply, write_frame
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.cursors import LENGTH_MAX
from lakehouse_ray.serve.described import PROBLEMS, ROWS_RESPONSES
from lakehouse_ray.serve.formats import Format, choose_format, hold_bytes
from lakehouse_ray.serve.rows import EARLIEST_US, LATEST_US, SYMBOLS_CHARS_MAX, AnswerQuery
from lakehouse_ray.serve.service import service_of

_SYMBOLS = Field(
    None, max_length=SYMBOLS_CHARS_MAX, description="With commas.", examples=["BTCUSDT,ETHUSDT"]
)
_AT = Field(None, max_length=40, description="A moment, ISO, UTC.", examples=["2024-01-05"])

routes = APIRouter(prefix="/v1", tags=["symbols"])


class UniverseQuery(AnswerQuery):
    market: str = Field("spot", description="spot, um or cm.", examples=["spot"])
    at: str | None = _AT
    quote: str | None = Field(
        None, max_length=2000, description="Quote assets, with commas.", examples=["USDT"]
    )
    kind: str | None = Field(
        None, description="spot, perpetual or delivery.", examples=["perpetual"]
    )


class InstrumentsQuery(AnswerQuery):
    market: str | None = Field(None, description="spot, um or cm.", examples=["spot"])
    symbols: str | None = _SYMBOLS
    at: str | None = _AT


class IdentitiesQuery(AnswerQuery):
    market: str = Field(description="spot, um or cm.", examples=["spot"])
    symbols: str | None = _SYMBOLS


class DocumentQuery(BaseModel):
    """What is answered as JSON alone."""

    model_config = ConfigDict(extra="forbid")

    as_of: str | None = Field(None, min_length=1, max_length=LENGTH_MAX)


class ExchangeInfoQuery(DocumentQuery):
    market: str = Field("spot", description="spot, um or cm.", examples=["spot"])


class WhyQuery(DocumentQuery):
    symbol: str = Field(min_length=1, max_length=40, examples=["BTCUSDT"])
    at: str = Field(max_length=40, description="Time of the row.", examples=["2024-01-05T00:00"])
    interval: str | None = Field(None, description="Of bars.", examples=["1m"])
    market: str = Field("spot", description="spot, um or cm.", examples=["spot"])
    dataset: str = Field("klines", description="Such as klines.", examples=["klines"])
    gold: str | None = Field(
        None, description="A derived table instead: klines, resampled_klines or daily."
    )


@routes.get(
    "/universe", responses=ROWS_RESPONSES, summary="Who traded at a moment", response_class=Response
)
async def universe(request: Request, query: Annotated[UniverseQuery, Query()]) -> Response:
    """Delisted symbols too, each with its evidence."""
    at = _moment(query.at)
    return await _rows(
        request,
        query,
        "universe",
        lambda lake: lake.universe(query.market, at, query.quote, query.kind),
    )


@routes.get(
    "/instruments",
    responses=ROWS_RESPONSES,
    summary="What exchangeInfo says of each symbol",
    response_class=Response,
)
async def instruments(request: Request, query: Annotated[InstrumentsQuery, Query()]) -> Response:
    at = _moment(query.at)
    return await _rows(
        request,
        query,
        "instruments",
        lambda lake: lake.instruments(query.market, query.symbols, at),
    )


@routes.get(
    "/identities",
    responses=ROWS_RESPONSES,
    summary="What each ticker meant, and when",
    response_class=Response,
)
async def identities(request: Request, query: Annotated[IdentitiesQuery, Query()]) -> Response:
    return await _rows(
        request, query, "identities", lambda lake: lake.identities(query.market, query.symbols)
    )


@routes.get("/exchangeInfo", responses=PROBLEMS, summary="As the exchange's clients read it")
async def exchange_info(request: Request, query: Annotated[ExchangeInfoQuery, Query()]) -> Response:
    """With every stored symbol; `symbols[].lakehouse` says what is derived from rows."""
    return await _document(
        request, query, "exchangeInfo", lambda lake: lake.exchange_info(query.market)
    )


@routes.get("/why", responses=PROBLEMS, summary="Where a value is from")
async def why(request: Request, query: Annotated[WhyQuery, Query()]) -> Response:
    """Object, version and snapshot; for a row that is not there, the gap. What is inside of a file
    is told where it is small."""
    at = _moment(query.at)
    return await _document(
        request,
        query,
        "why",
        lambda lake: lake.why(
            query.symbol, at, query.interval, query.market, query.dataset, gold=query.gold
        ),
        remembered=False,  # it reads raw files too, which may be lost and come back
    )


def _moment(text: str | None) -> Any:
    if text is None:
        return None
    found = parse_time(text)
    if not EARLIEST_US <= found <= LATEST_US:
        raise InvalidError(f"there is nothing at {text}", "times are from 1970 to 2200")
    return from_us(found)


async def _rows(
    request: Request, query: AnswerQuery, of: str, find: Callable[[Lake], pl.DataFrame]
) -> Response:
    service = service_of(request)
    form = choose_format(query.format, request.headers.get("accept", ""))
    tables = await service.fix(TABLES.values(), query.as_of)

    def produce(lake: Lake) -> Written:
        return write_frame(lake, find(lake), form, service.limits)

    question = query.model_dump(exclude={"format"}, mode="json") | {"of": of}
    return await reply(request, service, form, tables, question, produce, pinned=tables.exact)


async def _document(
    request: Request,
    query: DocumentQuery,
    of: str,
    find: Callable[[Lake], dict[str, Any]],
    *,
    remembered: bool = True,
) -> Response:
    service = service_of(request)
    tables = await service.fix(TABLES.values(), query.as_of)

    def produce(lake: Lake) -> Written:
        return Written(hold_bytes(orjson.dumps(find(lake)), Format.JSON))

    question = query.model_dump(mode="json") | {"of": of}
    return await reply(
        request, service, Format.JSON, tables, question, produce, pinned=tables.exact,
        remembered=remembered,
    )  # fmt: skip
