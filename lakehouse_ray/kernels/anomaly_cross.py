"""Bars against the finer bars in them."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.anomaly import FINDINGS_SCHEMA
from lakehouse_ray.kernels.crosscheck_bars import traded_prices
from lakehouse_ray.kernels.grid import origin_us
from lakehouse_ray.kernels.sentence import sentence
from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.model.venue import INTERVALS

_TIME = pl.Datetime("us", "UTC")
_VALUES = ("open", "high", "low", "close", "volume")


def cross_interval(
    fine: pl.DataFrame,
    coarse: pl.DataFrame,
    fine_interval: str,
    coarse_interval: str,
    *,
    tolerance: float = 1e-6,
) -> pl.DataFrame:
    """Return the coarse bars that the fine ones in them contradict; in FINDINGS_SCHEMA.

    fine, coarse: Bars of one symbol in order of open_time, with open, high, low, close, volume.
    tolerance: Relative difference that is rounding (of sums of volume).

    Only coarse bars that all their fine bars are there for are compared, and only such on the grid:
    what is missing is a gap and no disagreement. One finding per bar, of the value that differs
    most; the reason names all. Raises InvalidError where the finer interval does not divide the
    coarser one. Memory: the fine bars once more.
    """
    short, long = INTERVALS[fine_interval], INTERVALS[coarse_interval]
    if short is None or (long is not None and (long % short or long <= short)):
        raise InvalidError(
            f"{fine_interval} bars do not make up {coarse_interval} bars",
            "the finer interval must divide the coarser one",
        )
    if long is None and DAY_US % short:
        raise InvalidError(f"{fine_interval} bars do not make up months", "take 1d or finer")
    time = pl.col("open_time").dt.epoch("us")
    anchor = origin_us(coarse_interval)
    begins = (
        pl.col("open_time").dt.truncate("1mo")
        if long is None
        else ((time - anchor) // long * long + anchor).cast(_TIME)
    )
    needed = (
        (pl.col("open_time").dt.offset_by("1mo").dt.epoch("us") - time) // short
        if long is None
        else pl.lit(long // short)
    )
    made = (
        fine.filter((time - origin_us(fine_interval)) % short == 0)
        .group_by(begins.alias("open_time"), maintain_order=True)
        .agg(
            *traded_prices(),
            pl.col("volume").sum(),
            bars=pl.len(),
        )
        .filter(pl.col("bars") == needed)
    )
    both = coarse.select("open_time", *_VALUES).join(
        made, on="open_time", how="inner", suffix="_made", maintain_order="left"
    )
    apart = [_apart(name).alias(f"{name}_apart") for name in _VALUES]
    both = both.with_columns(apart).with_columns(
        worst=pl.max_horizontal(f"{name}_apart" for name in _VALUES)
    )
    return _findings(both.filter(pl.col("worst") > tolerance), tolerance, fine_interval)


def _apart(name: str) -> pl.Expr:
    """Relative difference; 0 where either is not a number, infinite where one is 0."""
    here, made = pl.col(name), pl.col(f"{name}_made")
    larger = pl.max_horizontal(here.abs(), made.abs())
    apart = pl.when(here == made).then(0.0).otherwise((here - made).abs() / larger)
    return apart.fill_nan(None).fill_null(0.0)


def _findings(differing: pl.DataFrame, tolerance: float, fine_interval: str) -> pl.DataFrame:
    is_worst = [pl.col(f"{name}_apart") == pl.col("worst") for name in _VALUES]
    value = pl.coalesce(
        pl.when(worst).then(pl.col(name)) for worst, name in zip(is_worst, _VALUES, strict=True)
    )
    expected = pl.coalesce(
        pl.when(worst).then(pl.col(f"{name}_made"))
        for worst, name in zip(is_worst, _VALUES, strict=True)
    )
    words = pl.concat_str(
        [
            pl.when(pl.col(f"{name}_apart") > tolerance).then(
                sentence(f"{name} {{}}, made of {fine_interval} bars {{}}", name, f"{name}_made")
            )
            for name in _VALUES
        ],
        separator="; ",
        ignore_nulls=True,
    )
    return differing.select(
        pl.col("open_time").alias("time"),
        pl.lit("cross_interval").alias("method"),
        (pl.col("worst") / tolerance).alias("score"),
        value.alias("value"),
        expected.alias("expected"),
        words.alias("reason"),
    ).cast(FINDINGS_SCHEMA)
