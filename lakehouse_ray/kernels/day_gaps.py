"""What is missing and what was refused, by UTC day: what the quality score takes from."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.timespan import DAY_US

_DAY = pl.Datetime("us", "UTC")

MISSING_SCHEMA = pl.Schema(
    {"symbol": pl.String(), "day": _DAY, "cause": pl.String(), "missing": pl.Int64()}
)

REFUSED_SCHEMA = pl.Schema({"symbol": pl.String(), "day": _DAY, "rows_quarantined": pl.Int64()})


def missing_by_day(gaps: pl.DataFrame, *, long: bool = False) -> pl.DataFrame:
    """Return the rows missing on each day, by cause, in MISSING_SCHEMA.

    gaps: `symbol, start_time, end_time, missing, cause`. Rows are spread over a gap evenly by time:
        exact for what has a grid, since a gap is whole slots; the parts always add up to the whole.
    long: Rows cover more than a day, and one is missing on every day that it should cover.
    """
    start, end = pl.col("start_time").dt.epoch("us"), pl.col("end_time").dt.epoch("us")
    days = (
        gaps.select("symbol", "cause", "missing", start=start, end=end)
        .filter(pl.col("end") > pl.col("start"))
        .with_columns(
            day=pl.int_ranges(pl.col("start") // DAY_US, (pl.col("end") - 1) // DAY_US + 1)
        )
        .explode("day")
        .drop_nulls("day")
    )
    if long:
        share = pl.lit(1, dtype=pl.Int64)
    else:
        length = pl.col("end") - pl.col("start")

        def until(day: pl.Expr) -> pl.Expr:
            """Rows missing before the end of a day; the half is there for grids' exact numbers."""
            passed = (day * DAY_US).clip(pl.col("start"), pl.col("end")) - pl.col("start")
            return (pl.col("missing") * (passed / length) + 0.5).floor().cast(pl.Int64)

        share = until(pl.col("day") + 1) - until(pl.col("day"))
    return (
        days.with_columns(share=share)
        .group_by("symbol", "day", "cause")
        .agg(missing=pl.col("share").sum())
        .filter(pl.col("missing") > 0)
        .with_columns(pl.col("day") * DAY_US)
        .sort("symbol", "day", "cause")
        .select(pl.col(name).cast(dtype) for name, dtype in MISSING_SCHEMA.items())
    )


def refused_by_day(refused: pl.DataFrame) -> pl.DataFrame:
    """Return refused rows per day in REFUSED_SCHEMA.

    refused: `symbol, period_start, period_end, raw`, a row per line of a file. A daily file's lines
        are of its day. A line of a monthly file is of the day that the first number in it says that
        is a time within the month, else of the first day.
    """
    period_us = pl.col("period_end").dt.epoch("us") - pl.col("period_start").dt.epoch("us")
    # Milliseconds have 13 digits in this century, microseconds 16.
    number = pl.element().cast(pl.Int64)
    times = (
        pl.col("raw")
        .fill_null("")
        .str.extract_all(r"\b(?:\d{16}|\d{13})\b")
        .list.eval(pl.when(number < 10**14).then(number * 1000).otherwise(number))
    )
    first, end = pl.col("period_start").dt.epoch("us"), pl.col("period_end").dt.epoch("us")
    rows = refused.with_row_index("_row")
    said = (
        rows.select("_row", first=first, end=end, time=times)
        .explode("time")
        .filter((pl.col("time") >= pl.col("first")) & (pl.col("time") < pl.col("end")))
        .group_by("_row")
        .agg(pl.col("time").first())
    )
    time = pl.when(period_us > DAY_US).then(pl.coalesce("time", first)).otherwise(first)
    return (
        rows.join(said, on="_row", how="left")
        .select("symbol", day=time // DAY_US * DAY_US)
        .group_by("symbol", "day")
        .agg(rows_quarantined=pl.len().cast(pl.Int64))
        .sort("symbol", "day")
        .select(pl.col(name).cast(dtype) for name, dtype in REFUSED_SCHEMA.items())
    )
