"""Which rows a request asks for, and the answer to it, route by route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from lakehouse_ray.testing.exchange.api import rows as spelled
from lakehouse_ray.testing.exchange.api.bars import BarHistory
from lakehouse_ray.testing.exchange.api.parameters import Parameters
from lakehouse_ray.testing.exchange.api.refusals import Refusal, bad_symbol, not_valid
from lakehouse_ray.testing.exchange.history import History, Row, Series

EVER_US = 2**62
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
# COIN-M answers for bars of so long a time at most.
_CM_RANGE_US = 200 * _DAY_US


@dataclass(frozen=True)
class Memory:
    """What the exchange remembers: an archive, and bars made of it."""

    history: History
    bars: BarHistory


@dataclass(frozen=True)
class Asked:
    """A request. now_us: The exchange's time. micro: Whether times are to be microseconds."""

    memory: Memory
    market: str
    parameters: Parameters
    now_us: int
    micro: bool = False

    def symbol(self) -> str:
        symbol = self.parameters.symbol()
        if not self.memory.history.knows(self.market, symbol):
            raise bad_symbol()
        return symbol

    def symbol_of_pair(self, dataset: str) -> str:
        """The folder in which a pair's rows are: its own, or that of its perpetual contract."""
        pair = self.parameters.symbol("pair")
        for symbol in (pair, f"{pair}_PERP"):
            if symbol in self.memory.history.symbols(self.market, dataset):
                return symbol
        if any(self.memory.history.knows(self.market, name) for name in (pair, f"{pair}_PERP")):
            return pair
        raise bad_symbol()


Answer = Callable[[Asked], Any]


def bars(dataset: str, *, of_pair: bool = False, most: int = 1000) -> Answer:
    def answer(asked: Asked) -> orjson.Fragment:
        symbol = asked.symbol_of_pair(dataset) if of_pair else asked.symbol()
        return _bars(asked, dataset, symbol, most)

    return answer


def continuous_bars(asked: Asked) -> orjson.Fragment:
    """Of a pair's perpetual contract; which one was the quarter's, no archive tells."""
    if asked.parameters.required("contractType") != "PERPETUAL":
        raise not_valid("contractType")
    return _bars(asked, "klines", asked.symbol_of_pair("klines"), 1500)


def _bars(asked: Asked, dataset: str, symbol: str, most: int) -> orjson.Fragment:
    parameters = asked.parameters
    interval = parameters.interval()
    zone = parameters.text("timeZone") if asked.market == "spot" else None
    if zone not in (None, "0", "00:00", "+00:00", "-00:00"):
        raise not_valid("timeZone")
    limit = parameters.limit(500, most)
    start_us, end_us = parameters.times_us()
    newest = start_us is None
    if asked.market == "cm" and (start_us is not None or end_us is not None):
        # The newest of a range that is 200 days at most.
        newest = True
        if start_us is None:
            start_us = max(0, (end_us or 0) - _CM_RANGE_US)
        elif end_us is None:
            end_us = start_us + _CM_RANGE_US
        elif end_us - 1000 - start_us > _CM_RANGE_US:
            raise Refusal(-4088, "Maximum time interval is 200 days.")
    series = Series(asked.market, dataset, symbol, interval)
    found = asked.memory.bars.page(
        series, start_us or 0, EVER_US if end_us is None else end_us, limit, asked.now_us,
        newest=newest,
    )  # fmt: skip
    return orjson.Fragment(spelled.bars(found, micro=asked.micro))


def agg_trades(asked: Asked) -> list[Any]:
    symbol = asked.symbol()
    limit = asked.parameters.limit(500, 1000)
    from_id = asked.parameters.number("fromId")
    start_us, end_us = asked.parameters.times_us()
    if from_id is not None and (start_us is not None or end_us is not None):
        raise Refusal(-1128, "Combination of optional parameters invalid.")
    both = start_us is not None and end_us is not None
    if both and asked.market != "spot" and (end_us or 0) - 1000 - (start_us or 0) > _HOUR_US:
        raise Refusal(-1127, "More than 1 hours between startTime and endTime.")
    series = Series(asked.market, "aggTrades", symbol)
    found = _numbered(asked, series, limit, from_id, start_us, end_us)
    return [spelled.agg_trade(row, asked.market, micro=asked.micro) for row in found]


def recent_trades(asked: Asked) -> list[Any]:
    symbol = asked.symbol()
    limit = asked.parameters.limit(500, 1000)
    found = _numbered(asked, Series(asked.market, "trades", symbol), limit)
    return [spelled.trade(row, asked.market, micro=asked.micro) for row in found]


def old_trades(default: int, most: int) -> Answer:
    def answer(asked: Asked) -> list[Any]:
        symbol = asked.symbol()
        limit = asked.parameters.limit(default, most)
        from_id = asked.parameters.number("fromId")
        found = _numbered(asked, Series(asked.market, "trades", symbol), limit, from_id)
        return [spelled.trade(row, asked.market, micro=asked.micro) for row in found]

    return answer


def _numbered(
    asked: Asked,
    series: Series,
    limit: int,
    from_id: int | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
) -> list[Row]:
    """Trades from an id on, or from a time on, or the last ones before a time."""
    history = asked.memory.history
    before_us = min(EVER_US if end_us is None else end_us, asked.now_us + 1)
    if from_id is not None:
        rows = history.from_id(series, from_id)
        return [row for row in islice(rows, limit) if row.time_us < before_us]
    if start_us is not None:
        return list(islice(history.rows(series, start_us, before_us), limit))
    return history.last(series, limit, before_us)


def funding(asked: Asked) -> list[Any]:
    """Of one symbol; on USD-M of all of them where none is named."""
    parameters = asked.parameters
    named = asked.market == "cm" or parameters.text("symbol") is not None
    history = asked.memory.history
    symbols = [asked.symbol()] if named else history.symbols(asked.market, "fundingRate")
    limit = parameters.limit(100, 1000)
    start_us, end_us = parameters.times_us()
    found: list[tuple[int, str, Row]] = []
    for symbol in symbols:
        series = Series(asked.market, "fundingRate", symbol)
        rows = _numbered(asked, series, limit, None, start_us, end_us)
        found += [(row.time_us, symbol, row) for row in rows]
    found.sort()
    chosen = found[-limit:] if start_us is None else found[:limit]
    return [
        spelled.funding(row, symbol, _mark_price(asked, symbol, row)) for _, symbol, row in chosen
    ]


def _mark_price(asked: Asked, symbol: str, row: Row) -> str | None:
    """At the funding, by the minute that opened then; empty where the archive does not tell."""
    if asked.market == "cm":
        return None
    minute_us = row.time_us - row.time_us % 60_000_000
    series = Series(asked.market, "markPriceKlines", symbol, "1m")
    bar = next(asked.memory.history.rows(series, minute_us, minute_us + 60_000_000), None)
    return "" if bar is None else spelled.plain(bar.cells[1])
