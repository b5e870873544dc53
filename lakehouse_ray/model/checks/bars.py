"""Rules of bars: of trades, and of mark price, index price and premium index.

Seen in real files: bars off the grid for 43 hours after the halt of 2018-02-08, bars that an outage
cut short, a close time of …999000 where …999999 was meant, and one that lies before its bar opens.
High, low, open and close were consistent in every one of them.
"""

from __future__ import annotations

from lakehouse_ray.model.checks.rule import Rule, any_of, not_finite, out_of_order
from lakehouse_ray.model.timespan import DAY_US, SECOND_US
from lakehouse_ray.model.venue import INTERVALS

_PRICES = ("open", "high", "low", "close")
_AMOUNTS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
# 1970-01-05 was the first Monday. Bars of three days are counted from 1970-01-01.
_MONDAY_US = 4 * DAY_US

_OHLC = Rule(
    "OHLC",
    "flag",
    "The high is not the highest or the low not the lowest of the four prices.",
    "high < open OR high < close OR high < low OR low > open OR low > close",
)
_ZERO_PRICE = Rule(
    "ZERO_PRICE",
    "flag",
    "A price is zero or negative.",
    " OR ".join(f"{price} <= 0" for price in _PRICES),
)
_TRADED = (
    Rule(
        "NEGATIVE_VOLUME",
        "flag",
        "A volume or the number of trades is negative.",
        " OR ".join(f"{column} < 0" for column in (*_AMOUNTS, "trades")),
    ),
    Rule(
        "TAKER_OVER_TOTAL",
        "flag",
        "Takers bought more than was traded.",
        "taker_buy_volume > volume OR taker_buy_quote_volume > quote_volume",
    ),
    Rule(
        "TRADES_WITHOUT_VOLUME",
        "flag",
        "There are trades and no volume.",
        "trades > 0 AND volume = 0",
    ),
    Rule(
        "VOLUME_WITHOUT_TRADES",
        "flag",
        "There is volume and no trade.",
        "trades = 0 AND volume > 0",
    ),
    Rule(
        "MOVE_WITHOUT_TRADES",
        "flag",
        "The price moved within a bar that has neither trades nor volume.",
        "trades = 0 AND volume = 0 AND high > low",
    ),
    Rule(
        "AVERAGE_OUTSIDE",
        "flag",
        "Quote volume over volume, the average price, lies above the high or below the low (beyond "
        "1e-6 of it and what rounding of small amounts explains). Not on cm, where volume counts "
        "contracts.",
        "quote_volume > volume * high * 1.000001 + 0.00001 "
        "OR quote_volume < volume * low * 0.999999 - 0.00001",
        markets=("spot", "um"),
    ),
)
_PRICE_BAR_VOLUME = Rule(
    "VOLUME_ON_PRICE_BAR",
    "flag",
    "A bar of the mark price, the index or the premium has volume; the exchange writes zeros.",
    " OR ".join(f"{column} <> 0" for column in _AMOUNTS),
)
# The premium is a fraction of the index: it may be negative, and a whole is out of this world.
_PREMIUM_RANGE = Rule(
    "PREMIUM_RANGE",
    "flag",
    "The premium is beyond -1 or 1, the whole price of the index.",
    "high > 1 OR low < -1",
)

SEQUENCE = (
    out_of_order("open_time"),
    Rule(
        "BARS_OVERLAP",
        "flag",
        "The bar opens before the bar before it has closed.",
        "open_time_us > prev_open_time_us AND open_time_us <= prev_close_time_us",
    ),
)


def bar_rules(interval: str) -> tuple[Rule, ...]:
    """Rules of bars of trades of this length."""
    numbers = not_finite(*_PRICES, *_AMOUNTS)
    return (numbers, _ZERO_PRICE, _OHLC, *_TRADED, *_time_rules(interval))


def price_bar_rules(interval: str, *, signed: bool = False) -> tuple[Rule, ...]:
    """Rules of bars without trades; signed: the premium, which may be negative."""
    numbers = not_finite(*_PRICES, *_AMOUNTS)
    price = _PREMIUM_RANGE if signed else _ZERO_PRICE
    return (numbers, price, _OHLC, _PRICE_BAR_VOLUME, *_time_rules(interval))


def _time_rules(interval: str) -> tuple[Rule, ...]:
    length = INTERVALS[interval]
    if length is None:
        off_grid = f"extract(day from open_time) <> 1 OR open_time_us % {DAY_US} <> 0"
        end = "open_time + INTERVAL '1 month'"
        exact = any_of(
            f"close_time = {end} - INTERVAL '1 millisecond'",
            f"close_time = {end} - INTERVAL '1 microsecond'",
        )
        short = f"close_time >= open_time AND close_time < {end} - INTERVAL '1 second'"
    else:
        start = f"open_time_us - {_MONDAY_US}" if interval == "1w" else "open_time_us"
        off_grid = f"({start}) % {length} <> 0"
        span = "close_time_us - open_time_us"
        exact = f"{span} = {length - 1000} OR {span} = {length - 1}"
        short = f"{span} >= 0 AND {span} < {length - SECOND_US}"
    return (
        Rule("OFF_GRID", "flag", "The bar opens beside the grid of its interval.", off_grid),
        Rule(
            "CUT_SHORT",
            "flag",
            "The bar closes more than a second early, as before an outage.",
            short,
        ),
        Rule(
            "CLOSE_TIME",
            "flag",
            "The close time is neither the last ms nor the last µs of the bar, and the bar is not cut "
            "short either: rounded, too late, or before the opening.",
            f"NOT ({any_of(exact, short)})",
        ),
    )
