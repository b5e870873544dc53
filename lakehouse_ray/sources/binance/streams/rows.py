"""Events of one kind as a frame: the data set's columns with market, symbol and interval before them.

Times become UTC microseconds, whether the exchange wrote ms or µs. What a stream does not tell is
null, and never computed: a trade's quantity in the quote asset, the time of spot's best bid and ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import polars as pl

from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.model.venue import Market, parse_interval
from lakehouse_ray.sources.binance.streams.events import (
    AggTrade,
    BookTicker,
    Event,
    ForceOrder,
    Kline,
    MarkPrice,
    Trade,
)
from lakehouse_ray.sources.binance.streams.names import Kind

# As in files: 10^15 ms is the year 33658, 10^15 µs is September 2001.
_MICROSECONDS_FROM = 10**15
_EARLIEST_US, _LATEST_US = parse_time("2010"), parse_time("2200")
_TIME = pl.Datetime("us", "UTC")

Columns = dict[str, tuple[list[Any], pl.DataType]]


@dataclass(frozen=True)
class Rows:
    """frame: A row per event, in their order, without those refused.

    refused: Places of events whose time is none between 2010 and 2200.
    passed: Events that are no rows by their nature: bars that are not done, trades that are none.
    """

    frame: pl.DataFrame
    refused: tuple[int, ...] = ()
    passed: int = 0


def is_row(event: Event) -> bool:
    """Whether the event is a row: bars have to be done, and trades of the market.

    A futures trade of type NA without price and quantity holds the place of a number alone.
    """
    if isinstance(event, Kline):
        return event.k.x
    if isinstance(event, Trade):
        return not (event.X == "NA" and event.p == 0 and event.q == 0)
    return True


def rows_of(kind: Kind, market: Market, events: Sequence[Event]) -> Rows:
    """Make rows of events of one kind, of any of its symbols. Not for depth: a book has its rows."""
    # Of the others each event is a row.
    partly = kind in ("kline", "trade")
    kept = [event for event in events if is_row(event)] if partly else list(events)
    columns, times = _BUILDERS[kind](kept)
    frame = pl.DataFrame(
        [pl.Series(name, values, dtype) for name, (values, dtype) in columns.items()]
    )
    frame = frame.with_columns(_micro(name).alias(name) for name in times)
    good = pl.all_horizontal(
        pl.col(name).is_null() | pl.col(name).is_between(_EARLIEST_US, _LATEST_US, closed="left")
        for name in times
    )
    sound = frame.select(good.alias("good")).to_series()
    refused: tuple[int, ...] = ()
    if not sound.all():
        places = [place for place, event in enumerate(events) if is_row(event)]
        refused = tuple(places[i] for i in (~sound).arg_true())
        frame = frame.filter(sound)
    frame = frame.with_columns(pl.col(name).cast(_TIME) for name in times)
    frame = frame.select(pl.lit(market).alias("market"), pl.all())
    return Rows(frame, refused, len(events) - len(kept))


def _micro(name: str) -> pl.Expr:
    time = pl.col(name)
    return pl.when(time >= _MICROSECONDS_FROM).then(time).otherwise(time * 1000)


def _texts(values: list[str]) -> tuple[list[Any], pl.DataType]:
    return values, pl.String()


def _floats(values: list[float] | list[float | None]) -> tuple[list[Any], pl.DataType]:
    return list(values), pl.Float64()


def _longs(values: list[int] | list[int | None]) -> tuple[list[Any], pl.DataType]:
    return list(values), pl.Int64()


def _flags(values: list[bool] | list[bool | None]) -> tuple[list[Any], pl.DataType]:
    return list(values), pl.Boolean()


def _klines(events: Sequence[Event]) -> tuple[Columns, tuple[str, ...]]:
    lines = cast("Sequence[Kline]", events)
    bars = [event.k for event in lines]
    intervals = {spelled: parse_interval(spelled) for spelled in {bar.i for bar in bars}}
    return {
        "symbol": _texts([event.s for event in lines]),
        "interval": _texts([intervals[bar.i] for bar in bars]),
        "open_time": _longs([bar.t for bar in bars]),
        "open": _floats([bar.o for bar in bars]),
        "high": _floats([bar.h for bar in bars]),
        "low": _floats([bar.l for bar in bars]),
        "close": _floats([bar.c for bar in bars]),
        "volume": _floats([bar.v for bar in bars]),
        "quote_volume": _floats([bar.q for bar in bars]),
        "trades": _longs([bar.n for bar in bars]),
        "taker_buy_volume": _floats([bar.V for bar in bars]),
        "taker_buy_quote_volume": _floats([bar.Q for bar in bars]),
        "close_time": _longs([bar.T for bar in bars]),
    }, ("open_time", "close_time")


def _agg_trades(events: Sequence[Event]) -> tuple[Columns, tuple[str, ...]]:
    trades = cast("Sequence[AggTrade]", events)
    return {
        "symbol": _texts([event.s for event in trades]),
        "agg_trade_id": _longs([event.a for event in trades]),
        "price": _floats([event.p for event in trades]),
        "quantity": _floats([event.q for event in trades]),
        "first_trade_id": _longs([event.f for event in trades]),
        "last_trade_id": _longs([event.l for event in trades]),
        "transact_time": _longs([event.T for event in trades]),
        "is_buyer_maker": _flags([event.m for event in trades]),
        "is_best_match": _flags([event.M for event in trades]),
    }, ("transact_time",)


def _trades(events: Sequence[Event]) -> tuple[Columns, tuple[str, ...]]:
    trades = cast("Sequence[Trade]", events)
    unknown: list[float | None] = [None] * len(trades)
    return {
        "symbol": _texts([event.s for event in trades]),
        "id": _longs([event.t for event in trades]),
        "price": _floats([event.p for event in trades]),
        "qty": _floats([event.q for event in trades]),
        "quote_qty": _floats(unknown),
        "base_qty": _floats(unknown),
        "time": _longs([event.T for event in trades]),
        "is_buyer_maker": _flags([event.m for event in trades]),
        "is_best_match": _flags([event.M for event in trades]),
    }, ("time",)


def _book_tickers(events: Sequence[Event]) -> tuple[Columns, tuple[str, ...]]:
    quotes = cast("Sequence[BookTicker]", events)
    return {
        "symbol": _texts([event.s for event in quotes]),
        "update_id": _longs([event.u for event in quotes]),
        "best_bid_price": _floats([event.b for event in quotes]),
        "best_bid_qty": _floats([event.B for event in quotes]),
        "best_ask_price": _floats([event.a for event in quotes]),
        "best_ask_qty": _floats([event.A for event in quotes]),
        "transaction_time": _longs([event.T for event in quotes]),
        "event_time": _longs([event.E for event in quotes]),
    }, ("transaction_time", "event_time")


def _forced_orders(events: Sequence[Event]) -> tuple[Columns, tuple[str, ...]]:
    orders = [event.o for event in cast("Sequence[ForceOrder]", events)]
    return {
        "symbol": _texts([order.s for order in orders]),
        "time": _longs([order.T for order in orders]),
        "side": _texts([order.S for order in orders]),
        "order_type": _texts([order.o for order in orders]),
        "time_in_force": _texts([order.f for order in orders]),
        "original_quantity": _floats([order.q for order in orders]),
        "price": _floats([order.p for order in orders]),
        "average_price": _floats([order.ap for order in orders]),
        "order_status": _texts([order.X for order in orders]),
        "last_fill_quantity": _floats([order.l for order in orders]),
        "accumulated_fill_quantity": _floats([order.z for order in orders]),
    }, ("time",)


def _mark_prices(events: Sequence[Event]) -> tuple[Columns, tuple[str, ...]]:
    marks = cast("Sequence[MarkPrice]", events)
    return {
        "symbol": _texts([event.s for event in marks]),
        "event_time": _longs([event.E for event in marks]),
        "mark_price": _floats([event.p for event in marks]),
        "index_price": _floats([event.i for event in marks]),
        "estimated_settle_price": _floats([event.P for event in marks]),
        "funding_rate": _floats([float(event.r) if event.r else None for event in marks]),
        # Delivery contracts say 0: they pay none.
        "next_funding_time": _longs([event.T or None for event in marks]),
    }, ("event_time", "next_funding_time")


_BUILDERS: dict[Kind, Callable[[Sequence[Event]], tuple[Columns, tuple[str, ...]]]] = {
    "kline": _klines,
    "aggTrade": _agg_trades,
    "trade": _trades,
    "bookTicker": _book_tickers,
    "forceOrder": _forced_orders,
    "markPrice": _mark_prices,
}
