"""Rules of what only contracts have: funding, open interest and ratios, forced orders.

Seen in real files: funding times up to 13 ms past the hour; ratios of open interest left blank for
months (before 2022-09) or zero where they were not known; open interest zero for four samples of
BSVUSDT; a taker ratio of 625, which is a thin five minutes and no error.
"""

from __future__ import annotations

from lakehouse_ray.model.checks.rule import Rule, any_of, not_finite, out_of_order
from lakehouse_ray.model.timespan import HOUR_US, MINUTE_US

_FIVE_MINUTES_US = 5 * MINUTE_US

FUNDING = (
    not_finite("last_funding_rate"),
    Rule(
        "FUNDING_INTERVAL",
        "flag",
        "The interval is no whole part of a day; the exchange uses 8, 4 and 1 hours.",
        "funding_interval_hours NOT IN (1, 2, 3, 4, 6, 8, 12, 24)",
    ),
    Rule(
        "OFF_GRID",
        "flag",
        "The time is more than a minute past a whole hour.",
        f"calc_time_us % {HOUR_US} > {MINUTE_US}",
    ),
    # The exchange caps rates at 2 or 3 %, some contracts at 4 % for a time.
    Rule(
        "RATE_RANGE",
        "flag",
        "The rate is beyond 5 % of the position.",
        "abs(last_funding_rate) > 0.05",
    ),
)
MARK_PRICE = (
    not_finite("mark_price", "index_price", "estimated_settle_price", "funding_rate"),
    Rule(
        "ZERO_PRICE",
        "flag",
        "The mark price or the index is zero or negative.",
        "mark_price <= 0 OR index_price <= 0",
    ),
    Rule(
        "RATE_RANGE",
        "flag",
        "The rate is beyond 5 % of the position.",
        "abs(funding_rate) > 0.05",
    ),
)
FUNDING_SEQUENCE = (
    out_of_order("calc_time"),
    Rule(
        "FUNDING_STEP",
        "flag",
        "The time since the payment before is not the interval given (by more than a minute).",
        f"abs(calc_time_us - prev_calc_time_us - funding_interval_hours * {HOUR_US}) > {MINUTE_US}",
    ),
)

_METRICS = (
    "sum_open_interest",
    "sum_open_interest_value",
    "count_toptrader_long_short_ratio",
    "sum_toptrader_long_short_ratio",
    "count_long_short_ratio",
    "sum_taker_long_short_vol_ratio",
)
_ACCOUNT_RATIOS = _METRICS[2:5]

METRICS = (
    not_finite(*_METRICS),
    Rule(
        "OFF_GRID",
        "flag",
        "The time is not on a whole five minutes.",
        f"create_time_us % {_FIVE_MINUTES_US} <> 0",
    ),
    Rule(
        "BLANK",
        "flag",
        "A value is missing.",
        " OR ".join(f"{column} IS NULL" for column in _METRICS),
    ),
    Rule(
        "OPEN_INTEREST",
        "flag",
        "The open interest or its value is zero (which stands for unknown) or negative.",
        "sum_open_interest <= 0 OR sum_open_interest_value <= 0",
    ),
    Rule(
        "RATIO_RANGE",
        "flag",
        "A ratio of accounts or positions is not between 0 and 1,000, or that of taker volume not "
        "between 0 (no buys) and a million.",
        any_of(
            *(f"{ratio} <= 0 OR {ratio} > 1000" for ratio in _ACCOUNT_RATIOS),
            "sum_taker_long_short_vol_ratio < 0 OR sum_taker_long_short_vol_ratio > 1000000",
        ),
    ),
)
METRICS_SEQUENCE = (out_of_order("create_time"),)

LIQUIDATIONS = (
    not_finite(
        "original_quantity",
        "price",
        "average_price",
        "last_fill_quantity",
        "accumulated_fill_quantity",
    ),
    Rule("SIDE", "flag", "The side is neither BUY nor SELL.", "side NOT IN ('BUY', 'SELL')"),
    Rule("ZERO_PRICE", "flag", "The price asked is zero or negative.", "price <= 0"),
    Rule(
        "ZERO_QUANTITY", "flag", "The quantity asked is zero or negative.", "original_quantity <= 0"
    ),
    Rule(
        "FILL_OVER_ORDER",
        "flag",
        "More was filled than asked, the last fill is more than all fills, or a fill is negative.",
        any_of(
            "accumulated_fill_quantity > original_quantity",
            "last_fill_quantity > accumulated_fill_quantity",
            "last_fill_quantity < 0",
        ),
    ),
    Rule(
        "FILL_WITHOUT_PRICE",
        "flag",
        "Something was filled at a price of zero or less.",
        "accumulated_fill_quantity > 0 AND average_price <= 0",
    ),
)
LIQUIDATIONS_SEQUENCE = (out_of_order("time"),)
