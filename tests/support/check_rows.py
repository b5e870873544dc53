"""A good row of each data set, and what is changed in it to break a rule."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from lakehouse_ray.model.datasets.registry import DATASETS

T0 = datetime(2024, 5, 6, 7, 35, tzinfo=UTC)  # a Monday
MS = timedelta(milliseconds=1)
MINUTE = timedelta(minutes=1)
NAN, INF = math.nan, math.inf

TYPES: dict[str, Any] = {
    "timestamp": pl.Datetime("us", "UTC"),
    "double": pl.Float64(),
    "long": pl.Int64(),
    "int": pl.Int32(),
    "boolean": pl.Boolean(),
    "string": pl.String(),
}

GOOD: dict[str, dict[str, Any]] = {
    "klines": {
        "open_time": T0, "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 5.0, "quote_volume": 50.0,
        "trades": 7, "taker_buy_volume": 2.0, "taker_buy_quote_volume": 20.0, "close_time": T0 + MINUTE - MS,
    },
    "markPriceKlines": {
        "open_time": T0, "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 0.0, "quote_volume": 0.0,
        "trades": 60, "taker_buy_volume": 0.0, "taker_buy_quote_volume": 0.0, "close_time": T0 + MINUTE - MS,
    },
    "premiumIndexKlines": {
        "open_time": T0, "open": -0.01, "high": 0.02, "low": -0.03, "close": 0.0, "volume": 0.0, "quote_volume": 0.0,
        "trades": 60, "taker_buy_volume": 0.0, "taker_buy_quote_volume": 0.0, "close_time": T0 + MINUTE - MS,
    },
    "aggTrades": {
        "agg_trade_id": 1, "price": 10.0, "quantity": 2.0, "first_trade_id": 5, "last_trade_id": 6,
        "transact_time": T0, "is_buyer_maker": True, "is_best_match": None,
    },
    "trades": {
        "id": 1, "price": 10.0, "qty": 2.0, "quote_qty": 20.0, "base_qty": None, "time": T0, "is_buyer_maker": True,
        "is_best_match": None,
    },
    "fundingRate": {
        "calc_time": T0.replace(hour=8, minute=0) + 13 * MS, "funding_interval_hours": 8,
        "last_funding_rate": -0.0001,
    },
    "metrics": {
        "create_time": T0, "sum_open_interest": 10.0, "sum_open_interest_value": 100.0,
        "count_toptrader_long_short_ratio": 1.5, "sum_toptrader_long_short_ratio": 1.1,
        "count_long_short_ratio": 0.9, "sum_taker_long_short_vol_ratio": 0.0,
    },
    "bookTicker": {
        "update_id": 9, "best_bid_price": 10.0, "best_bid_qty": 1.0, "best_ask_price": 10.1, "best_ask_qty": 2.0,
        "transaction_time": T0, "event_time": T0 + MS,
    },
    "bookLevels": {
        "event_time": T0, "update_id": 9, "level": 1, "bid_price": 10.0, "bid_qty": 1.0, "ask_price": 10.1,
        "ask_qty": 2.0,
    },
    "markPrice": {
        "event_time": T0, "mark_price": 10.0, "index_price": 10.1, "estimated_settle_price": 9.9,
        "funding_rate": 0.0001, "next_funding_time": T0 + MINUTE,
    },
    "bookDepth": {"timestamp": T0, "percentage": -1.0, "depth": 5.0, "notional": 50.0},
    "liquidationSnapshot": {
        "time": T0, "side": "SELL", "order_type": "LIMIT", "time_in_force": "IOC", "original_quantity": 3.0,
        "price": 10.0, "average_price": 9.9, "order_status": "FILLED", "last_fill_quantity": 1.0,
        "accumulated_fill_quantity": 3.0,
    },
}  # fmt: skip
GOOD["indexPriceKlines"] = GOOD["markPriceKlines"]

# Data set, market, what is changed in the good row, what the row then breaks.
BROKEN: list[tuple[str, str, dict[str, Any], str]] = [
    ("klines", "spot", {"close": NAN}, "NOT_FINITE,OHLC"),  # NaN is above every number
    ("klines", "spot", {"taker_buy_volume": INF}, "NOT_FINITE,TAKER_OVER_TOTAL"),
    ("klines", "spot", {"low": 0.0}, "ZERO_PRICE"),
    ("klines", "spot", {"high": 10.5}, "OHLC"),
    ("klines", "spot", {"low": 10.5}, "OHLC,AVERAGE_OUTSIDE"),
    ("klines", "cm", {"low": 10.5}, "OHLC"),  # contracts have no average price
    ("klines", "spot", {"high": 9.0, "low": 12.0}, "OHLC,AVERAGE_OUTSIDE"),
    ("klines", "um", {"taker_buy_volume": -1.0}, "NEGATIVE_VOLUME"),
    ("klines", "um", {"trades": -1}, "NEGATIVE_VOLUME"),
    ("klines", "um", {"taker_buy_volume": 5.5}, "TAKER_OVER_TOTAL"),
    ("klines", "um", {"taker_buy_quote_volume": 50.5}, "TAKER_OVER_TOTAL"),
    ("klines", "um", {"trades": 0}, "VOLUME_WITHOUT_TRADES"),
    (
        "klines",
        "um",
        {
            "volume": 0.0,
            "quote_volume": 0.0,
            "taker_buy_volume": 0.0,
            "taker_buy_quote_volume": 0.0,
        },
        "TRADES_WITHOUT_VOLUME",
    ),
    (
        "klines",
        "um",
        {
            "trades": 0,
            "volume": 0.0,
            "quote_volume": 0.0,
            "taker_buy_volume": 0.0,
            "taker_buy_quote_volume": 0.0,
        },
        "MOVE_WITHOUT_TRADES",
    ),
    ("klines", "um", {"quote_volume": 61.0}, "AVERAGE_OUTSIDE"),
    ("klines", "cm", {"quote_volume": 61.0}, ""),
    ("klines", "um", {"quote_volume": 60.00005}, ""),
    ("klines", "spot", {"open_time": T0 + MS, "close_time": T0 + MINUTE}, "OFF_GRID"),
    ("klines", "spot", {"close_time": T0 + MINUTE - timedelta(microseconds=1)}, ""),
    ("klines", "spot", {"close_time": T0 + timedelta(seconds=14)}, "CUT_SHORT"),
    ("klines", "spot", {"close_time": T0 + timedelta(seconds=59)}, "CLOSE_TIME"),
    ("klines", "spot", {"close_time": T0 + MINUTE}, "CLOSE_TIME"),
    ("klines", "spot", {"close_time": T0 - MINUTE}, "CLOSE_TIME"),
    ("markPriceKlines", "um", {"volume": 1.0}, "VOLUME_ON_PRICE_BAR"),
    ("markPriceKlines", "um", {"low": -1.0}, "ZERO_PRICE"),
    ("indexPriceKlines", "cm", {"high": 1.0}, "OHLC"),
    ("premiumIndexKlines", "um", {"low": -1.5}, "PREMIUM_RANGE"),
    ("premiumIndexKlines", "um", {"high": -0.02}, "OHLC"),
    ("premiumIndexKlines", "um", {"high": INF}, "NOT_FINITE,PREMIUM_RANGE"),
    ("aggTrades", "um", {"price": 0.0}, "ZERO_PRICE"),
    ("aggTrades", "um", {"quantity": 0.0}, "ZERO_QUANTITY"),
    ("aggTrades", "um", {"last_trade_id": 4}, "TRADE_IDS"),
    (
        "aggTrades",
        "spot",
        {"price": 0.0, "quantity": 0.0, "first_trade_id": -1, "last_trade_id": -1},
        "ZERO_PRICE,ZERO_QUANTITY,TRADE_IDS",
    ),
    ("trades", "um", {"quote_qty": 19.99}, ""),
    ("trades", "um", {"quote_qty": 19.98}, "AMOUNT"),
    ("trades", "cm", {"quote_qty": None, "base_qty": 0.01}, ""),
    ("trades", "cm", {"quote_qty": None, "base_qty": 0.0}, "AMOUNT"),
    ("trades", "spot", {"id": -1}, "TRADE_IDS"),
    ("trades", "spot", {"qty": 0.0, "quote_qty": 0.0}, "ZERO_QUANTITY"),
    ("trades", "spot", {"price": 0.0, "quote_qty": 0.0}, "ZERO_PRICE"),
    ("fundingRate", "um", {"funding_interval_hours": 1}, ""),
    ("fundingRate", "um", {"funding_interval_hours": 7}, "FUNDING_INTERVAL"),
    ("fundingRate", "um", {"calc_time": T0}, "OFF_GRID"),
    ("fundingRate", "um", {"last_funding_rate": -0.06}, "RATE_RANGE"),
    ("metrics", "um", {"create_time": T0 + timedelta(seconds=1)}, "OFF_GRID"),
    ("metrics", "um", {"count_long_short_ratio": None}, "BLANK"),
    ("metrics", "um", {"sum_open_interest": 0.0}, "OPEN_INTEREST"),
    ("metrics", "um", {"count_long_short_ratio": 0.0}, "RATIO_RANGE"),
    ("metrics", "um", {"sum_taker_long_short_vol_ratio": 625.0}, ""),
    ("metrics", "um", {"sum_taker_long_short_vol_ratio": -1.0}, "RATIO_RANGE"),
    ("bookTicker", "um", {"best_bid_price": 10.1}, "BID_OVER_ASK"),
    ("bookTicker", "um", {"best_bid_price": 0.0}, "ZERO_PRICE"),
    ("bookTicker", "um", {"best_ask_qty": 0.0}, "ZERO_QUANTITY"),
    ("bookTicker", "um", {"event_time": T0 - MS}, "SENT_BEFORE"),
    ("bookTicker", "um", {"event_time": None}, ""),
    ("bookLevels", "spot", {"bid_price": 10.1}, "BID_OVER_ASK"),
    ("bookLevels", "spot", {"bid_price": 0.0}, "ZERO_PRICE"),
    ("bookLevels", "spot", {"ask_qty": 0.0}, "ZERO_QUANTITY"),
    ("bookLevels", "spot", {"ask_price": None, "ask_qty": None}, ""),
    ("markPrice", "um", {"index_price": 0.0}, "ZERO_PRICE"),
    ("markPrice", "um", {"funding_rate": -0.06}, "RATE_RANGE"),
    ("markPrice", "um", {"estimated_settle_price": None, "funding_rate": None}, ""),
    ("bookDepth", "um", {"depth": -1.0}, "DEPTH_SIGN"),
    ("bookDepth", "um", {"percentage": 0.0}, "PERCENTAGE_RANGE"),
    ("bookDepth", "um", {"percentage": -6.0}, "PERCENTAGE_RANGE"),
    ("bookDepth", "um", {"notional": 0.0}, "DEPTH_WITHOUT_VALUE"),
    ("liquidationSnapshot", "um", {"side": "sell"}, "SIDE"),
    ("liquidationSnapshot", "um", {"price": 0.0}, "ZERO_PRICE"),
    ("liquidationSnapshot", "um", {"original_quantity": 0.0}, "ZERO_QUANTITY,FILL_OVER_ORDER"),
    ("liquidationSnapshot", "um", {"last_fill_quantity": 4.0}, "FILL_OVER_ORDER"),
    ("liquidationSnapshot", "um", {"average_price": 0.0}, "FILL_WITHOUT_PRICE"),
]


def frame_of(dataset: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    columns = DATASETS[dataset].columns
    schema = {column.name: TYPES[column.type] for column in columns}
    return pl.DataFrame(rows, schema=schema, orient="row")


def interval_of(dataset: str) -> str | None:
    return "1m" if DATASETS[dataset].bars else None


# Data set, what is changed in good rows that follow each other, and what each then breaks (on um).
SEQUENCES: list[tuple[str, list[dict[str, Any]], list[str | None]]] = [
    (
        "aggTrades",
        [
            {},
            {"agg_trade_id": 2, "first_trade_id": 7, "last_trade_id": 7},
            {"agg_trade_id": 3, "first_trade_id": 9, "last_trade_id": 9},
            {"agg_trade_id": 5, "first_trade_id": 12, "last_trade_id": 12},
            {"agg_trade_id": 6, "first_trade_id": 12, "last_trade_id": 13},
            {"agg_trade_id": 7, "first_trade_id": 14, "last_trade_id": 14, "transact_time": T0 - MS},
        ],
        [None, None, "TRADE_ID_JUMP", "AGG_ID_JUMP", "TRADE_ID_OVERLAP", "OUT_OF_ORDER"],
    ),
    ("trades", [{}, {"id": 2}, {"id": 4}, {"id": 4}], [None, None, "TRADE_ID_JUMP", "TRADE_ID_BACK"]),
    (
        "klines",
        [
            {},
            {"open_time": T0 + MINUTE, "close_time": T0 + 3 * MINUTE},
            {"open_time": T0 + 2 * MINUTE, "close_time": T0 + 3 * MINUTE - MS},
            {"open_time": T0, "close_time": T0 + MINUTE - MS},
        ],
        [None, None, "BARS_OVERLAP", "OUT_OF_ORDER"],
    ),
    (
        "fundingRate",
        [
            {},
            {"calc_time": T0.replace(hour=16, minute=0)},
            {"calc_time": T0.replace(hour=20, minute=0), "funding_interval_hours": 4},
            {"calc_time": T0.replace(hour=23, minute=0), "funding_interval_hours": 4},
        ],
        [None, None, None, "FUNDING_STEP"],
    ),
    (
        "metrics",
        [{}, {"create_time": T0 - timedelta(minutes=5)}],
        [None, "OUT_OF_ORDER"],
    ),
    (
        "bookTicker",
        [{}, {"update_id": 900}, {"update_id": 900}],
        [None, None, "UPDATE_ID_BACK"],
    ),
    (
        "bookDepth",
        [
            {"percentage": -2.0, "depth": 5.0},
            {"percentage": -1.0, "depth": 6.0},
            {"percentage": 1.0, "depth": 3.0},
            {"percentage": 2.0, "depth": 2.0},
            {"percentage": -2.0, "depth": 1.0, "timestamp": T0 + MS},
        ],
        [None, "DEPTH_NOT_CUMULATIVE", None, "DEPTH_NOT_CUMULATIVE", None],
    ),
    ("liquidationSnapshot", [{}, {"time": T0 - MS}], [None, "OUT_OF_ORDER"]),
]  # fmt: skip
