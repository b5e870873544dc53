"""Median and MAD over moving windows: exact, and quick where nearly nothing is far out.

MAD is the median of the absolute deviations from the window's own median; 1.4826 x MAD estimates
the standard deviation of normal data (one over the 0.75 quantile of the standard normal
distribution). A moving median is cheap, a moving MAD is not. But less than half of a window lies
strictly between its inner quartiles a and b, while half of it lies within MAD of the median: so MAD
is at least min(median - a, b - median). Moving quartiles thus tell which values can be out at all,
and the MAD is computed for those alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]

MAD_TO_SIGMA = 1.482602218505602
# Windows looked at closely at once: 4,096 of 240 values are 8 MB.
_WINDOWS_AT_ONCE = 4096

OUTLIERS_SCHEMA = pl.Schema(
    {
        "row": pl.Int64(),
        "value": pl.Float64(),
        "median": pl.Float64(),
        "scale": pl.Float64(),
        "z": pl.Float64(),
    }
)


@dataclass(frozen=True)
class Window:
    """Which values a value is held against.

    before, after: Rows on either side. With none after, the value itself is left out (what comes is
        held against what was); else it stands in the middle of its window (Hampel's).
    least: Values, nulls not counted, without which nothing is said.
    """

    before: int
    after: int = 0
    least: int = 1


def outliers(values: pl.Series, window: Window, limit: float, floor: pl.Series) -> pl.DataFrame:
    """Return the values farther than `limit` scales from their window's median (OUTLIERS_SCHEMA).

    The scale is 1.4826 x MAD, or the row's `floor` where that is larger: in a window of equal values
    MAD is 0, and any value else would be infinitely far. Nulls are skipped; NaN counts as null.
    z has the sign of the deviation. A floor that is null or NaN counts as 0; where the scale is 0,
    nothing is out. Memory: a few columns of the input and 4,096 windows.
    """
    frame = pl.DataFrame({"x": values.cast(pl.Float64), "floor": floor.cast(pl.Float64)})
    frame = frame.with_columns(pl.all().fill_nan(None)).with_columns(pl.col("floor").fill_null(0.0))
    middle = window.after > 0
    of = pl.col("x") if middle else pl.col("x").shift(1)
    size = window.before + window.after + 1 if middle else window.before
    frame = frame.with_columns(
        median=of.rolling_median(size, min_samples=window.least, center=middle),
        a=of.rolling_quantile(0.25, "higher", size, min_samples=window.least, center=middle),
        b=of.rolling_quantile(0.75, "lower", size, min_samples=window.least, center=middle),
    ).with_row_index("row")
    least_mad = pl.min_horizontal(pl.col("median") - pl.col("a"), pl.col("b") - pl.col("median"))
    least_scale = pl.max_horizontal(MAD_TO_SIGMA * least_mad, pl.col("floor"))
    distance = (pl.col("x") - pl.col("median")).abs()
    # Equality is let through here: what a scale of 0 means is decided by the exact one.
    candidates = frame.filter((distance > 0) & (distance >= limit * least_scale))
    if candidates.is_empty():
        return pl.DataFrame(schema=OUTLIERS_SCHEMA)
    _, mad = medians_and_mads(frame["x"], candidates["row"].to_numpy().astype(np.int64), window)
    return (
        candidates.with_columns(mad=pl.Series(mad))
        .with_columns(scale=pl.max_horizontal(MAD_TO_SIGMA * pl.col("mad"), pl.col("floor")))
        .filter((pl.col("scale") > 0) & (distance > limit * pl.col("scale")))
        .select(
            "row",
            pl.col("x").alias("value"),
            "median",
            "scale",
            ((pl.col("x") - pl.col("median")) / pl.col("scale")).alias("z"),
        )
        .cast(OUTLIERS_SCHEMA)
    )


def medians_and_mads(
    values: pl.Series, rows: npt.NDArray[np.int64], window: Window
) -> tuple[Floats, Floats]:
    """Median and MAD of the windows of some rows; NaN where a window has no value. Nulls are skipped.

    For few rows: about 20 µs each.
    """
    x = values.cast(pl.Float64).to_numpy()
    offsets = np.arange(-window.before, window.after + 1 if window.after else 0)
    medians, mads = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), _WINDOWS_AT_ONCE):
        at = rows[start : start + _WINDOWS_AT_ONCE, None] + offsets
        inside = (at >= 0) & (at < len(x))
        found = np.where(inside, x[np.clip(at, 0, len(x) - 1)], np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a window of nulls alone
            median = np.nanmedian(found, axis=1, keepdims=True)
            mads[start : start + len(at)] = np.nanmedian(np.abs(found - median), axis=1)
        medians[start : start + len(at)] = median[:, 0]
    return medians, mads
