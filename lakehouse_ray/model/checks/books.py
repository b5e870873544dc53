"""Rules of the order book: best bid and ask, and depth by distance.

Update numbers rise by any amount between two changes of the best prices (1 to 276,462 within a
minute of real frames), so a jump means nothing; falling or standing still does.
"""

from __future__ import annotations

from lakehouse_ray.model.checks.rule import Rule, any_of, not_finite, out_of_order

BOOK_TICKER = (
    not_finite("best_bid_price", "best_bid_qty", "best_ask_price", "best_ask_qty"),
    Rule(
        "BID_OVER_ASK",
        "flag",
        "The best bid is not below the best ask.",
        "best_bid_price >= best_ask_price",
    ),
    Rule(
        "ZERO_PRICE",
        "flag",
        "The best bid or ask is zero or negative.",
        "best_bid_price <= 0 OR best_ask_price <= 0",
    ),
    Rule(
        "ZERO_QUANTITY",
        "flag",
        "Nothing stands at the best bid or ask, or less.",
        "best_bid_qty <= 0 OR best_ask_qty <= 0",
    ),
    Rule(
        "SENT_BEFORE",
        "flag",
        "The change was sent before it happened.",
        "event_time_us < transaction_time_us",
    ),
)
BOOK_TICKER_SEQUENCE = (
    out_of_order("transaction_time"),
    Rule(
        "UPDATE_ID_BACK",
        "flag",
        "The update's number is not above that of the row before.",
        "update_id <= prev_update_id",
    ),
)

BOOK_DEPTH = (
    not_finite("percentage", "depth", "notional"),
    Rule("DEPTH_SIGN", "flag", "A depth or its value is negative.", "depth < 0 OR notional < 0"),
    Rule(
        "PERCENTAGE_RANGE",
        "flag",
        "The distance is zero or beyond 5 %.",
        "percentage = 0 OR abs(percentage) > 5",
    ),
    Rule(
        "DEPTH_WITHOUT_VALUE",
        "flag",
        "There is depth without a value, or a value without depth.",
        "(depth = 0) <> (notional = 0)",
    ),
)
BOOK_DEPTH_SEQUENCE = (
    out_of_order("timestamp"),
    Rule(
        "DEPTH_NOT_CUMULATIVE",
        "flag",
        "Farther from the price there is less depth than nearer to it.",
        "timestamp_us = prev_timestamp_us AND "
        + "("
        + any_of(
            "percentage < 0 AND prev_percentage < percentage AND depth > prev_depth",
            "prev_percentage > 0 AND prev_percentage < percentage AND depth < prev_depth",
        )
        + ")",
    ),
)

BOOK_LEVELS = (
    not_finite("bid_price", "bid_qty", "ask_price", "ask_qty"),
    Rule(
        "BID_OVER_ASK",
        "flag",
        "A bid is not below the ask of its level.",
        "bid_price >= ask_price",
    ),
    Rule(
        "ZERO_PRICE",
        "flag",
        "A bid or ask is zero or negative.",
        "bid_price <= 0 OR ask_price <= 0",
    ),
    Rule(
        "ZERO_QUANTITY",
        "flag",
        "Nothing stands at a level, or less.",
        "bid_qty <= 0 OR ask_qty <= 0",
    ),
)
