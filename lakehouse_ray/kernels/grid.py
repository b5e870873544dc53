"""Where bars begin: the calendar of every interval, with an offset, as arithmetic on arrays.

A slot is the number of a bar on its calendar: bars of a fixed length are counted from the
interval's origin, months from January 1970. Times are int64 microseconds UTC. An offset moves every
edge of the calendar to the right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_ray.errors import BadDataError, InvalidError
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from lakehouse_ray.model.venue import INTERVALS, parse_interval

Times = npt.NDArray[np.int64]

TIME = pl.Datetime("us", "UTC")

# Where the count of bars begins, where that is not 1970-01-01. 1w: Monday 1970-01-05. 3d: the
# exchange's bars open on days whose number since 1970-01-01 leaves 1 when divided by 3: spot's first
# is 2017-08-17, spot and USD-M have one at 2024-01-01 (not 2023-12-31, where the epoch's count
# would put it). COIN-M was not seen.
_ORIGIN_US = {"3d": DAY_US, "1w": 4 * DAY_US}

_UNITS_US = {"d": DAY_US, "h": HOUR_US, "m": MINUTE_US, "s": SECOND_US}
_OFFSET = re.compile(r"(\d+)([dhms])")
_SHORTEST_MONTH_US = 28 * DAY_US


def origin_us(interval: str) -> int:
    """An edge of the interval's calendar; its other edges are whole lengths away."""
    return _ORIGIN_US.get(interval, 0)


def divides(source: str, target: str) -> bool:
    """Whether bars of `target` consist of whole bars of `source`, wherever they begin."""
    source_us, target_us = INTERVALS[source], INTERVALS[target]
    if source_us is None or source == target:
        return False
    if target_us is None:
        return DAY_US % source_us == 0
    shift = origin_us(target) - origin_us(source)
    return target_us % source_us == 0 and shift % source_us == 0


def finer(target: str) -> tuple[str, ...]:
    """Intervals that bars of `target` can be made from."""
    return tuple(source for source in INTERVALS if divides(source, target))


def parse_offset(text: str) -> int:
    """Microseconds of `0m`, `5m`, `1h`, `2d`. Raises InvalidError."""
    match = _OFFSET.fullmatch(text)
    if match is None:
        raise InvalidError(f"not an offset: {text!r}", "a number and d, h, m or s, such as 5m")
    return int(match[1]) * _UNITS_US[match[2]]


def format_offset(offset_us: int) -> str:
    """The offset in the largest unit that spells it whole; none is `0m`."""
    if offset_us == 0:
        return "0m"
    for unit, length_us in _UNITS_US.items():
        if offset_us % length_us == 0:
            return f"{offset_us // length_us}{unit}"
    raise InvalidError(f"not a whole number of seconds: {offset_us} µs")


def offsets_by(target: str, step: str) -> tuple[int, ...]:
    """Every multiple of `step` below the length of `target`: `1h` by `5m` gives 0m, 5m … 55m.

    Raises InvalidError where the step does not divide the length, or there is no one length.
    """
    target_us, step_us = INTERVALS[parse_interval(target)], parse_offset(step)
    hint = "such as 1h by 5m, or 1d by 1h"
    if target_us is None:
        raise InvalidError(f"{target} bars have no fixed length that {step} could divide", hint)
    if step_us == 0:
        raise InvalidError(f"{step} is no step: it leads nowhere", hint)
    if target_us % step_us:
        raise InvalidError(f"{target} is no multiple of {step}", hint)
    return tuple(range(0, target_us, step_us))


def check_offsets(source: str, target: str, offsets_us: Iterable[int]) -> None:
    """Raise InvalidError unless each offset is a whole number of finer bars and below one bar."""
    source_us, longest_us = INTERVALS[source], INTERVALS[target] or _SHORTEST_MONTH_US
    assert source_us is not None
    for offset_us in offsets_us:
        if not 0 <= offset_us < longest_us or offset_us % source_us:
            raise InvalidError(
                f"{target} bars from {source} bars cannot begin at {offset_us // SECOND_US} s",
                f"offsets are multiples of {source} below {format_offset(longest_us)}",
            )


def slots(times: Times, interval: str, offset_us: int = 0) -> Times:
    """The slot each time falls into."""
    length_us = INTERVALS[interval]
    if length_us is None:
        months = (times - offset_us).astype("datetime64[us]").astype("datetime64[M]")
        return months.astype(np.int64)
    return (times - (origin_us(interval) + offset_us)) // length_us


def starts(of_slots: Times, interval: str, offset_us: int = 0) -> Times:
    """When each slot begins; it ends where the next one begins."""
    length_us = INTERVALS[interval]
    if length_us is None:
        months = of_slots.astype("datetime64[M]").astype("datetime64[us]")
        return months.astype(np.int64) + offset_us
    return of_slots * length_us + (origin_us(interval) + offset_us)


def slot_starts(times: pl.Series, interval: str) -> pl.Series:
    """When the slot of each time begins; `times` without nulls."""
    micro = times.dt.epoch("us").to_numpy().astype(np.int64, copy=False)
    return as_times(starts(slots(micro, interval), interval))


def ends(opens: Times, interval: str, offset_us: int = 0) -> Times:
    """When bars that open at `opens` end: a bar off the grid has its full length too."""
    length_us = INTERVALS[interval]
    if length_us is None:
        return starts(slots(opens, interval, offset_us) + 1, interval, offset_us)
    return opens + length_us


def missing_opens(opens: Times, interval: str, offset_us: int = 0) -> Times:
    """Openings of the slots between the first and the last bar that no bar opens in.

    opens: Ascending. A bar off the grid occupies the slot it opens in.
    """
    occupied = slots(opens, interval, offset_us)
    steps = np.diff(occupied)
    wide = np.flatnonzero(steps > 1)
    if not wide.size:
        return np.empty(0, np.int64)
    counts = steps[wide] - 1
    # 1, 2 … count for each hole, one hole after the other.
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    return starts(np.repeat(occupied[wide], counts) + nth, interval, offset_us)


def times_of(frame: pl.DataFrame, column: str = "open_time") -> Times:
    """The column as int64 microseconds.

    Raises BadDataError unless its values are all there, ascending and each but once: a kernel
    never sorts or drops rows by itself, because which of two rows is right is not its to say.
    """
    series = frame[column]
    if series.null_count():
        raise BadDataError("TIME_MISSING", f"{series.null_count()} rows have no {column}")
    times = series.cast(TIME).to_physical().to_numpy().astype(np.int64, copy=False)
    steps = np.diff(times)
    if steps.size and steps.min() <= 0:
        row = int(np.argmax(steps <= 0)) + 1
        reason = "REPEATED_KEY" if steps[row - 1] == 0 else "NOT_ORDERED"
        raise BadDataError(
            reason, f"{column} of row {row} is {series[row]}, after {series[row - 1]}"
        )
    return times


def as_times(values: Times) -> pl.Series:
    """Microseconds as a column of times."""
    return pl.Series(values, dtype=pl.Int64).cast(TIME)
