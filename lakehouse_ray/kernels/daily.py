"""Days from bars."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.timespan import DAY_US

_SUMS = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")


def daily_bars(bars: pl.DataFrame, interval_us: int, *, volume_is_base: bool) -> pl.DataFrame:
    """Add up the bars of one symbol by UTC day: a row per day that has any, in the order of time.

    bars: In the order of `open_time`, one row per time.
    interval_us: Length of a bar; less than a day.
    volume_is_base: `volume` counts the base asset, so that quote_volume / volume is a price.

    realized_volatility is sqrt(sum r^2) with r = ln(close / close of the bar right before), or
    ln(close / open) where that bar is missing or of another day: so no return spans a gap, and a
    day needs no other day. A price that has no logarithm counts for nothing; without any return
    the value is null.
    """
    time = pl.col("open_time")
    day = time.dt.truncate("1d")
    follows = (time.diff() == pl.duration(microseconds=interval_us)) & (day == day.shift())
    before = pl.when(follows).then(pl.col("close").shift()).otherwise(pl.col("open"))
    squared = (pl.col("close") / before).log().pow(2)
    vwap = pl.col("quote_volume") / pl.col("volume") if volume_is_base else pl.lit(None, pl.Float64)
    return (
        bars.with_columns(
            day=day,
            # `log` of nothing, of less, and of what is no number.
            _squared=pl.when(squared.is_finite()).then(squared),
        )
        .group_by("day", maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            *(pl.col(name).sum() for name in _SUMS),
            bars=pl.len().cast(pl.Int64),
            _sum=pl.col("_squared").sum(),
            _count=pl.col("_squared").count(),
        )
        .with_columns(
            vwap=vwap,
            bars_expected=pl.lit(DAY_US // interval_us, pl.Int64),
            realized_volatility=pl.when(pl.col("_count") > 0).then(pl.col("_sum").sqrt()),
        )
        .with_columns(vwap=pl.when(pl.col("vwap").is_finite()).then(pl.col("vwap")))
        .drop("_sum", "_count")
    )
