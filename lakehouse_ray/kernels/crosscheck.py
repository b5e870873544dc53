"""Compare two accounts of one thing, value by value, and say where they differ.

All of it is column arithmetic; memory is a few times that of the frames, so a caller bounds it by
what it hands over (a symbol and a month, say). Which accounts there are: `crosscheck_bars`,
`crosscheck_files`.

Nulls and NaN never compare as equal to a number, and equal each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from lakehouse_ray.model.crosschecks import CROSS_CHECKS, Check

_TIME = pl.Datetime("us", "UTC")
_TYPES = {"string": pl.String(), "double": pl.Float64(), "long": pl.Int64(), "timestamp": _TIME}
RESULT = pl.Schema({column.name: _TYPES[column.type] for column in CROSS_CHECKS.columns})


def compare(
    left: pl.DataFrame,
    right: pl.DataFrame,
    names: Sequence[str],
    tolerances: Mapping[str, float],
    *,
    keys: Sequence[str] = ("symbol",),
    reason: pl.Expr | None = None,
    every: bool = False,
) -> pl.DataFrame:
    """Compare columns of rows with one key, `keys` and `time`, of two frames.

    tolerances: Relative difference up to which values of a column pass; else they must be equal.
    reason: Why a row differs, over the columns of both, those of `right` with the suffix `_right`;
        where one has no row its values are null.
    every: Also values that agree, exactly or within their tolerance.

    Returns the keys, `time, column, left, right, difference, relative, tolerance, verdict, reason`,
    sorted; a row that one side lacks is one line, of column `*`.
    """
    key = [*keys, "time"]
    joined = (
        left.with_columns(here=True)
        .join(
            right.with_columns(there=True),
            on=key,
            how="full",
            coalesce=True,
            suffix="_right",
        )
        .with_columns(reason=(reason if reason is not None else pl.lit("")).fill_null(""))
    )
    both = joined.filter("here", "there")
    frames = [_of_column(both, key, name, tolerances.get(name, 0.0)) for name in names]
    for present, absent, verdict in (
        ("there", "here", "missing_left"),
        ("here", "there", "missing_right"),
    ):
        alone = joined.filter(pl.col(present) & pl.col(absent).is_null())
        frames.append(_alone(alone, key, verdict))
    found = pl.concat(frames)
    calm = pl.col("verdict").is_in(["same", "within_tolerance"])
    if not every:
        found = found.filter(~calm)
    return found.with_columns(reason=pl.when(calm).then(pl.lit("")).otherwise("reason")).sort(
        *key, "column"
    )


def labelled(found: pl.DataFrame, market: str, check: Check, interval: str | None) -> pl.DataFrame:
    """Differences that `compare` found, as `RESULT`. interval: None: they say it themselves."""
    named = found.with_columns(market=pl.lit(market), check=pl.lit(check))
    if interval is not None:
        named = named.with_columns(interval=pl.lit(interval))
    if "id" not in named.columns:
        named = named.with_columns(id=None)
    return named.select(pl.col(name).cast(dtype) for name, dtype in RESULT.items())


def _of_column(both: pl.DataFrame, key: list[str], name: str, tolerance: float) -> pl.DataFrame:
    left, right = pl.col(name).cast(pl.Float64), pl.col(f"{name}_right").cast(pl.Float64)
    scale = pl.max_horizontal(left.abs(), right.abs())
    same = pl.col(name).eq_missing(pl.col(f"{name}_right"))
    relative = pl.when(same).then(0.0).otherwise((left - right).abs() / scale)
    return both.select(
        *key,
        column=pl.lit(name),
        left=left,
        right=right,
        difference=pl.when(same).then(0.0).otherwise(left - right),
        relative=relative,
        tolerance=pl.lit(tolerance),
        verdict=pl.when(same)
        .then(pl.lit("same"))
        .when((relative <= tolerance).fill_null(False))
        .then(pl.lit("within_tolerance"))
        .otherwise(pl.lit("differs")),
        reason=pl.col("reason"),
    )


def _alone(rows: pl.DataFrame, key: list[str], verdict: str) -> pl.DataFrame:
    nothing = pl.lit(None, dtype=pl.Float64)
    return rows.select(
        *key,
        column=pl.lit("*"),
        left=nothing,
        right=nothing,
        difference=nothing,
        relative=nothing,
        tolerance=pl.lit(0.0),
        verdict=pl.lit(verdict),
        reason=pl.col("reason"),
    )
