"""Two files of the same rows against each other: every value must be the same."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from lakehouse_ray.kernels.crosscheck import RESULT, compare, labelled
from lakehouse_ray.model.crosschecks import Check
from lakehouse_ray.model.timespan import TimeRange

_IDENTITY = ("symbol", "interval")


def daily_against_monthly(
    daily: pl.DataFrame,
    monthly: pl.DataFrame,
    market: str,
    time: str,
    *,
    number: str | None = None,
    span: TimeRange | None = None,
    every: bool = False,
) -> pl.DataFrame:
    """Hold the rows of daily files against those of monthly ones: every value must be the same.

    time: Name of the column of the event's time. Frames as `sources` decode them, with `symbol` and,
        for bars, `interval`.
    number: Column that numbers rows, by which they belong together within a UTC day; their times
        are values then. Without one they belong together by time.
    span: What both files tell of. None: from the later of the first to the earlier of the last
        times, since a month may be followed by days whose monthly file is not out yet.

    Numbers, truth values and times are compared; times to the millisecond, as files made before 2025
    give no more. Memory: some three times that of both frames, and that of the rows that differ.
    """
    return _two_files(daily, monthly, market, "daily_monthly", time, number, span, every=every)


def archive_against_rest(
    archive: pl.DataFrame,
    rest: pl.DataFrame,
    market: str,
    time: str,
    *,
    number: str | None = None,
    span: TimeRange | None = None,
    every: bool = False,
) -> pl.DataFrame:
    """The same for rows of the archive and rows that the REST interface gave."""
    return _two_files(archive, rest, market, "archive_rest", time, number, span, every=every)


def _two_files(
    left: pl.DataFrame,
    right: pl.DataFrame,
    market: str,
    check: Check,
    time: str,
    number: str | None,
    span: TimeRange | None,
    *,
    every: bool,
) -> pl.DataFrame:
    span = span or _shared_span(left, right, time)
    if span is None:
        return RESULT.to_frame()
    inside = pl.col(time).is_between(*_edges(span), closed="left")
    left, right = left.filter(inside), right.filter(inside)
    keys = [name for name in _IDENTITY if name in left.columns and name in right.columns]
    if number is not None:
        keys.append("id")
    names = _values(left, right, time, number)
    # Values are apart from what rows go by, which may have their names (`time`, `id`).
    apart = [f"_{name}" for name in names]
    frames = [_as_values(frame, names, time, number) for frame in (left, right)]
    if not every:
        # Mostly all rows are alike, and what follows takes many times their memory.
        on = [*keys, "time", *apart]
        frames = [
            one.join(other, on=on, how="anti", nulls_equal=True)
            for one, other in (frames, frames[::-1])
        ]
    found = compare(frames[0], frames[1], apart, {}, keys=keys, every=every)
    found = found.with_columns(pl.col("column").str.strip_prefix("_"))
    if number is not None:
        # Rows were matched by the day; what is told is when they happened.
        both = pl.concat([frame.select(*keys, "time", "at") for frame in frames])
        on = [*keys, "time"]
        found = found.join(both.unique(on, keep="first", maintain_order=True), on=on, how="left")
        found = found.with_columns(time="at").sort(*keys, "column")
    if "interval" not in found.columns:
        found = found.with_columns(interval=pl.lit(""))
    return labelled(found, market, check, None)


def _edges(span: TimeRange) -> tuple[pl.Expr, pl.Expr]:
    """Both ends of a range, to compare times with."""
    start, end = (
        pl.lit(us, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
        for us in (span.start_us, span.end_us)
    )
    return start, end


def _shared_span(left: pl.DataFrame, right: pl.DataFrame, time: str) -> TimeRange | None:
    """From the later of the first times of two frames to the earlier of the last, that included."""
    if left.is_empty() or right.is_empty():
        return None
    ends_us = [(f[time].dt.epoch("us").min(), f[time].dt.epoch("us").max()) for f in (left, right)]
    first_us, last_us = max(a for a, _ in ends_us), min(b for _, b in ends_us)  # type: ignore[type-var]
    return TimeRange(first_us, last_us + 1) if first_us <= last_us else None  # type: ignore[arg-type,operator]


def _values(left: pl.DataFrame, right: pl.DataFrame, time: str, number: str | None) -> list[str]:
    """Columns with values to compare that both frames have, in the first one's order."""
    keys = {number} if number is not None else {time}
    return [
        name
        for name, dtype in left.schema.items()
        if name in right.columns
        and name not in keys
        and (dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean)
    ]


def _as_values(
    frame: pl.DataFrame, names: Sequence[str], time: str, number: str | None
) -> pl.DataFrame:
    """Identity, `time` (with numbers: its day, and `at`) and `id`, and columns as numbers."""
    identity = [name for name in _IDENTITY if name in frame.columns]
    when = pl.col(time)
    own = [when.alias("time")]
    if number is not None:
        own = [when.dt.truncate("1d").alias("time"), when.alias("at"), pl.col(number).alias("id")]
    values = []
    for name in names:
        dtype = frame.schema[name]
        value = pl.col(name)
        if dtype.is_temporal():
            # In microseconds, as all times here.
            value = value.dt.truncate("1ms").dt.epoch("us")
        elif dtype == pl.Boolean:
            value = value.cast(pl.Int8)
        values.append(value.alias(f"_{name}"))
    return frame.select(*identity, *own, *values)
