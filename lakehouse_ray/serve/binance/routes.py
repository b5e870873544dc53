"""`/api/v3`, `/fapi/v1`, `/dapi/v1`: the exchange's market data, as far as the lake holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import TimeRange, month_of, month_ordinal
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.scan import Where, quoted
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.serve.answers import reply
from lakehouse_ray.serve.binance.bodies import Row, shape_of, write_all
from lakehouse_ray.serve.binance.decimals import STATES, stored_decimals
from lakehouse_ray.serve.binance.exchange_info import ExchangeInfos
from lakehouse_ray.serve.binance.numbers import SPOT, Decimals
from lakehouse_ray.serve.binance.parameters import Parameters
from lakehouse_ray.serve.binance.questions import PREFIXES, ROUTES, Question, Route, near_span, read
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.exchange_errors import BAD_INTERVAL, BAD_SYMBOL, ExchangeError
from lakehouse_ray.serve.formats import Format, hold_rows
from lakehouse_ray.serve.service import Service, service_of
from lakehouse_ray.serve.work import StoppableEngine


def router() -> APIRouter:
    """All routes; in no OpenAPI document of ours, since they are the exchange's to describe."""
    routes = APIRouter(include_in_schema=False)
    infos = ExchangeInfos()
    for prefix, market in PREFIXES.items():
        routes.add_api_route(f"{prefix}/ping", _ping, methods=["GET"])
        routes.add_api_route(f"{prefix}/time", _time, methods=["GET"])
        routes.add_api_route(f"{prefix}/exchangeInfo", infos.endpoint(market), methods=["GET"])
    for route in ROUTES:
        routes.add_api_route(route.path, _endpoint(route), methods=["GET"])
    return routes


async def _ping(request: Request) -> Response:
    Parameters(request.query_params).end()
    return Response(b"{}", media_type="application/json")


async def _time(request: Request) -> Response:
    Parameters(request.query_params).end()
    now_ms = service_of(request).clock.now_us() // 1000
    return Response(orjson.dumps({"serverTime": now_ms}), media_type="application/json")


def _endpoint(route: Route) -> Any:
    async def rows(request: Request) -> Response:
        return await _answer(request, route)

    return rows


async def _answer(request: Request, route: Route) -> Response:
    service = service_of(request)
    parameters = Parameters(request.query_params)
    question = read(route, parameters, request.headers.get("x-mbx-time-unit", ""))
    view = VIEWS[f"silver.{question.dataset.view}"]
    contract = route.market != "spot"
    tables = await service.fix((*view.tables, *(STATES.tables if contract else ())), None)

    def produce(lake: Lake) -> Written:
        asker = _Asker(service, lake)
        decimals = asker.decimals(question) if contract else SPOT
        shape = shape_of(question.dataset, question.market, decimals, micro=question.micro)
        rows = [] if question.empty else asker.rows(question, shape.columns)
        if not rows and question.symbol is not None:
            asker.refuse_unknown(question)
        body = orjson.dumps(write_all(shape, rows))
        return Written(hold_rows(body, Format.JSON, len(rows)))

    asked = {"path": route.path, **question.__dict__, "dataset": question.dataset.name}
    if question.span is not None:
        asked["span"] = [question.span.start_us, question.span.end_us]
    return await reply(request, service, Format.JSON, tables, asked, produce)


class _Asker:
    """Questions over the lake of one request."""

    def __init__(self, service: Service, lake: Lake) -> None:
        self._service = service
        self._lake = lake

    def rows(self, question: Question, columns: Sequence[str]) -> list[Row]:
        """At most `limit` rows, in ascending order."""
        near = near_span(question)
        if near is not None and near != question.span:
            found = self._read(question, columns, near)
            if len(found) == question.limit:
                return found
        return self._read(question, columns, question.span)

    def _read(
        self, question: Question, columns: Sequence[str], span: TimeRange | None
    ) -> list[Row]:
        table = question.dataset.tables[0]
        condition = Where(question.equal, span).sql(table)
        # By their time; where an id is asked for, by ids.
        order = [name for name in table.sort if name != "symbol"]
        if question.from_id is not None:
            order = [*question.dataset.key, table.time]
            condition += f" AND {quoted(question.dataset.key[0])} >= {question.from_id}"
        elif question.symbol is None:
            order.append("symbol")
        down = " DESC" if question.newest else ""
        statement = (
            f"SELECT {', '.join(columns)} FROM {{view}} WHERE {condition} "
            f"ORDER BY {', '.join(quoted(name) + down for name in order)} LIMIT {question.limit}"
        )
        # The plan of a month serves all pages of it: files are cut by months, or by years.
        months = Where(question.equal, None if span is None else _whole_months(span))
        found = self._ask(question.dataset, months, statement)
        return found[::-1] if question.newest else found

    def decimals(self, question: Question) -> Decimals:
        if question.symbol is None:
            return Decimals()
        return stored_decimals(self._service, self._lake, question.market, question.symbol)

    def refuse_unknown(self, question: Question) -> None:
        """No rows are an answer for a symbol that is stored, and an error for one that is not."""
        dataset, table = question.dataset, question.dataset.tables[0]
        where = Where(question.equal)
        if self._ask(dataset, where, f"SELECT 1 FROM {{view}} WHERE {where.sql(table)} LIMIT 1"):
            return
        if question.interval is not None:
            other = {name: value for name, value in question.equal.items() if name != "interval"}
            where = Where(other)
            statement = f'SELECT DISTINCT "interval" FROM {{view}} WHERE {where.sql(table)}'
            stored = sorted(str(row[0]) for row in self._ask(dataset, where, statement))
            if stored:
                raise ExchangeError(
                    BAD_INTERVAL,
                    f"Invalid interval. The lake has {question.symbol} at {', '.join(stored)}.",
                )
        raise ExchangeError(BAD_SYMBOL, "Invalid symbol.")

    def _ask(self, dataset: Dataset, where: Where, statement: str) -> list[Row]:
        """where: What the statement asks for, or more: files outside of it are not opened."""
        return self._run(f"silver.{dataset.view}", where, statement)

    def _run(self, name: str, where: Where, statement: str) -> list[Row]:
        view, engine = VIEWS[name], self._lake.engine
        assert isinstance(engine, StoppableEngine)
        pins = self._lake.pin([view])
        found: list[Row] = []
        with self._service.quick().ask(engine, view, pins, where, statement) as result:
            for batch in result.fetch_batches():
                found += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        return found


def _whole_months(span: TimeRange) -> TimeRange:
    first = month_of(month_ordinal(span.start_us)).start_us
    return TimeRange(first, month_of(month_ordinal(span.end_us)).end_us)
