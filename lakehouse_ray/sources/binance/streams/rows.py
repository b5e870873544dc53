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
    Depth,
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
    return rows_in(kind, market, event_frame(kind, events))


def event_frame(kind: Kind, events: Sequence[Event]) -> pl.DataFrame:
    """Events of one kind in columns: those of their data set, times as the exchange wrote them.

    Where not each of them is a row, `row` says which are. Of changes of a book `before` and `last`,
    the updates that each holds; its levels are not there.
    """
    columns = _BUILDERS[kind](events)
    if kind in ("kline", "trade"):
        columns["row"] = _flags([is_row(event) for event in events])
    return pl.DataFrame(
        [pl.Series(name, values, dtype) for name, (values, dtype) in columns.items()]
    )


def rows_in(kind: Kind, market: Market, frame: pl.DataFrame) -> Rows:
    """Make rows of the events of an `event_frame`; other columns of it stay out."""
    times = _TIMES[kind]
    frame = frame.with_row_index("place")
    kept = frame.filter("row") if "row" in frame.columns else frame
    kept = kept.with_columns(_micro(name).alias(name) for name in times)
    good = pl.all_horizontal(
        pl.col(name).is_null() | pl.col(name).is_between(_EARLIEST_US, _LATEST_US, closed="left")
        for name in times
    )
    sound = kept.select(good.alias("good")).to_series()
    refused: tuple[int, ...] = ()
    if not sound.all():
        refused = tuple(kept["place"].filter(~sound).to_list())
        kept = kept.filter(sound)
    unknown = [pl.lit(None, pl.Float64()).alias(name) for name in _UNKNOWN.get(kind, ())]
    rows = kept.select(
        pl.lit(market).alias("market"),
        *(pl.col(name).cast(_TIME) if name in times else pl.col(name) for name in _COLUMNS[kind]),
        *unknown,
    )
    return Rows(rows, refused, frame.height - kept.height - len(refused))


def _micro(name: str) -> pl.Expr:
    time = pl.col(name)
    return pl.when(time >= _MICROSECONDS_FROM).then(time).otherwise(time * 1000)


def _texts(values: list[str]) -> tuple[list[Any], pl.DataType]:
    return values, pl.String()


def _floats(values: list[float] | list[float | None]) -> tuple[list[Any], pl.DataType]:
    return values, pl.Float64()


def _longs(values: list[int] | list[int | None]) -> tuple[list[Any], pl.DataType]:
    return values, pl.Int64()


def _flags(values: list[bool] | list[bool | None]) -> tuple[list[Any], pl.DataType]:
    return values, pl.Boolean()


def _klines(events: Sequence[Event]) -> Columns:
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
    }


def _agg_trades(events: Sequence[Event]) -> Columns:
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
    }


def _trades(events: Sequence[Event]) -> Columns:
    trades = cast("Sequence[Trade]", events)
    return {
        "symbol": _texts([event.s for event in trades]),
        "id": _longs([event.t for event in trades]),
        "price": _floats([event.p for event in trades]),
        "qty": _floats([event.q for event in trades]),
        "time": _longs([event.T for event in trades]),
        "is_buyer_maker": _flags([event.m for event in trades]),
        "is_best_match": _flags([event.M for event in trades]),
    }


def _book_tickers(events: Sequence[Event]) -> Columns:
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
    }


def _forced_orders(events: Sequence[Event]) -> Columns:
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
    }


def _mark_prices(events: Sequence[Event]) -> Columns:
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
    }


def _changes(events: Sequence[Event]) -> Columns:
    changes = cast("Sequence[Depth]", events)
    return {
        "symbol": _texts([event.s for event in changes]),
        "time": _longs([event.E if event.T is None else event.T for event in changes]),
        "before": _longs([event.U - 1 if event.pu is None else event.pu for event in changes]),
        "last": _longs([event.u for event in changes]),
    }


_BUILDERS: dict[Kind, Callable[[Sequence[Event]], Columns]] = {
    "kline": _klines,
    "aggTrade": _agg_trades,
    "trade": _trades,
    "bookTicker": _book_tickers,
    "forceOrder": _forced_orders,
    "markPrice": _mark_prices,
    "depth": _changes,
}
_TIMES: dict[Kind, tuple[str, ...]] = {
    "kline": ("open_time", "close_time"),
    "aggTrade": ("transact_time",),
    "trade": ("time",),
    "bookTicker": ("transaction_time", "event_time"),
    "forceOrder": ("time",),
    "markPrice": ("event_time", "next_funding_time"),
}
# What a stream does not tell.
_UNKNOWN: dict[Kind, tuple[str, ...]] = {"trade": ("quote_qty", "base_qty")}
_COLUMNS: dict[Kind, tuple[str, ...]] = {kind: tuple(_BUILDERS[kind](())) for kind in _TIMES}
