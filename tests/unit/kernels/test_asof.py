"""Funding joined to the bars it falls due in, and never to an earlier one."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_bars import START_US, TIME, made_bars
from support.real_klines import SHARED, UM_DAILY, bars_of_zips, funding_of_zips

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.kernels.asof import funding_events, join_funding, join_funding_by_offset
from lakehouse_ray.kernels.grid import offsets_by
from lakehouse_ray.kernels.resample import Resampling, resample
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US


def funding(*paid: tuple[int, float | None]) -> pl.DataFrame:
    """Rates by microseconds after the start."""
    times = pl.Series([START_US + after for after, _ in paid], dtype=pl.Int64).cast(TIME)
    rates = pl.Series([rate for _, rate in paid], dtype=pl.Float64)
    return pl.DataFrame({"calc_time": times, "last_funding_rate": rates})


def test_jitter_past_the_hour_is_taken_off() -> None:
    events = funding_events(funding((8 * HOUR_US + 13_000, 1e-4), (16 * HOUR_US, 2e-4)))
    due = [datetime(2022, 1, 1, hour, tzinfo=UTC) for hour in (8, 16)]
    assert events["event_time"].to_list() == due


def test_a_time_far_off_the_hour_is_not_moved_back_to_where_it_was_not_known() -> None:
    events = funding_events(funding((8 * HOUR_US + 17 * MINUTE_US, 1e-4)))
    assert events["event_time"].dt.strftime("%H:%M").to_list() == ["08:17"]
    bars = made_bars(list(range(8 * 60, 9 * 60)))
    joined = join_funding(bars, events, "1m")
    assert joined.filter(pl.col("funding_events") > 0)["open_time"].dt.minute().to_list() == [17]


def test_one_payment_told_twice_is_paid_once_and_one_without_a_rate_not_at_all() -> None:
    told = funding(
        (8 * HOUR_US + 5_000, 2e-4), (8 * HOUR_US, 1e-4), (16 * HOUR_US, None),
        (24 * HOUR_US, float("nan")),
    )  # fmt: skip
    assert funding_events(told).rows() == [(datetime(2022, 1, 1, 8, tzinfo=UTC), 2e-4)]


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=60, unique=True).map(sorted),
    st.lists(st.tuples(st.integers(-5, 310), st.integers(0, 59_999_999)), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_a_bar_gets_the_events_within_it_and_no_other(
    slots: list[int], paid: list[tuple[int, int]]
) -> None:
    bars = made_bars(slots)
    events = funding_events(
        funding(
            *((minute * MINUTE_US + rest, 1e-4 * n) for n, (minute, rest) in enumerate(paid, 1))
        )
    )
    joined = join_funding(bars, events, "1m")
    for row in joined.iter_rows(named=True):
        opens = row["open_time"]
        ours = events.filter(
            (pl.col("event_time") >= opens)
            & (pl.col("event_time") < pl.lit(opens).dt.offset_by("1m"))
        )
        assert row["funding_events"] == ours.height
        assert row["funding_rate"] == (pytest.approx(ours["rate"].sum()) if ours.height else None)


def test_a_bar_of_a_day_or_month_gets_the_sum_of_its_payments() -> None:
    paid = funding(*((8 * HOUR_US * n, 1e-4) for n in range(3 * 59)))
    days = made_bars(list(range(59)), length_us=DAY_US)
    joined = join_funding(days, funding_events(paid), "1d")
    assert joined["funding_events"].unique().to_list() == [3]
    assert joined["funding_rate"][0] == pytest.approx(3e-4)
    months = resample(days, Resampling("1d", "1mo"))
    joined = join_funding(months, funding_events(paid), "1mo")
    assert joined["funding_events"].to_list() == [93, 84]


def test_each_offset_gets_every_payment_once() -> None:
    paid = funding_events(funding(*((8 * HOUR_US * n + 7_000, 1e-4) for n in range(9))))
    bars = made_bars(list(range(3 * 1440)))
    hours = resample(bars, Resampling("1m", "1h", offsets_by("1h", "5m")))
    joined = join_funding_by_offset(hours, paid, "1h")
    assert joined["open_time"].to_list() == hours["open_time"].to_list()
    counts = joined.group_by("offset").agg(pl.col("funding_events").sum())
    assert set(counts["funding_events"]) == {9}


def test_bars_out_of_order_are_refused_and_none_are_no_trouble() -> None:
    bars, events = made_bars([0, 1]), funding_events(funding((0, 1e-4)))
    with pytest.raises(BadDataError):
        join_funding(bars.reverse(), events, "1m")
    assert join_funding(bars[:0], events, "1m").columns[-2:] == ["funding_rate", "funding_events"]
    assert join_funding(bars, events[:0], "1m")["funding_events"].to_list() == [0, 0]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not on this machine")
def test_real_payments_fall_due_on_the_hour_of_real_bars() -> None:
    bars = bars_of_zips(UM_DAILY / "BTCUSDT/1m", "*2026-04-*.zip")
    paid = funding_of_zips(SHARED / "archive/data/futures/um/monthly/fundingRate/BTCUSDT")
    joined = join_funding(bars, funding_events(paid), "1m").filter(pl.col("funding_events") > 0)
    assert joined.height > 30
    assert set(joined["open_time"].dt.strftime("%H:%M")) == {"00:00", "08:00", "16:00"}
    # By another way: the rate whose time, cut to the minute, is the bar's.
    cut = paid.with_columns(pl.col("calc_time").dt.truncate("1m"))
    truth = joined.join(cut, left_on="open_time", right_on="calc_time")
    assert truth["last_funding_rate"].to_list() == joined["funding_rate"].to_list()
