"""Rules of trades and of joined trades.

Seen in real files: numbers left out between two joined trades (6,991 times in a day of SOLUSDT,
none twice). They belong to trades that the exchange does not publish, so they are marked for who
asks and cost nothing.
"""

from __future__ import annotations

from lakehouse_ray.model.checks.rule import Rule, not_finite, out_of_order

_ZERO_PRICE = Rule("ZERO_PRICE", "flag", "The price is zero or negative.", "price <= 0")


def _zero_quantity(column: str) -> Rule:
    return Rule("ZERO_QUANTITY", "flag", "The quantity is zero or negative.", f"{column} <= 0")


AGG_TRADES = (
    not_finite("price", "quantity"),
    _ZERO_PRICE,
    _zero_quantity("quantity"),
    Rule(
        "TRADE_IDS",
        "flag",
        "The last trade's number is below the first one's, or a number is negative (-1 stands for "
        "trades that were removed).",
        "last_trade_id < first_trade_id OR first_trade_id < 0 OR agg_trade_id < 0",
    ),
)
AGG_TRADES_SEQUENCE = (
    out_of_order("transact_time"),
    Rule(
        "AGG_ID_JUMP",
        "flag",
        "Joined trades are missing: the number is not the next one.",
        "agg_trade_id > prev_agg_trade_id + 1",
    ),
    Rule(
        "TRADE_ID_JUMP",
        "flag",
        "The first trade's number is not the one after the last trade before it.",
        "agg_trade_id = prev_agg_trade_id + 1 AND first_trade_id > prev_last_trade_id + 1",
        costs=False,
    ),
    Rule(
        "TRADE_ID_OVERLAP",
        "flag",
        "A trade stands in this joined trade and in the one before it.",
        "first_trade_id <= prev_last_trade_id AND first_trade_id >= 0",
    ),
)

TRADES = (
    not_finite("price", "qty", "quote_qty", "base_qty"),
    _ZERO_PRICE,
    _zero_quantity("qty"),
    Rule("TRADE_IDS", "flag", "The number of the trade is negative.", "id < 0"),
    Rule(
        "AMOUNT",
        "flag",
        "The amount is not price times quantity (beyond 1e-6 of it and the cent to which um rounds).",
        "abs(quote_qty - price * qty) > 0.010001 + abs(quote_qty) * 0.000001",
        markets=("spot", "um"),
    ),
    Rule(
        "AMOUNT",
        "flag",
        "The amount in the base asset is zero or negative.",
        "base_qty <= 0",
        markets=("cm",),
    ),
)
TRADES_SEQUENCE = (
    out_of_order("time"),
    Rule(
        "TRADE_ID_JUMP",
        "flag",
        "Numbers are left out between the trade before and this one.",
        "id > prev_id + 1",
        costs=False,
    ),
    Rule(
        "TRADE_ID_BACK",
        "flag",
        "The number is not above that of the trade before.",
        "id <= prev_id",
    ),
)
