"""Which rows a request asks for: the exchange's rules of each route, as one question to the lake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.funding_rates import FUNDING_RATES
from lakehouse_ray.model.datasets.klines import (
    INDEX_PRICE_KLINES,
    KLINES,
    MARK_PRICE_KLINES,
    PREMIUM_INDEX_KLINES,
)
from lakehouse_ray.model.datasets.trades import TRADES
from lakehouse_ray.model.timespan import DAY_US, TimeRange
from lakehouse_ray.model.venue import INTERVALS, Market
from lakehouse_ray.serve.binance.parameters import LATEST_US, Parameters
from lakehouse_ray.serve.exchange_errors import (
    BAD_COMBINATION,
    BAD_PARAMETER,
    RANGE_TOO_LONG,
    START_AFTER_END,
    ExchangeError,
)

# COIN-M answers for bars of so long a time at most.
_CM_RANGE_US = 200 * DAY_US
_MICROSECOND = ("microsecond", "microseconds")


@dataclass(frozen=True)
class Question:
    """span: None: all times; `empty`: the range has no instant in it.

    newest: Of the rows of the range the last `limit` ones, else the first; always in ascending order.
    """

    dataset: Dataset
    market: Market
    symbol: str | None
    interval: str | None = None
    span: TimeRange | None = None
    empty: bool = False
    from_id: int | None = None
    newest: bool = False
    limit: int = 500
    micro: bool = False

    @property
    def equal(self) -> dict[str, str]:
        parts = {"market": self.market, "symbol": self.symbol, "interval": self.interval}
        return {name: value for name, value in parts.items() if value is not None}


@dataclass(frozen=True)
class Route:
    """limit: Rows where none is asked for. most: Rows that may be asked for."""

    path: str
    market: Market
    dataset: Dataset
    read: Callable[[Route, Parameters, bool], Question]
    limit: int = 500
    most: int = 1000
    named: str = "symbol"

    @property
    def spot(self) -> bool:
        return self.market == "spot"


def read(route: Route, parameters: Parameters, time_unit: str) -> Question:
    """Return what is asked. time_unit: The header X-MBX-TIME-UNIT.

    Raises ExchangeError for what the exchange would refuse.
    """
    question = route.read(route, parameters, route.spot and time_unit.lower() in _MICROSECOND)
    parameters.end()
    return question


def near_span(question: Question) -> TimeRange | None:
    """The part of the range in which the bars lie where none is missing; None: not known.

    Where it has as many as are asked for, these are the answer, and few files were opened.
    """
    length = INTERVALS[question.interval] if question.interval is not None else None
    span = question.span
    if length is None or span is None:
        return None
    # One more: the range need not begin with a bar.
    reach_us = (question.limit + 1) * length
    if question.newest:
        return TimeRange(max(span.start_us, span.end_us - reach_us), span.end_us)
    return TimeRange(span.start_us, min(span.end_us, span.start_us + reach_us))


def _bars(route: Route, parameters: Parameters, micro: bool) -> Question:
    symbol = parameters.symbol(route.named)
    interval = parameters.interval(seconds=route.spot)
    if route.spot:
        parameters.check_zone(interval)
    limit = parameters.limit(route.limit, route.most, caps=route.spot)
    start_us, end_us = _times(route, parameters)
    newest = start_us is None
    if route.market == "cm" and (start_us is not None or end_us is not None):
        # The newest ones of the range, and no range is longer than that.
        newest = True
        if start_us is None:
            start_us = max((end_us or 0) - _CM_RANGE_US, 0)
        elif end_us is None:
            end_us = start_us + _CM_RANGE_US
        elif end_us - 1000 - start_us > _CM_RANGE_US:
            raise ExchangeError(RANGE_TOO_LONG, "Maximum time interval is 200 days.")
    span, empty = _span(start_us, end_us)
    return Question(
        route.dataset, route.market, symbol, interval, span, empty, None, newest, limit, micro
    )


def _continuous(route: Route, parameters: Parameters, micro: bool) -> Question:
    """Bars of a pair's contract of some kind; which one was the quarter's is not stored."""
    kind = parameters.required("contractType")
    if kind != "PERPETUAL":
        raise ExchangeError(BAD_PARAMETER, "Data sent for parameter 'contractType' is not valid.")
    question = _bars(route, parameters, micro)
    symbol = f"{question.symbol}_PERP" if route.market == "cm" else question.symbol
    return replace(question, symbol=symbol)


def _aggregated(route: Route, parameters: Parameters, micro: bool) -> Question:
    symbol = parameters.symbol()
    limit = parameters.limit(route.limit, route.most, caps=route.spot)
    from_id = parameters.number("fromId")
    start_us, end_us = _times(route, parameters)
    if from_id is not None and (start_us is not None or end_us is not None):
        raise ExchangeError(BAD_COMBINATION, "Combination of optional parameters invalid.")
    span, empty = _span(start_us, end_us)
    newest = from_id is None and start_us is None
    return Question(
        route.dataset, route.market, symbol, None, span, empty, _id(from_id), newest, limit, micro
    )


def _recent(route: Route, parameters: Parameters, micro: bool) -> Question:
    symbol = parameters.symbol()
    limit = parameters.limit(route.limit, route.most, caps=route.spot)
    return Question(route.dataset, route.market, symbol, newest=True, limit=limit, micro=micro)


def _historical(route: Route, parameters: Parameters, micro: bool) -> Question:
    symbol = parameters.symbol()
    limit = parameters.limit(route.limit, route.most, caps=route.spot)
    from_id = _id(parameters.number("fromId"))
    return Question(
        route.dataset, route.market, symbol, from_id=from_id, newest=from_id is None, limit=limit,
        micro=micro,
    )  # fmt: skip


def _funding(route: Route, parameters: Parameters, micro: bool) -> Question:
    symbol = parameters.symbol(required=route.market == "cm")
    limit = parameters.limit(route.limit, route.most, caps=False)
    start_us, end_us = _times(route, parameters)
    span, empty = _span(start_us, end_us)
    newest = start_us is None
    return Question(
        route.dataset, route.market, symbol, None, span, empty, None, newest, limit, micro
    )


def _times(route: Route, parameters: Parameters) -> tuple[int | None, int | None]:
    """The range as half-open. Spot takes microseconds too, whatever it answers in."""
    start_us = parameters.time_us("startTime", micro=route.spot)
    end_us = parameters.time_end_us("endTime", micro=route.spot)
    if not route.spot and start_us is not None and end_us is not None and start_us >= end_us:
        raise ExchangeError(START_AFTER_END, "Start time is greater than end time.")
    return start_us, end_us


def _span(start_us: int | None, end_us: int | None) -> tuple[TimeRange | None, bool]:
    if start_us is None and end_us is None:
        return None, False
    first, end = start_us or 0, LATEST_US if end_us is None else end_us
    return (TimeRange(first, end), False) if first < end else (None, True)


def _id(number: int | None) -> int | None:
    # Beyond what an id can be there are none.
    return None if number is None else min(number, (1 << 63) - 1)


def _routes(prefix: str, market: Market) -> list[Route]:
    def route(name: str, dataset: Dataset, read: Callable[[Route, Parameters, bool], Question],
              limit: int = 500, most: int = 1000, named: str = "symbol") -> Route:  # fmt: skip
        return Route(f"{prefix}/{name}", market, dataset, read, limit, most, named)

    found = [
        route("aggTrades", AGG_TRADES, _aggregated),
        route("trades", TRADES, _recent),
    ]
    if market == "spot":
        return [
            *found,
            route("historicalTrades", TRADES, _historical),
            route("klines", KLINES, _bars),
            route("uiKlines", KLINES, _bars),
        ]
    return [
        *found,
        route("historicalTrades", TRADES, _historical, 100, 500),
        route("klines", KLINES, _bars, 500, 1500),
        route("continuousKlines", KLINES, _continuous, 500, 1500, "pair"),
        route("markPriceKlines", MARK_PRICE_KLINES, _bars, 500, 1500),
        route("indexPriceKlines", INDEX_PRICE_KLINES, _bars, 500, 1500, "pair"),
        route("premiumIndexKlines", PREMIUM_INDEX_KLINES, _bars, 500, 1500),
        route("fundingRate", FUNDING_RATES, _funding, 100, 1000),
    ]


PREFIXES: dict[str, Market] = {"/api/v3": "spot", "/fapi/v1": "um", "/dapi/v1": "cm"}
ROUTES = [route for prefix, market in PREFIXES.items() for route in _routes(prefix, market)]
