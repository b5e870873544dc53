"""Where a series of bars is interrupted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.model.venue import INTERVALS, parse_interval


def gaps_before(
    open_time: NDArray[np.int64], interval: str, previous_us: int | None
) -> NDArray[np.bool_]:
    """Return for each bar whether it is further from the one before than the interval.

    open_time: In µs.
    previous_us: The bar before the first; None where there is none.

    Raises InvalidError for an unknown interval, and for bars that are not in the order of time.
    """
    length_us = INTERVALS[parse_interval(interval)]
    before = open_time[:1] if previous_us is None else np.array([previous_us])
    times = np.concatenate([before, open_time])
    apart = np.diff(times)
    disorder = np.flatnonzero(apart[previous_us is None :] <= 0)
    if disorder.size:
        at = format_time(int(open_time[disorder[0] + (previous_us is None)]))
        raise InvalidError(
            f"bars are not in the order of time, one for each: the one at {at} is not after the "
            "one before",
            "sort by open_time; a series has one symbol and one interval",
        )
    if length_us is None:
        months = times.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
        gaps = np.diff(months) > 1
    else:
        gaps = apart > length_us
    gaps[:1] |= previous_us is None
    return gaps
