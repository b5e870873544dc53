"""Rows by day, against a group-by of Polars."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.silver.coverage import day_counts

TIME = pl.Datetime("us", "UTC")


@given(st.lists(st.one_of(st.none(), st.integers(-3 * DAY_US, 40 * DAY_US)), max_size=50))
def test_rows_are_counted_by_day_in_any_order(times: list[int | None]) -> None:
    frame = pl.DataFrame({"open_time": pl.Series(times, dtype=pl.Int64).cast(TIME)})
    days = frame.drop_nulls().group_by(pl.col("open_time").dt.date()).len()
    assert day_counts(KLINES, frame) == dict(days.iter_rows())
