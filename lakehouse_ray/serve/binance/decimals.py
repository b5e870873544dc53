"""How many decimals the exchange writes of a contract: what its last stored exchangeInfo says."""

from __future__ import annotations

import orjson

from lakehouse_ray.model.instruments import INSTRUMENT_STATES
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.scan import Where
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.serve.binance.numbers import SPOT, Decimals, of_instrument
from lakehouse_ray.serve.service import Service
from lakehouse_ray.serve.work import StoppableEngine

STATES = VIEWS[INSTRUMENT_STATES.name]


def stored_decimals(service: Service, lake: Lake, market: str, symbol: str) -> Decimals:
    """Of a symbol that no stored exchangeInfo has: as many as are needed."""
    if market == "spot":
        return SPOT
    where = Where({"market": market, "symbol": symbol})
    statement = (
        f"SELECT raw FROM {{view}} WHERE {where.sql(INSTRUMENT_STATES)} AND raw IS NOT NULL "
        "ORDER BY observed_at DESC LIMIT 1"
    )
    engine = lake.engine
    assert isinstance(engine, StoppableEngine)
    with service.quick().ask(engine, STATES, lake.pin([STATES]), where, statement) as result:
        found = [row["raw"] for row in result.rows()]
    record = orjson.loads(found[0]) if found else {}
    return of_instrument(market, record.get("pricePrecision"), record.get("quantityPrecision"))
