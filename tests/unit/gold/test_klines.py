"""Gold bars: filled and marked, split, with average price and funding."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.made_bars import START_US, TIME, made_bars
from support.real_klines import (
    CSV,
    SHARED,
    UM_DAILY,
    bars_of_csv,
    bars_of_zips,
    funding_of_zips,
)

from lakehouse_ray.errors import BadDataError, InvalidError
from lakehouse_ray.gold.klines import GoldRule, gold_klines, gold_resampled
from lakehouse_ray.kernels.fill import PRICES
from lakehouse_ray.kernels.grid import offsets_by
from lakehouse_ray.kernels.resample import Resampling
from lakehouse_ray.model.gold import UNIONS, klines_table, resampled_table
from lakehouse_ray.model.timespan import HOUR_US, MINUTE_US
from lakehouse_ray.model.venue import INTERVALS

DAY = 1440
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not on this machine")


def funding(*paid: tuple[int, float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "calc_time": pl.Series([START_US + t for t, _ in paid], dtype=pl.Int64).cast(TIME),
            "last_funding_rate": [rate for _, rate in paid],
        }
    )


def test_rows_have_the_columns_and_types_of_the_table() -> None:
    for interval in ("1m", "1h"):
        bars = made_bars([0, 1, 3], length_us=INTERVALS[interval] or 0)
        rows = gold_klines(bars, None, market="spot", symbol="X", interval=interval)
        table = klines_table(interval)
        assert rows.columns == [column.name for column in table.columns]
        required = [column.name for column in table.columns if column.required]
        assert rows.select(required).null_count().row(0) == (0,) * len(required)
    plan = Resampling("1h", "1d", (0, 8 * HOUR_US), empty="null")
    bars = made_bars([*range(24), *range(72, 96)], length_us=HOUR_US)
    rows = gold_resampled(bars, None, plan, market="spot", symbol="X")
    table = resampled_table("1d")
    assert rows.columns == [column.name for column in table.columns]
    required = [column.name for column in table.columns if column.required]
    assert rows.select(required).null_count().row(0) == (0,) * len(required)
    assert rows.select("offset", "open_time").is_duplicated().sum() == 0


def test_tables_are_cut_as_those_they_are_made_from() -> None:
    fine = [f"{part.transform} {part.column}" for part in klines_table("1m").partitions]
    assert fine == ["identity market", "identity interval", "month open_time", "bucket16 symbol"]
    coarse = [f"{part.transform} {part.column}" for part in resampled_table("1h").partitions]
    assert coarse == ["identity market", "identity interval", "year open_time"]
    for tables in UNIONS.values():
        for table in tables:
            names = [column.name for column in table.columns]
            assert {*table.key, *table.sort, table.time} <= set(names)
            assert len(names) == len(set(names))


def test_gaps_are_filled_within_segments_and_not_between_them() -> None:
    bars = made_bars([0, 1, 5, 3 * DAY, 3 * DAY + 2])
    rows = gold_klines(bars, None, market="um", symbol="LITUSDT", interval="1m")
    told = rows.group_by("segment", maintain_order=True).agg(
        pl.len(), pl.col("is_filled").sum().alias("filled")
    )
    assert told.rows() == [("SP0_LITUSDT", 6, 3), ("LITUSDT", 3, 1)]
    real_rows = rows.filter(~pl.col("is_filled"))
    assert_frame_equal(real_rows.select(bars.columns), bars)
    unfilled = gold_klines(
        bars, None, market="um", symbol="LITUSDT", interval="1m", rule=GoldRule(fill=False)
    )
    assert unfilled.height == bars.height
    whole = gold_klines(
        bars, None, market="um", symbol="LITUSDT", interval="1m", rule=GoldRule(split=None)
    )
    assert whole["segment"].unique().to_list() == ["LITUSDT"]
    assert whole.height == 3 * DAY + 3


def test_a_made_up_bar_has_no_average_but_may_have_funding() -> None:
    bars = made_bars([0, 1, 59, 62])
    rows = gold_klines(
        bars, funding((HOUR_US + 5_000, 1e-4)), market="um", symbol="X", interval="1m"
    )
    made = rows.filter("is_filled")
    assert made["vwap"].null_count() == made.height
    paid = rows.filter(pl.col("funding_events") > 0)
    assert paid.select("is_filled", "funding_rate").rows() == [(True, 1e-4)]
    assert rows["funding_rate"].null_count() == rows.height - 1


def test_a_value_that_is_not_a_number_stays_with_its_bar() -> None:
    nan = float("nan")
    bars = made_bars([0, 1, 2, 4]).with_columns(
        close=pl.Series([1.0, 2.0, nan, 3.0]), volume=pl.Series([1.0, nan, 1.0, 1.0])
    )
    rows = gold_klines(bars, None, market="spot", symbol="X", interval="1m")
    assert rows["close"].to_list() == [1.0, 2.0, None, 2.0, 3.0]
    assert rows["vwap"].is_null().to_list() == [False, True, False, True, False]
    assert rows.select(pl.col(pl.Float64).is_nan().any()).row(0).count(True) == 0


def test_resampled_bars_belong_to_the_segment_they_end_in() -> None:
    bars = made_bars([*range(60), *range(3 * DAY + 30, 3 * DAY + 90)])
    plan = Resampling("1m", "1h", offsets_by("1h", "30m"))
    rows = gold_resampled(bars, None, plan, market="spot", symbol="X")
    told = rows.filter(offset="0m").select("segment", "bars", "is_partial").rows()
    assert told == [("SP0_X", 60, False), ("X", 30, True), ("X", 30, True)]
    weeks = gold_resampled(bars, None, Resampling("1m", "1w"), market="spot", symbol="X")
    assert weeks.select("segment", "is_partial").rows() == [("SP0_X", True), ("X", True)]


def test_a_bar_that_spans_a_long_gap_is_partial() -> None:
    bars = made_bars([0, 3 * DAY])
    rows = gold_resampled(bars, None, Resampling("1m", "1mo"), market="spot", symbol="X")
    assert rows.select("segment", "bars", "is_partial").rows() == [("X", 2, True)]


def test_a_bar_within_which_a_segment_begins_is_partial_though_no_finer_bar_is_missing() -> None:
    """Minutes without volume run on for two days; then trading begins at another price."""
    bars = made_bars(list(range(3 * DAY)))
    minute = pl.int_range(pl.len())
    quiet, after = minute.is_between(30, 2 * DAY + 29), minute >= 2 * DAY + 30
    bars = bars.with_columns(
        *(pl.col(name) * pl.when(after).then(2.0).otherwise(1.0) for name in PRICES),
        volume=pl.when(quiet).then(0.0).otherwise("volume"),
    )
    hours = Resampling("1m", "1h", offsets_by("1h", "30m"))
    rows = gold_resampled(bars, None, hours, market="spot", symbol="X")
    begins = pl.col("open_time") == pl.lit(START_US + 2 * DAY * MINUTE_US).cast(
        pl.Datetime("us", "UTC")
    )
    assert rows.filter(begins).select("offset", "segment", "bars", "is_partial").rows() == [
        ("0m", "X", 60, True)
    ]
    inner = rows.filter(offset="30m", segment="X")
    assert inner.select(pl.col("is_partial").sum()).item() == 1  # the last, cut off by the end
    three = Resampling("1m", "3d")
    rows = gold_resampled(bars, None, three, market="spot", symbol="X")
    assert rows["is_partial"].all()
    dropped = replace(hours, partial="drop")
    rows = gold_resampled(bars, None, dropped, market="spot", symbol="X")
    assert rows.filter(begins).is_empty()
    assert not rows["is_partial"].any()


def test_each_offset_has_its_own_funding() -> None:
    bars = made_bars(list(range(3 * 60)))
    plan = Resampling("1m", "1h", offsets_by("1h", "30m"))
    rows = gold_resampled(bars, funding((HOUR_US + 3_000, 2e-4)), plan, market="um", symbol="X")
    paid = rows.filter(pl.col("funding_events") > 0)
    assert paid.select("offset", pl.col("open_time").dt.strftime("%H:%M")).rows() == [
        ("0m", "01:00"), ("30m", "00:30"),
    ]  # fmt: skip


def test_wrong_rows_are_refused_with_the_reason() -> None:
    bars = made_bars([0, 1]).with_columns(symbol=pl.lit("ETHUSDT"))
    with pytest.raises(InvalidError, match="ETHUSDT"):
        gold_klines(bars, None, market="spot", symbol="BTCUSDT", interval="1m")
    with pytest.raises(BadDataError):
        gold_klines(bars.reverse(), None, market="spot", symbol="ETHUSDT", interval="1m")


def test_no_bars_give_no_rows() -> None:
    none = made_bars([])
    rows = gold_klines(none, funding(), market="um", symbol="X", interval="1m")
    assert rows.is_empty()
    plan = Resampling("1m", "1h", offsets_by("1h", "5m"))
    assert gold_resampled(none, funding(), plan, market="um", symbol="X").is_empty()


@real
def test_the_outages_of_2018_are_filled_and_marked() -> None:
    bars = bars_of_csv(CSV / "spot_klines_1h_year/BTCUSDT-1h-2018-01.csv")
    rows = gold_klines(bars, None, market="spot", symbol="BTCUSDT", interval="1h")
    assert rows.filter(~pl.col("is_filled")).height == bars.height
    assert rows["segment"].unique().to_list() == ["BTCUSDT"]
    filled = rows.filter("is_filled")["open_time"]
    known = {"02-08", "02-09", "06-26", "07-04"}
    assert known < set(filled.dt.strftime("%m-%d"))
    # Every slot of the year has a bar, the off-grid ones count for theirs.
    hours = bars["open_time"].dt.truncate("1h").n_unique()
    assert rows["open_time"].dt.truncate("1h").n_unique() == hours + filled.len() == 365 * 24


@real
def test_real_minutes_with_a_hole_of_two_days_become_two_segments() -> None:
    bars = bars_of_zips(UM_DAILY / "BTCUSDT/1m")
    paid = funding_of_zips(SHARED / "archive/data/futures/um/monthly/fundingRate/BTCUSDT")
    rows = gold_klines(bars, paid, market="um", symbol="BTCUSDT", interval="1m")
    days = rows.group_by("segment", maintain_order=True).agg(
        pl.col("open_time").dt.date().n_unique(), pl.col("is_filled").any()
    )
    assert [name for name, *_ in days.rows()] == ["SP0_BTCUSDT", "BTCUSDT"]
    assert rows.filter("is_filled").is_empty()
    assert rows["funding_events"].sum() == rows["funding_rate"].is_not_null().sum() > 30
