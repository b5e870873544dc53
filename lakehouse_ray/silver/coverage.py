"""Which days of a monthly file are whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import DAY_US, TimeRange, days_of
from lakehouse_ray.model.venue import INTERVALS


def day_counts(dataset: Dataset, frame: pl.DataFrame) -> dict[date, int]:
    """Rows of each UTC day."""
    days = frame[dataset.time].dt.date()
    if days.is_sorted():
        # Runs of one day are counted twice as fast as groups (0.5 against 1.1 ms a month of 1m).
        runs = days.rle().struct
        return dict(zip(runs.field("value"), runs.field("len"), strict=True))
    return dict(days.value_counts().iter_rows())


def days_short(
    dataset: Dataset, interval: str | None, period: TimeRange, counts: Mapping[date, int]
) -> list[str]:
    """Days of a monthly file that it does not fully cover.

    Bars: fewer than the day has room for. Else: no row at all, since nobody knows how many there
    should be.
    """
    step = INTERVALS[interval] if interval is not None else None
    if interval is not None and (step is None or step > DAY_US):
        return []
    wanted = DAY_US // step if step is not None else 1
    return [str(day) for day in days_of(period) if counts.get(day, 0) < wanted]
