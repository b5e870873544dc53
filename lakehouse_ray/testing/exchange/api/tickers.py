"""Prices of now and of the last day, out of trades and bars: what the archive tells of them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson

from lakehouse_ray.testing.exchange.api import rows as spelled
from lakehouse_ray.testing.exchange.api.parameters import Parameters
from lakehouse_ray.testing.exchange.api.questions import EVER_US, Answer, Asked
from lakehouse_ray.testing.exchange.history import Row, Series
from lakehouse_ray.testing.exchange.keys import LONG_INTERVALS

_DAY_US = 86_400_000_000
# The body of the depth route: of a market and symbol, with so many levels; None: nothing is known.
Books = Callable[[str, str, int], bytes | None]
_NOTHING = "0.00000000"


def of_all(one: Callable[[Asked, str], dict[str, Any] | None]) -> Answer:
    """Of the symbol that is named, else a list of all that have bars."""

    def answer(asked: Asked) -> Any:
        if asked.parameters.text("symbol") is not None:
            symbol = asked.symbol()
            found = one(asked, symbol)
            # COIN-M answers with a list of one.
            told = {} if found is None else found
            return [told] if asked.market == "cm" else told
        symbols = asked.memory.history.symbols(asked.market, "klines")
        told_of = [one(asked, symbol) for symbol in symbols]
        return [told for told in told_of if told is not None]

    return answer


def price(asked: Asked, symbol: str) -> dict[str, Any] | None:
    found = _last_price(asked, symbol)
    if found is None:
        return None
    told: dict[str, Any] = {"symbol": symbol, "price": found[0]}
    if asked.market == "cm":
        told["ps"] = symbol.partition("_")[0]
    return told if asked.market == "spot" else {**told, "time": found[1] // 1000}


def average_price(asked: Asked) -> dict[str, Any]:
    """Of the trades of five minutes, by their bars."""
    symbol = asked.symbol()
    bars = _bars(asked, symbol, 300_000_000)
    volume = sum((Decimal(bar.cells[5]) for bar in bars), Decimal(0))
    amount = sum((Decimal(bar.cells[7]) for bar in bars), Decimal(0))
    last = _last_price(asked, symbol)
    mean = f"{amount / volume:.8f}" if volume else (last[0] if last else _NOTHING)
    return {"mins": 5, "price": mean, "closeTime": asked.now_us // 1000}


def of_day(asked: Asked, symbol: str) -> dict[str, Any] | None:
    bars = _bars(asked, symbol, _DAY_US)
    if not bars:
        return None
    first, last = Decimal(bars[0].cells[1]), Decimal(bars[-1].cells[4])
    volume = sum((Decimal(bar.cells[5]) for bar in bars), Decimal(0))
    amount = sum((Decimal(bar.cells[7]) for bar in bars), Decimal(0))
    told: dict[str, Any] = {
        "symbol": symbol,
        "priceChange": format(last - first, "f"),
        "priceChangePercent": f"{(last - first) / first * 100:.3f}",
        "lastPrice": spelled.plain(bars[-1].cells[4]),
        "openPrice": spelled.plain(bars[0].cells[1]),
        "highPrice": spelled.plain(max((bar.cells[2] for bar in bars), key=Decimal)),
        "lowPrice": spelled.plain(min((bar.cells[3] for bar in bars), key=Decimal)),
        "volume": format(volume, "f"),
        "openTime": bars[0].time_us // 1000,
        "closeTime": asked.now_us // 1000,
        # What Binance tells of a day without trades; the archive's bars know no ids.
        "firstId": -1,
        "lastId": -1,
        "count": sum(int(bar.cells[8]) for bar in bars),
    }
    if asked.market == "cm":
        return {**told, "pair": symbol.partition("_")[0], "baseVolume": format(amount, "f")}
    mean = f"{amount / volume:.8f}" if volume else _NOTHING
    return {**told, "quoteVolume": format(amount, "f"), "weightedAvgPrice": mean}


def best(books: Books | None) -> Callable[[Asked, str], dict[str, Any] | None]:
    """The top of the recorded book, else the last row of the archive's bookTicker."""

    def answer(asked: Asked, symbol: str) -> dict[str, Any]:
        bid, ask = _top(books, asked, symbol)
        told: dict[str, Any] = {
            "symbol": symbol, "bidPrice": bid[0], "bidQty": bid[1], "askPrice": ask[0],
            "askQty": ask[1],
        }  # fmt: skip
        if asked.market == "cm":
            told["pair"] = symbol.partition("_")[0]
        return told if asked.market == "spot" else {**told, "time": asked.now_us // 1000}

    return answer


def depth(books: Books | None) -> Answer:
    """As recorded; a book of which nothing is known is empty."""

    def answer(asked: Asked) -> Any:
        symbol = asked.parameters.symbol()
        levels = _levels(asked.parameters, asked.market)
        body = None if books is None else books(asked.market, symbol, levels)
        if body is not None:
            return orjson.Fragment(body)
        asked.symbol()
        told: dict[str, Any] = {"lastUpdateId": 0, "bids": [], "asks": []}
        if asked.market == "spot":
            return told
        now_ms = asked.now_us // 1000
        told = {"lastUpdateId": 0, "E": now_ms, "T": now_ms, "bids": [], "asks": []}
        if asked.market == "um":
            return told
        return {**told, "symbol": symbol, "pair": symbol.partition("_")[0]}

    return answer


def open_interest(asked: Asked) -> dict[str, Any]:
    symbol = asked.symbol()
    rows = asked.memory.history.last(Series(asked.market, "metrics", symbol), 1, asked.now_us + 1)
    told = {"symbol": symbol, "openInterest": "0", "time": asked.now_us // 1000}
    if rows:
        told |= {"openInterest": spelled.plain(rows[0].cells[2]), "time": rows[0].time_us // 1000}
    return told


def _levels(parameters: Parameters, market: str) -> int:
    if market == "spot":
        return parameters.limit(100, 5000)
    return parameters.limit(500, 1000)


def _top(books: Books | None, asked: Asked, symbol: str) -> tuple[list[str], list[str]]:
    body = None if books is None else books(asked.market, symbol, 5)
    if body is not None:
        book = orjson.loads(body)
        return tuple(next(iter(book[side]), [_NOTHING] * 2) for side in ("bids", "asks"))  # type: ignore[return-value]
    series = Series(asked.market, "bookTicker", symbol)
    rows = asked.memory.history.last(series, 1, asked.now_us + 1)
    cells = rows[0].cells if rows else ("0", *(_NOTHING,) * 4)
    return [cells[1], cells[2]], [cells[3], cells[4]]


def _last_price(asked: Asked, symbol: str) -> tuple[str, int] | None:
    """The price and time of the last trade, or else the close of the last bar."""
    for dataset in ("trades", "aggTrades"):
        series = Series(asked.market, dataset, symbol)
        rows = asked.memory.history.last(series, 1, asked.now_us + 1)
        if rows:
            return spelled.plain(rows[0].cells[1]), rows[0].time_us
    bars = _bars(asked, symbol, EVER_US, 1)
    if not bars:
        return None
    return spelled.plain(bars[0].cells[4]), min(bars[0].time_us, asked.now_us)


def _bars(asked: Asked, symbol: str, back_us: int, limit: int = 86_400) -> list[Row]:
    """The shortest bars that opened within the last `back_us`, the open one among them."""
    intervals = asked.memory.history.intervals(asked.market, "klines", symbol)
    interval = next((one for one in intervals if one not in ("1s", *LONG_INTERVALS)), None)
    if interval is None:
        return []
    series = Series(asked.market, "klines", symbol, interval)
    start_us = max(0, asked.now_us - back_us)
    return asked.memory.bars.page(series, start_us, EVER_US, limit, asked.now_us, newest=True)
