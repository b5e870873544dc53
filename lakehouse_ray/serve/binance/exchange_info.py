"""exchangeInfo: as the exchange gave it, or derived from stored rows (docs/instruments.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import Response

from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.query.exchange_info import exchange_info
from lakehouse_ray.query.lives import TRADED_ROWS
from lakehouse_ray.query.versions import FixedTables, spell_versions
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.serve.binance.parameters import Parameters
from lakehouse_ray.serve.exchange_errors import (
    BAD_COMBINATION,
    BAD_SYMBOL,
    ILLEGAL_CHARACTERS,
    ExchangeError,
)
from lakehouse_ray.serve.service import Service, hung_up, service_of

# What identities are found in.
_TABLES = tuple(table for view in (*VIEWS.values(), TRADED_ROWS) for table in view.tables)
# Of spot's route; they choose among permissions, which only stored answers have.
_IGNORED = ("permissions", "showPermissionSets")


class ExchangeInfos:
    """The document of each market, kept as long as nothing is committed.

    To find it the times of all rows of the market are read, where symbols are derived from them.
    """

    def __init__(self) -> None:
        self._kept: dict[Market, tuple[str, dict[str, Any]]] = {}

    def endpoint(self, market: Market) -> Any:
        async def exchange_info(request: Request) -> Response:
            return await self._answer(request, market)

        return exchange_info

    async def _answer(self, request: Request, market: Market) -> Response:
        service = service_of(request)
        parameters = Parameters(request.query_params)
        wanted = _wanted(parameters) if market == "spot" else None
        status = parameters.text("symbolStatus") if market == "spot" else None
        if market == "spot":
            for name in _IGNORED:
                parameters.text(name)
        parameters.end()
        tables = await service.fix(_TABLES, None)
        versions = spell_versions(tables.versions)
        document = await self._document(request, service, market, tables, versions)
        symbols = _chosen(document["symbols"], wanted, status)
        now_ms = service.clock.now_us() // 1000
        body = orjson.dumps({**document, "serverTime": now_ms, "symbols": symbols})
        headers = {"Cache-Control": "private, no-cache"}
        return Response(body, headers=headers, media_type="application/json")

    async def _document(
        self,
        request: Request,
        service: Service,
        market: Market,
        tables: FixedTables,
        versions: str,
    ) -> dict[str, Any]:
        kept = self._kept.get(market)
        if kept is not None and kept[0] == versions:
            return kept[1]
        engine = service.engine()

        def find() -> dict[str, Any]:
            try:
                return exchange_info(service.lake(tables, engine), market)
            except NotFoundError:
                # A client that loads all markets must not fail for one that is not stored.
                return {"timezone": "UTC", "rateLimits": [], "exchangeFilters": [], "symbols": []}

        found = await service.workers.run(engine, find, hung_up(request))
        self._kept[market] = versions, found
        return found


def _wanted(parameters: Parameters) -> list[str] | None:
    symbol, symbols = parameters.symbol(required=False), parameters.text("symbols")
    if symbol is not None and symbols is not None:
        raise ExchangeError(BAD_COMBINATION, "Combination of optional parameters invalid.")
    if symbols is None:
        return None if symbol is None else [symbol]
    try:
        found = orjson.loads(symbols)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ExchangeError(
            ILLEGAL_CHARACTERS,
            "Illegal characters found in parameter 'symbols'; it is a JSON array.",
        )
    return found


def _chosen(
    symbols: Sequence[Mapping[str, Any]], wanted: list[str] | None, status: str | None
) -> list[Mapping[str, Any]]:
    found = list(symbols)
    if wanted is not None:
        by_name = {one["symbol"]: one for one in symbols}
        if any(name not in by_name for name in wanted):
            raise ExchangeError(BAD_SYMBOL, "Invalid symbol.")
        found = [by_name[name] for name in dict.fromkeys(wanted)]
    if status is not None:
        found = [one for one in found if one.get("status") == status]
    return found
