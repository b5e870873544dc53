"""Which days of a monthly file are whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import DAY_US, TimeRange, days_of
from lakehouse_ray.model.venue import INTERVALS


def day_counts(dataset: Dataset, frame: pl.DataFrame) -> dict[date, int]:
    """Rows of each UTC day that has some; of a file's rows, so of few days."""
    time = frame[dataset.time].cast(pl.Int64)
    if time.null_count():
        time = time.drop_nulls()
    if not time.is_sorted():
        time = time.sort()
    micro = time.to_numpy()
    if not micro.size:
        return {}
    # Sorted: where each day begins is looked up, and no row is touched.
    days = np.arange(micro[0] // DAY_US, micro[-1] // DAY_US + 1)
    counts = np.diff(np.searchsorted(micro, days * DAY_US), append=micro.size)
    epoch = date(1970, 1, 1)
    return {
        epoch + timedelta(days=int(day)): int(count)
        for day, count in zip(days, counts, strict=True)
        if count
    }


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
