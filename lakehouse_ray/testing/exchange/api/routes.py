"""All routes: what each weighs, what counts it besides, and what answers it.

Weights are those of Binance's pages on its endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lakehouse_ray.testing.exchange.api import questions, statistics, tickers
from lakehouse_ray.testing.exchange.api.questions import Answer, Asked
from lakehouse_ray.testing.exchange.api.tickers import Books

# Below which path each market's routes are; the last one is of both futures markets.
PREFIXES = {"api/v3/": "spot", "fapi/v1/": "um", "dapi/v1/": "cm", "futures/data/": "um"}
Weight = Callable[[Mapping[str, str]], int]


@dataclass(frozen=True)
class Route:
    """answer: None where the body comes from elsewhere (exchangeInfo). key: Whether it wants one."""

    market: str
    weight: Weight
    answer: Answer | None
    counted: str | None = None
    key: bool = False


def routes(books: Books | None) -> dict[str, Route]:
    """By their paths, without a "/" before."""
    found = _spot(books)
    for prefix, market in (("fapi/v1/", "um"), ("dapi/v1/", "cm")):
        found |= {prefix + name: route for name, route in _futures(market, books).items()}
    for name in statistics.NAMES:
        answer = statistics.statistics(name)
        found[f"futures/data/{name}"] = Route("um", fixed(0), answer, "statistics")
    return found


def fixed(weight: int) -> Weight:
    return lambda query: weight


def by_limit(default: int, *steps: tuple[int, int], above: int) -> Weight:
    """steps: The largest limit of each, and its weight."""

    def weight(query: Mapping[str, str]) -> int:
        text = query.get("limit", "")
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default
        return next((cost for most, cost in steps if limit <= most), above)

    return weight


def by_symbol(one: int, every: int) -> Weight:
    return lambda query: one if query.get("symbol") else every


def _spot(books: Books | None) -> dict[str, Route]:
    bars = questions.bars("klines")
    book = by_limit(100, (100, 5), (500, 25), (1000, 50), above=250)
    found: dict[str, tuple[Weight, Answer | None]] = {
        "ping": (fixed(1), _ping),
        "time": (fixed(1), _time),
        "exchangeInfo": (fixed(20), None),
        "klines": (fixed(2), bars),
        "uiKlines": (fixed(2), bars),
        "aggTrades": (fixed(4), questions.agg_trades),
        "trades": (fixed(25), questions.recent_trades),
        "historicalTrades": (fixed(25), questions.old_trades(500, 1000)),
        "depth": (book, tickers.depth(books)),
        "avgPrice": (fixed(2), tickers.average_price),
        "ticker/price": (by_symbol(2, 4), tickers.of_all(tickers.price)),
        "ticker/bookTicker": (by_symbol(2, 4), tickers.of_all(tickers.best(books))),
        "ticker/24hr": (by_symbol(2, 80), tickers.of_all(tickers.of_day)),
    }
    return {f"api/v3/{name}": Route("spot", *parts) for name, parts in found.items()}


def _futures(market: str, books: Books | None) -> dict[str, Route]:
    by_bars = by_limit(500, (99, 1), (499, 2), (1000, 5), above=10)
    book = by_limit(500, (50, 2), (100, 5), (500, 10), above=20)
    found: dict[str, tuple[Weight, Answer | None]] = {
        "ping": (fixed(1), _ping),
        "time": (fixed(1), _time),
        "exchangeInfo": (fixed(1), None),
        "klines": (by_bars, questions.bars("klines", most=1500)),
        "continuousKlines": (by_bars, questions.continuous_bars),
        "markPriceKlines": (by_bars, questions.bars("markPriceKlines", most=1500)),
        "premiumIndexKlines": (by_bars, questions.bars("premiumIndexKlines", most=1500)),
        "indexPriceKlines": (
            by_bars, questions.bars("indexPriceKlines", of_pair=True, most=1500),
        ),
        "aggTrades": (fixed(20), questions.agg_trades),
        "trades": (fixed(5), questions.recent_trades),
        "depth": (book, tickers.depth(books)),
        "openInterest": (fixed(1), tickers.open_interest),
        "ticker/price": (by_symbol(1, 2), tickers.of_all(tickers.price)),
        "ticker/bookTicker": (by_symbol(2, 5), tickers.of_all(tickers.best(books))),
        "ticker/24hr": (by_symbol(1, 40), tickers.of_all(tickers.of_day)),
    }  # fmt: skip
    routes = {name: Route(market, *parts) for name, parts in found.items()}
    routes["historicalTrades"] = Route(market, fixed(20), questions.old_trades(100, 500), key=True)
    funding = (fixed(0), questions.funding, "funding") if market == "um" else (
        fixed(1), questions.funding, None,
    )  # fmt: skip
    routes["fundingRate"] = Route(market, *funding)
    return routes


def _ping(asked: Asked) -> dict[str, Any]:
    return {}


def _time(asked: Asked) -> dict[str, Any]:
    return {"serverTime": asked.now_us if asked.micro else asked.now_us // 1000}
