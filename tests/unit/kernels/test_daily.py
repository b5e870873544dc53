"""Days against DuckDB, and what missing, still and broken bars do to them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from lakehouse_ray.kernels.daily import daily_bars

HOUR_US = 3_600_000_000
START = datetime(2024, 5, 1, tzinfo=UTC)


def hours(closes: list[float | None], *, volume: float = 2.0) -> pl.DataFrame:
    """A bar an hour, opening at 100; None: there is no bar."""
    rows = [
        {
            "open_time": START + timedelta(hours=i),
            "open": 100.0,
            "high": max(100.0, close),
            "low": min(100.0, close),
            "close": close,
            "volume": volume,
            "quote_volume": volume * close,
            "trades": 1,
            "taker_buy_volume": 0.0,
            "taker_buy_quote_volume": 0.0,
        }
        for i, close in enumerate(closes)
        if close is not None
    ]
    return pl.DataFrame(rows, schema_overrides={"open_time": pl.Datetime("us", "UTC")})


def volatility(closes: list[float | None]) -> float | None:
    days = daily_bars(hours(closes), HOUR_US, volume_is_base=True)
    found: float | None = days["realized_volatility"][0]
    return found


def test_returns_are_added_from_close_to_close() -> None:
    wanted = math.sqrt(math.log(1.1) ** 2 + math.log(1.21 / 1.1) ** 2)
    assert volatility([110.0, 121.0]) == pytest.approx(wanted, rel=1e-14)


def test_no_return_spans_a_missing_bar() -> None:
    """After the hole a bar counts from its own open."""
    wanted = math.sqrt(math.log(1.1) ** 2 + math.log(1.21) ** 2)
    assert volatility([110.0, None, 121.0]) == pytest.approx(wanted, rel=1e-14)


def test_no_return_spans_midnight() -> None:
    days = daily_bars(hours([100.0] * 24 + [121.0]), HOUR_US, volume_is_base=True)
    assert days["bars"].to_list() == [24, 1]
    assert days["realized_volatility"].to_list() == [0.0, pytest.approx(math.log(1.21))]


@pytest.mark.parametrize("broken", [0.0, -1.0, math.nan])
def test_a_price_without_a_logarithm_counts_for_nothing(broken: float) -> None:
    """Neither its own return nor that of the bar after it."""
    found = volatility([110.0, broken, 121.0, 133.1])
    wanted = math.sqrt(math.log(1.1) ** 2 + math.log(1.1) ** 2)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert volatility([broken]) is None


def test_a_day_without_trades_has_no_average_price() -> None:
    days = daily_bars(hours([100.0, 101.0], volume=0.0), HOUR_US, volume_is_base=True)
    assert days["vwap"].to_list() == [None]
    assert daily_bars(hours([100.0]), HOUR_US, volume_is_base=False)["vwap"].to_list() == [None]


def test_bars_are_counted_against_those_of_a_whole_day() -> None:
    days = daily_bars(hours([100.0, None, 100.0]), HOUR_US, volume_is_base=True)
    assert days.select("bars", "bars_expected").rows() == [(2, 24)]


def test_no_bars_are_no_days() -> None:
    assert daily_bars(hours([100.0]).clear(), HOUR_US, volume_is_base=True).is_empty()
