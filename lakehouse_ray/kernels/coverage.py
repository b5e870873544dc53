"""How much of each day of a series is there: rows that came against rows that were due.

Days run from a symbol's first row to its last one (within the range asked for), so the day of a
listing is measured from its first row. Where nothing says how many rows a day should have, the
share is null.
"""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.rhythm import Grid, Ids, Months, OwnHours, Rhythm
from lakehouse_ray.model.timespan import DAY_US, HOUR_US

_TIME = pl.Datetime("us", "UTC")

COVERAGE = pl.Schema(
    {
        "market": pl.String(),
        "dataset": pl.String(),
        "symbol": pl.String(),
        # Empty for what has none.
        "interval": pl.String(),
        "day": pl.Date(),
        "rows": pl.Int64(),
        # Null: nobody knows. Of bars longer than a day: one on each day that a bar should cover.
        "expected": pl.Int64(),
        # 0 to 1. Rows that share a slot count once, so there may be more rows than were due.
        "share": pl.Float64(),
    }
)

# What a question per day must answer: rows, slots of the rhythm that have one (null: as many), and
# what tells how many were due: ids from the first to the last; hours that the rows say they cover.
DAYS = pl.Schema(
    {
        "symbol": pl.String(),
        "day": pl.Date(),
        "rows": pl.Int64(),
        "present": pl.Int64(),
        "own": pl.Int64(),
    }
)


def is_long(rhythm: Rhythm | None) -> bool:
    """Whether a row covers more than a day."""
    return isinstance(rhythm, Months) or (isinstance(rhythm, Grid) and rhythm.step_us > DAY_US)


def days_of_bars(bars: pl.DataFrame, rhythm: Rhythm) -> pl.DataFrame:
    """Return `DAYS` of bars longer than a day: each counts on every day that it covers.

    bars: `symbol, time`.
    """
    start = pl.col("time").dt.date()
    length = (
        pl.duration(microseconds=rhythm.step_us)
        if isinstance(rhythm, Grid)
        else pl.col("time").dt.offset_by("1mo") - pl.col("time")
    )
    end = (pl.col("time") + length).dt.date()
    return (
        bars.select("symbol", day=pl.date_ranges(start, end, closed="left"))
        .explode("day")
        .drop_nulls()
        .unique()
        .with_columns(rows=1, present=1, own=None)
        .cast(DAYS)
        .select(DAYS.names())
    )


def shares(
    rhythm: Rhythm | None,
    days: pl.DataFrame,
    lives: pl.DataFrame,
    start_us: int | None = None,
    end_us: int | None = None,
) -> pl.DataFrame:
    """Return `symbol, day, rows, expected, share`, days without a row included.

    days: `DAYS` that have rows.
    lives: `symbol, first_time, last_time`.
    """
    known = lives.select(
        "symbol",
        first=pl.col("first_time").dt.epoch("us"),
        last=pl.col("last_time").dt.epoch("us"),
    ).with_columns(anchor=pl.lit(0, dtype=pl.Int64), step=pl.lit(1, dtype=pl.Int64))
    if isinstance(rhythm, Grid):
        anchor = pl.lit(rhythm.anchor_us, dtype=pl.Int64)
        known = known.with_columns(
            step=pl.lit(rhythm.step_us, dtype=pl.Int64), anchor=anchor.fill_null(pl.col("first"))
        )
    # From the slot of the first row to the end of that of the last one.
    low = pl.col("first") - (pl.col("first") - pl.col("anchor")) % pl.col("step")
    high = pl.col("last") - (pl.col("last") - pl.col("anchor")) % pl.col("step") + pl.col("step")
    if isinstance(rhythm, Months):
        moment = pl.from_epoch("last", time_unit="us").dt.truncate("1mo").dt.offset_by("1mo")
        high = moment.dt.epoch("us")
    if start_us is not None:
        low = pl.max_horizontal(low, pl.lit(start_us, dtype=pl.Int64))
    if end_us is not None:
        high = pl.min_horizontal(high, pl.lit(end_us, dtype=pl.Int64))
    known = known.with_columns(low=low, high=high).filter(pl.col("low") < pl.col("high"))
    first_day = pl.from_epoch("low", time_unit="us").dt.date()
    last_day = pl.from_epoch(pl.col("high") - 1, time_unit="us").dt.date()
    grid = known.with_columns(day=pl.date_ranges(first_day, last_day)).explode("day")
    joined = (
        grid.join(days, on=["symbol", "day"], how="left")
        .with_columns(
            pl.col("rows").fill_null(0),
            begin=pl.max_horizontal("low", pl.col("day").cast(pl.Datetime("us")).dt.epoch("us")),
            until=pl.min_horizontal(
                "high", pl.col("day").cast(pl.Datetime("us")).dt.epoch("us") + DAY_US
            ),
        )
        .with_columns(present=pl.coalesce("present", "rows"))
        .sort("symbol", "day")
    )
    expected = _expected(rhythm)
    share = (
        pl.when(pl.col("rows") == 0)
        .then(pl.lit(0.0) if rhythm is not None else pl.lit(None, dtype=pl.Float64))
        .otherwise((pl.col("present") / pl.col("expected")).clip(0.0, 1.0))
    )
    return (
        joined.with_columns(expected=expected.cast(pl.Int64))
        .filter(pl.col("expected").is_null() | (pl.col("expected") > 0) | (pl.col("rows") > 0))
        .with_columns(share=share)
        .select("symbol", "day", "rows", "expected", "share")
    )


def _expected(rhythm: Rhythm | None) -> pl.Expr:
    """Rows due in `[begin, until)` of a day."""
    if is_long(rhythm) or isinstance(rhythm, Months):
        return pl.lit(1)
    if isinstance(rhythm, Grid):
        step, anchor = pl.col("step"), pl.col("anchor")
        # Slots that begin in it: the difference of two ceilings.
        return -((anchor - pl.col("until")) // step) + ((anchor - pl.col("begin")) // step)
    if isinstance(rhythm, Ids):
        return pl.col("own")
    if isinstance(rhythm, OwnHours):
        hours = (pl.col("own") / pl.col("rows")).round().forward_fill().over("symbol")
        mixed = pl.col("own") % pl.col("rows") != 0
        begin = pl.when(pl.col("begin") == pl.col("low")).then(pl.col("first")).otherwise("begin")
        # The last row is due too, whatever its jitter; else rows due before the day ends.
        end = pl.min_horizontal(pl.col("until"), pl.col("last") + 1)
        due = ((end - begin // HOUR_US * HOUR_US - 1) // (hours * HOUR_US).cast(pl.Int64)) + 1
        return pl.when(mixed).then("rows").otherwise(due)
    if rhythm is None:
        return pl.lit(None, dtype=pl.Int64)
    # About: as many slots of twice the step as there are; see `model.rhythm.About`.
    wide = rhythm.step_us + rhythm.tolerance_us
    return (pl.col("until") - pl.col("begin") + wide - 1) // wide
