"""Binance's routes: their parameters, page sizes and weights (its REST documentation, by market)."""

from __future__ import annotations

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import HOUR_US, parse_time
from lakehouse_ray.model.venue import INTERVALS, Market
from lakehouse_ray.sources.binance.limits import FUNDING, REQUESTS, STATISTICS
from lakehouse_ray.sources.budget import WEIGHT
from lakehouse_ray.sources.rest import Request

PREFIXES: dict[Market, str] = {"spot": "api/v3", "um": "fapi/v1", "cm": "dapi/v1"}
# Spot's own files are in microseconds from here on.
MICRO_FROM_US = parse_time("2025")
# Of klines on futures: weight by the largest limit it holds for. Bars per unit of weight are 99,
# 249, 200 and 150: 499 is the page to ask for. On spot any limit weighs 2.
_BAR_WEIGHTS = ((99, 1), (499, 2), (1000, 5), (1500, 10))
BAR_PAGE_ROWS: dict[Market, int] = {"spot": 1000, "um": 499, "cm": 499}
# Of books: weight by the largest number of levels it holds for.
_FUTURES_BOOKS = ((50, 2), (100, 5), (500, 10), (1000, 20))
_BOOK_WEIGHTS: dict[Market, tuple[tuple[int, int], ...]] = {
    "spot": ((100, 5), (500, 25), (1000, 50), (5000, 250)),
    "um": _FUTURES_BOOKS,
    "cm": _FUTURES_BOOKS,
}
# COIN-M answers for no more than 200 days of bars.
COIN_M_SPAN_US = 199 * 24 * HOUR_US
AGG_PAGE_ROWS = 1000
TRADE_PAGE_ROWS: dict[Market, int] = {"spot": 1000, "um": 500, "cm": 500}
FUNDING_PAGE_ROWS = 1000
METRICS_PAGE_ROWS = 500
_BAR_ROUTES = {
    "klines": "klines",
    "markPriceKlines": "markPriceKlines",
    "indexPriceKlines": "indexPriceKlines",
    "premiumIndexKlines": "premiumIndexKlines",
}
# Column of the metrics, by route and by field of its answer.
METRICS_ROUTES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("openInterestHist", (("sumOpenInterest",) * 2, ("sumOpenInterestValue",) * 2)),
    ("topLongShortAccountRatio", (("longShortRatio", "count_toptrader_long_short_ratio"),)),
    ("topLongShortPositionRatio", (("longShortRatio", "sum_toptrader_long_short_ratio"),)),
    ("globalLongShortAccountRatio", (("longShortRatio", "count_long_short_ratio"),)),
    ("takerlongshortRatio", (("buySellRatio", "sum_taker_long_short_vol_ratio"),)),
)  # fmt: skip
# Columns of cells that stay as the exchange spells them until they are read.
_SPELLED = {
    "sumOpenInterest": "sum_open_interest", "sumOpenInterestValue": "sum_open_interest_value",
}  # fmt: skip
# COIN-M tells takers' volumes, not their ratio as the files have it.
_NOT_OF_CM = ("takerlongshortRatio",)


def bars(
    market: Market, dataset: str, symbol: str, interval: str, start_us: int, end_us: int, rows: int
) -> Request:
    """Bars that open in [start, end), `rows` of them at most."""
    route = _BAR_ROUTES[dataset]
    of_pair = dataset == "indexPriceKlines"
    limit = BAR_PAGE_ROWS[market]
    if market != "spot":
        limit = next(most for most, _ in _BAR_WEIGHTS if rows <= most)
    return _request(
        market,
        route,
        _weight(market, 2 if market == "spot" else dict(_BAR_WEIGHTS)[limit]),
        ("pair" if of_pair else "symbol", pair_of(symbol) if of_pair else symbol),
        ("interval", "1M" if interval == "1mo" else interval),
        *_times(start_us, end_us),
        ("limit", limit),
        micro=market == "spot" and start_us >= MICRO_FROM_US,
    )


def agg_trades_between(market: Market, symbol: str, start_us: int, end_us: int) -> Request:
    """The first aggTrades in [start, end); on futures within less than an hour."""
    assert market == "spot" or end_us - start_us < HOUR_US, "futures answer for less than an hour"
    return _agg_trades(market, symbol, *_times(start_us, end_us), micro=start_us >= MICRO_FROM_US)


def agg_trades_from(market: Market, symbol: str, first_id: int, *, micro: bool) -> Request:
    """AggTrades from an id on."""
    return _agg_trades(market, symbol, ("fromId", first_id), micro=micro)


