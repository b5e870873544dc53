"""Rows as events: what the exchange would have sent of them, and when.

Shapes are those of frames recorded from the exchange. What it sends and no stored row has is -1 (a
bar's first and last trade) or `NA` (the type of a futures trade): never a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.serve.binance.numbers import Decimals, Spell, spell_with
from lakehouse_ray.serve.streams.names import Stream, spell_interval

Row = tuple[Any, ...]
# Time in µs, name of the stream, rank, key of the row: a total order over all events of a
# connection. Of one stream all keys are alike.
Place = tuple[Any, ...]
BEFORE_ROW, ROW, AFTER_ROW = 0, 1, 2
_MILLISECOND_US = 1000
_MONTH_MAX_US = 31 * DAY_US
# Of the mark price and the index every market writes 8.
_EIGHT = Decimals(8, 0, 0)


@dataclass(frozen=True, slots=True)
class Event:
    """body: JSON. extra: Of a kind that the exchange has not, for those who asked for it."""

    place: Place
    stream: str
    body: bytes
    extra: bool = False


@dataclass(frozen=True)
class Shape:
    """How rows of a stream become events.

    columns: What is read of them; times are microseconds. time: Place among them of the table's
        time. key: Places of what tells rows apart.
    moment: When the event is due, µs: after the row's time by at most reach_us, never before it.
    """

    columns: tuple[str, ...]
    time: int
    key: tuple[int, ...]
    moment: Callable[[Row], int]
    reach_us: int
    write: Callable[[Row], dict[str, Any]]


@dataclass(frozen=True)
class Series:
    """A stream and how its rows are written. written: By what, beside the stream: decimals, and whether
    times are microseconds."""

    stream: Stream
    shape: Shape
    written: tuple[Decimals, bool]

    def place(self, row: Row, rank: int = ROW) -> Place:
        shape = self.shape
        return shape.moment(row), self.stream.name, rank, *(row[i] for i in shape.key)

    def event(self, row: Row) -> Event:
        return Event(self.place(row), self.stream.name, orjson.dumps(self.shape.write(row)))


def correction(
    series: Series, committed_ms: int, cause: str, before: Row | None, after: Row | None
) -> Event:
    """That a row came late, is another than it was, or is gone. One of before and after is given."""
    row = after if after is not None else before
    assert row is not None
    body = {
        "e": "correction", "E": committed_ms, "s": series.stream.symbol, "cause": cause,
        "was": None if before is None else series.shape.write(before),
        "now": None if after is None else series.shape.write(after),
    }  # fmt: skip
    return Event(series.place(row), series.stream.name, orjson.dumps(body), extra=True)


def series_of(stream: Stream, decimals: Decimals, *, micro: bool) -> Series:
    """micro: Whether times are written in microseconds instead of milliseconds."""
    divisor = 1 if micro else _MILLISECOND_US
    make = {
        "kline": _bars,
        "markPriceKline": _bars,
        "indexPriceKline": _bars,
        "aggTrade": _aggregated,
        "trade": _trades,
        "bookTicker": _book,
        "forceOrder": _forced,
    }[stream.kind]
    return Series(stream, make(stream, decimals, divisor), (decimals, micro))


def _spells(decimals: Decimals) -> tuple[Spell, Spell, Spell]:
    return (
        spell_with(decimals.price), spell_with(decimals.quantity), spell_with(decimals.quote),
    )  # fmt: skip


def _bars(stream: Stream, decimals: Decimals, divisor: int) -> Shape:
    assert stream.interval is not None
    length_us = INTERVALS[stream.interval] or _MONTH_MAX_US
    reach_us = length_us + _MILLISECOND_US
    interval, symbol = spell_interval(stream.interval), stream.symbol
    traded = stream.kind == "kline"
    price, quantity, quote = _spells(decimals if traded else _EIGHT)
    pair = symbol.partition("_")[0]

    def moment(row: Row) -> int:
        # The first whole millisecond after the bar: then all of its trades are over.
        opened, closed = int(row[0]), int(row[6])
        after = (closed // _MILLISECOND_US + 1) * _MILLISECOND_US
        return min(max(after, opened), opened + reach_us)

    def write(row: Row) -> dict[str, Any]:
        opened, first, high, low, last, volume, closed, money, count, bought, paid = row
        bar = {
            "t": opened // divisor, "T": closed // divisor,
            "s": "0" if stream.kind == "indexPriceKline" else symbol, "i": interval,
            "f": -1, "L": -1, "o": price(first), "c": price(last), "h": price(high),
            "l": price(low), "v": quantity(volume), "n": count, "x": True, "q": quote(money),
            "V": quantity(bought), "Q": quote(paid), "B": "0",
        }  # fmt: skip
        at = moment(row) // divisor
        if traded:
            return {"e": "kline", "E": at, "s": symbol, "k": bar}
        kind = stream.kind.removesuffix("Kline") + "_kline"
        return {"e": kind, "E": at, "ps": pair, "k": bar}

    columns = (
        "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume",
        "trades", "taker_buy_volume", "taker_buy_quote_volume",
    )  # fmt: skip
    return Shape(columns, 0, (0,), moment, reach_us, write)


def _aggregated(stream: Stream, decimals: Decimals, divisor: int) -> Shape:
    price, quantity, _ = _spells(decimals)
    spot, symbol = stream.market == "spot", stream.symbol

    def write(row: Row) -> dict[str, Any]:
        number, at, size, first, last, moment, maker, best = row
        time = moment // divisor
        head: dict[str, Any] = {"e": "aggTrade", "E": time}
        head |= {"s": symbol, "a": number} if spot else {"a": number, "s": symbol}
        head |= {
            "p": price(at), "q": quantity(size), "f": first, "l": last, "T": time, "m": maker,
        }  # fmt: skip
        return {**head, "M": best} if spot else head

    columns = (
        "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time",
        "is_buyer_maker", "is_best_match",
    )  # fmt: skip
    return Shape(columns, 5, (0,), lambda row: int(row[5]), 0, write)


def _trades(stream: Stream, decimals: Decimals, divisor: int) -> Shape:
    price, quantity, _ = _spells(decimals)
    spot, symbol = stream.market == "spot", stream.symbol

    def write(row: Row) -> dict[str, Any]:
        number, at, size, moment, maker, best = row
        time = moment // divisor
        if spot:
            return {
                "e": "trade", "E": time, "s": symbol, "t": number, "p": price(at),
                "q": quantity(size), "T": time, "m": maker, "M": best,
            }  # fmt: skip
        return {
            "e": "trade", "E": time, "T": time, "s": symbol, "t": number, "p": price(at),
            "q": quantity(size), "X": "NA", "m": maker,
        }  # fmt: skip

    columns = ("id", "price", "qty", "time", "is_buyer_maker", "is_best_match")
    return Shape(columns, 3, (0,), lambda row: int(row[3]), 0, write)


def _book(stream: Stream, decimals: Decimals, divisor: int) -> Shape:
    price, quantity, _ = _spells(decimals)
    symbol = stream.symbol

    def write(row: Row) -> dict[str, Any]:
        number, bid, bid_size, ask, ask_size, moment, sent = row
        head: dict[str, Any] = {"e": "bookTicker", "u": number, "s": symbol}
        if stream.market == "cm":
            head = {"u": number, "e": "bookTicker", "s": symbol, "ps": symbol.partition("_")[0]}
        return {
            **head, "b": price(bid), "B": quantity(bid_size), "a": price(ask),
            "A": quantity(ask_size), "T": moment // divisor,
            "E": (moment if sent is None else sent) // divisor,
        }  # fmt: skip

    columns = (
        "update_id", "best_bid_price", "best_bid_qty", "best_ask_price", "best_ask_qty",
        "transaction_time", "event_time",
    )  # fmt: skip
    return Shape(columns, 5, (0,), lambda row: int(row[5]), 0, write)


def _forced(stream: Stream, decimals: Decimals, divisor: int) -> Shape:
    price, quantity, _ = _spells(decimals)
    symbol = stream.symbol

    def write(row: Row) -> dict[str, Any]:
        moment, side, kind, force, size, at, average, status, last, filled = row
        time = moment // divisor
        order: dict[str, Any] = {"s": symbol}
        if stream.market == "cm":
            order["ps"] = symbol.partition("_")[0]
        order |= {
            "S": side, "o": kind, "f": force, "q": quantity(size), "p": price(at),
            "ap": price(average), "X": status, "l": quantity(last), "z": quantity(filled),
            "T": time,
        }  # fmt: skip
        return {"e": "forceOrder", "E": time, "o": order}

    columns = tuple(column.name for column in stream.dataset.columns)
    assert columns[0] == "time"
    return Shape(columns, 0, tuple(range(len(columns))), lambda row: int(row[0]), 0, write)
