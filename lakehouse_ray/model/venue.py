"""The venues' markets and their intervals."""

from __future__ import annotations

from typing import Literal, get_args

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, SECOND_US

Market = Literal["spot", "um", "cm"]
Freq = Literal["daily", "monthly"]

MARKETS: tuple[Market, ...] = get_args(Market)
FREQS: tuple[Freq, ...] = get_args(Freq)

# Length in microseconds; None: a calendar month.
INTERVALS: dict[str, int | None] = {
    "1s": SECOND_US,
    "1m": MINUTE_US,
    "3m": 3 * MINUTE_US,
    "5m": 5 * MINUTE_US,
    "15m": 15 * MINUTE_US,
    "30m": 30 * MINUTE_US,
    "1h": HOUR_US,
    "2h": 2 * HOUR_US,
    "4h": 4 * HOUR_US,
    "6h": 6 * HOUR_US,
    "8h": 8 * HOUR_US,
    "12h": 12 * HOUR_US,
    "1d": DAY_US,
    "3d": 3 * DAY_US,
    "1w": 7 * DAY_US,
    "1mo": None,
}


def parse_market(text: str) -> Market:
    for market in MARKETS:
        if text == market:
            return market
    raise InvalidError(f"unknown market {text!r}", f"one of {', '.join(MARKETS)}")


def parse_interval(text: str) -> str:
    """Return the interval as this project spells it (`1mo`, where the exchange's REST says `1M`)."""
    if text == "1M":
        return "1mo"
    if text not in INTERVALS:
        raise InvalidError(f"unknown interval {text!r}", f"one of {', '.join(INTERVALS)}")
    return text
