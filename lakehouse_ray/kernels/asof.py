"""Events joined to the bars they fall into.

A funding payment falls due on the hour; the exchange writes some milliseconds later when it was
calculated. That jitter is taken off first. A bar gets the events of `[open_time, its end)` and no
other: none from the future, and none that already belonged to a bar before it.
"""

from __future__ import annotations

import polars as pl

from lakehouse_ray.kernels.grid import TIME, as_times, ends, parse_offset, times_of
from lakehouse_ray.model.timespan import HOUR_US, SECOND_US


def funding_events(
    funding: pl.DataFrame, *, grid_us: int = HOUR_US, jitter_us_max: int = SECOND_US
) -> pl.DataFrame:
    """One row per payment: `event_time`, `rate`.

    funding: `calc_time`, `last_funding_rate`, of one symbol, in any order; rows without a rate are
        left out, and of several rows for one payment the one calculated last is kept.
    jitter_us_max: How far past the grid a time may lie to be moved back to it (0-13 ms were seen).
        A time further off stays as it is: moving it back would tell a bar what came after it.
    """
    past = pl.col("calc_time").dt.epoch("us") % grid_us
    due = pl.col("calc_time") - pl.duration(microseconds=past)
    return (
        funding.select(
            "calc_time",
            event_time=pl.when(past <= jitter_us_max).then(due).otherwise("calc_time").cast(TIME),
            rate=pl.col("last_funding_rate").fill_nan(None),
        )
        .drop_nulls()
        .sort("calc_time")
        .unique("event_time", keep="last")
        .sort("event_time")
        .select("event_time", "rate")
    )


def join_funding(
    bars: pl.DataFrame, events: pl.DataFrame, interval: str, *, offset_us: int = 0
) -> pl.DataFrame:
    """Return the bars with `funding_rate` and `funding_events`.

    events: As `funding_events` gives them. The rate is the sum of those that fall into the bar
        (a long position's cost while it lasted), null where none does; the other column says how
        many.
    Raises BadDataError for bars out of order.
    """
    opens = times_of(bars)
    edges = pl.DataFrame(
        {
            "open_time": as_times(opens),
            "_end": as_times(ends(opens, interval, offset_us)),
        }
    )
    paid = (
        events.join_asof(edges, left_on="event_time", right_on="open_time", coalesce=False)
        .filter(pl.col("event_time") < pl.col("_end"))
        .group_by("open_time")
        .agg(funding_rate=pl.col("rate").sum(), funding_events=pl.len().cast(pl.Int32))
    )
    bars = bars.drop("funding_rate", "funding_events", strict=False)
    joined = bars.join(paid, on="open_time", how="left", maintain_order="left")
    return joined.with_columns(pl.col("funding_events").fill_null(0))


def join_funding_by_offset(bars: pl.DataFrame, events: pl.DataFrame, interval: str) -> pl.DataFrame:
    """`join_funding` for bars of several offsets (column `offset`), each offset by itself."""
    parts = [
        join_funding(part, events, interval, offset_us=parse_offset(part["offset"][0]))
        for part in bars.partition_by("offset", maintain_order=True)
    ]
    return pl.concat(parts) if parts else join_funding(bars, events, interval)