def _agg_trades(
    market: Market, symbol: str, *params: tuple[str, str | int], micro: bool
) -> Request:
    return _request(
        market,
        "aggTrades",
        _weight(market, 4 if market == "spot" else 20),
        ("symbol", symbol),
        *params,
        ("limit", AGG_PAGE_ROWS),
        micro=market == "spot" and micro,
    )


def trades_from(market: Market, symbol: str, first_id: int, *, micro: bool) -> Request:
    """Trades from an id on."""
    return _request(
        market,
        "historicalTrades",
        _weight(market, 25 if market == "spot" else 20),
        ("symbol", symbol),
        ("fromId", first_id),
        ("limit", TRADE_PAGE_ROWS[market]),
        micro=market == "spot" and micro,
        keyed=True,
    )


def funding(market: Market, symbol: str, start_us: int, end_us: int) -> Request:
    """Payments in [start, end), the first ones."""
    return _request(
        market,
        "fundingRate",
        {FUNDING: 1} if market == "um" else {WEIGHT: 1},
        ("symbol", symbol),
        *_times(start_us, end_us),
        ("limit", FUNDING_PAGE_ROWS),
    )


def metrics(market: Market, route: str, symbol: str, start_us: int, end_us: int) -> Request | None:
    """Samples of five minutes in [start, end); None where the market does not tell them.

    Raises InvalidError for a contract of COIN-M that is no perpetual one: the exchange tells only of
    pairs there.
    """
    named: tuple[tuple[str, str], ...] = (("symbol", symbol),)
    if market == "cm":
        if route in _NOT_OF_CM:
            return None
        if not symbol.endswith("_PERP"):
            raise InvalidError(f"REST has no metrics of {symbol}", "only of perpetual contracts")
        named = (("pair", pair_of(symbol)),)
        if route == "openInterestHist":
            named += (("contractType", "PERPETUAL"),)
    params: tuple[tuple[str, str | int], ...] = (
        *named, ("period", "5m"), *_times(start_us, end_us), ("limit", METRICS_PAGE_ROWS),
    )  # fmt: skip
    costs = {STATISTICS: 1} if market == "um" else {STATISTICS: 1, WEIGHT: 1}
    return Request(market, f"futures/data/{route}", _texts(params), costs)


def metrics_columns(market: Market) -> tuple[str, ...]:
    """Columns of metrics that a market tells."""
    told = (cells for route, cells in METRICS_ROUTES if market != "cm" or route not in _NOT_OF_CM)
    names = (column for cells in told for _, column in cells)
    return tuple(_SPELLED.get(name, name) for name in names)


def book(market: Market, symbol: str, levels: int) -> Request:
    """A snapshot of a book. levels: Of each side, one of the numbers that the exchange has."""
    weight = next(cost for most, cost in _BOOK_WEIGHTS[market] if levels <= most)
    return _request(market, "depth", _weight(market, weight), ("symbol", symbol), ("limit", levels))


def clock(market: Market) -> Request:
    """The exchange's own time."""
    return _request(market, "time", _weight(market, 1))


def pair_of(symbol: str) -> str:
    return symbol.partition("_")[0]


def bars_a_page(market: Market, interval: str, rows: int) -> int:
    """How many bars the next page is to ask for, of `rows` that are wanted.

    Two less than the answer may have: off the grid there may be more of them than fit.
    """
    most = BAR_PAGE_ROWS[market] - 2
    length_us = INTERVALS[interval]
    if market == "cm" and length_us is not None:
        most = max(1, min(most, COIN_M_SPAN_US // length_us))
    return min(rows, most)


def _weight(market: Market, weight: int) -> dict[str, int]:
    return {WEIGHT: weight, REQUESTS: 1} if market == "spot" else {WEIGHT: weight}


def _times(start_us: int, end_us: int) -> tuple[tuple[str, int], tuple[str, int]]:
    """Both ends count in, and are ms."""
    return ("startTime", -(-start_us // 1000)), ("endTime", (end_us - 1) // 1000)


def _request(
    market: Market,
    route: str,
    costs: dict[str, int],
    *params: tuple[str, str | int],
    micro: bool = False,
    keyed: bool = False,
) -> Request:
    return Request(market, f"{PREFIXES[market]}/{route}", _texts(params), costs, micro, keyed)


def _texts(params: tuple[tuple[str, str | int], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in params)
