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
    """Rows of each UTC day."""
    time = frame[dataset.time].drop_nulls().to_physical()
    if not time.is_sorted():
        time = time.sort()
    days = time.to_numpy() // DAY_US
    # Sorted: a day is a run, counted by where it begins (a tenth of the time of a group-by).
    begins = np.flatnonzero(np.diff(days, prepend=days[:1] - 1))
    counts = np.diff(begins, append=len(days))
    epoch = date(1970, 1, 1)
    return {
        epoch + timedelta(days=int(day)): int(count)
        for day, count in zip(days[begins], counts, strict=True)
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
