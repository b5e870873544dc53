"""Empty slots filled on the interval's own calendar, each made-up bar marked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from support.made_bars import TIME, made_bars

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.kernels.fill import fill_gaps
from lakehouse_ray.kernels.resample import Resampling, resample
from lakehouse_ray.model.timespan import DAY_US, HOUR_US

slots = st.lists(st.integers(0, 400), min_size=1, max_size=80, unique=True).map(sorted)


@given(slots, st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_every_slot_has_one_bar_and_the_real_ones_are_as_they_were(
    taken: list[int], quiet: float
) -> None:
    bars = made_bars(taken, quiet=quiet)
    filled = fill_gaps(bars, "1m")
    # Independent truth: Polars' own upsample and forward fill.
    calendar = bars.select("open_time").upsample("open_time", every="1m")
    assert filled["open_time"].to_list() == calendar["open_time"].to_list()
    assert_frame_equal(filled.filter(~pl.col("is_filled")).drop("is_filled"), bars)
    carried = calendar.join(bars, on="open_time", how="left").with_columns(
        pl.col("close").forward_fill()
    )
    made = filled.filter("is_filled")
    truth = carried.filter(pl.col("open").is_null())
    for price in ("open", "high", "low", "close"):
        assert made[price].to_list() == truth["close"].to_list()
    for count in ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume"):
        assert made[count].to_list() == [0] * made.height
    ends = made["open_time"].dt.offset_by("59s999ms")
    assert made["close_time"].to_list() == ends.to_list()


@given(slots)
@settings(max_examples=20, deadline=None)
def test_filling_again_changes_nothing(taken: list[int]) -> None:
    once = fill_gaps(made_bars(taken), "1m")
    assert_frame_equal(fill_gaps(once, "1m"), once)


@pytest.mark.parametrize(
    ("interval", "length_us", "bars"),
    [("1h", HOUR_US, 24), ("1d", DAY_US, 366), ("3d", 3 * DAY_US, 40)],
)
def test_gaps_are_filled_on_the_intervals_own_calendar(
    interval: str, length_us: int, bars: int
) -> None:
    start_us = 19_723 * DAY_US  # 2024-01-01, an edge of 1h, 1d and of the exchange's 3d
    taken = [n for n in range(bars) if n % 5]
    filled = fill_gaps(
        made_bars([0, *taken[1:], bars - 1] if taken[-1] != bars - 1 else [0, *taken[1:]],
                  length_us=length_us, start_us=start_us), interval)  # fmt: skip
    assert filled.height == bars
    assert set(filled["open_time"].diff().drop_nulls()) == {timedelta(microseconds=length_us)}


def test_months_are_filled_by_the_calendar() -> None:
    days = made_bars([*range(31), *range(31 + 28, 31 + 28 + 31), 200], length_us=DAY_US)
    months = resample(days, Resampling("1d", "1mo")).drop("is_filled")
    filled = fill_gaps(months, "1mo")
    assert filled.select(pl.col("open_time").dt.month(), "is_filled").rows() == [
        (1, False), (2, True), (3, False), (4, True), (5, True), (6, True), (7, False),
    ]  # fmt: skip
    assert filled["open_time"].dt.day().unique().to_list() == [1]
    assert filled["close_time"][1] == datetime(2022, 2, 28, 23, 59, 59, 999000, tzinfo=UTC)


def test_an_unknown_close_is_not_carried_but_the_last_known_one() -> None:
    bars = made_bars([0, 1, 4]).with_columns(
        close=pl.Series([7.0, float("nan"), 9.0]),
    )
    filled = fill_gaps(bars, "1m")
    assert filled["close"][2:].to_list() == [7.0, 7.0, 9.0]


def test_without_carrying_a_made_up_bar_has_its_times_and_names_only() -> None:
    bars = made_bars([0, 3]).with_columns(symbol=pl.lit("BTCUSDT"), vwap=pl.lit(5.0))
    made = fill_gaps(bars, "1m", how="null").filter("is_filled")
    assert made.height == 2
    assert made["symbol"].to_list() == ["BTCUSDT"] * 2
    assert made.drop("symbol", "open_time", "close_time", "is_filled").null_count().row(0) == (
        2,
    ) * (len(bars.columns) - 3)
    carried = fill_gaps(bars, "1m").filter("is_filled")
    assert carried["vwap"].null_count() == 2  # no volume, no average


def test_a_bar_off_the_grid_stays_and_occupies_its_slot() -> None:
    bars = made_bars([0, 1, 5]).with_columns(
        open_time=pl.Series(
            [datetime(2022, 1, 1, 0, 0, tzinfo=UTC), datetime(2022, 1, 1, 0, 1, 14, 789000, tzinfo=UTC),
             datetime(2022, 1, 1, 0, 4, tzinfo=UTC)], dtype=TIME))  # fmt: skip
    filled = fill_gaps(bars, "1m")
    assert filled.select(pl.col("open_time").dt.strftime("%M:%S"), "is_filled").rows() == [
        ("00:00", False), ("01:14", False), ("02:00", True), ("03:00", True), ("04:00", False),
    ]  # fmt: skip


def test_bars_at_an_offset_are_filled_at_that_offset() -> None:
    bars = made_bars([5, 65, 185])
    filled = fill_gaps(bars, "1h", offset_us=5 * 60_000_000)
    assert filled["open_time"].dt.strftime("%H:%M").to_list() == [
        "00:05",
        "01:05",
        "02:05",
        "03:05",
    ]


def test_nothing_is_made_up_before_the_first_or_after_the_last_bar() -> None:
    bars = made_bars([3])
    assert_frame_equal(fill_gaps(bars, "1m").drop("is_filled"), bars)
    assert fill_gaps(bars[:0], "1m").is_empty()


def test_bars_out_of_order_are_refused() -> None:
    with pytest.raises(BadDataError):
        fill_gaps(made_bars([0, 5]).reverse(), "1m")
