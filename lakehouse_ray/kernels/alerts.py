"""Which days break which thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from lakehouse_ray.model.alerts import RULES, Rule, Thresholds

# What is looked at; other columns are handed on. Null: not measured, which breaks nothing.
LOOKED_AT = pl.Schema(
    {
        "score": pl.Float64(),
        "missing_own_loss": pl.Int64(),
        "compared": pl.Int64(),
        "differing": pl.Int64(),
        "anomalies": pl.Int64(),
    }
)


@dataclass(frozen=True)
class _Limit:
    """value: Of a day, as a float. under: It is broken by less than `limit`, else by more."""

    value: pl.Expr
    limit: float
    under: bool = False


def alerts_of(days: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    """Return a row for each day and rule that it breaks, in the order of `RULES`.

    days: A row per day; columns of `LOOKED_AT` that it lacks were not measured.

    Adds `rule`, `value` (what the day has) and `threshold` (what it may have).
    """
    lacking = [name for name in LOOKED_AT if name not in days.columns]
    whole = days.with_columns(pl.lit(None, dtype=LOOKED_AT[name]).alias(name) for name in lacking)
    limits = _limits(thresholds)
    broken = []
    for rule in RULES:
        limit = limits[rule]
        marked = whole.with_columns(
            rule=pl.lit(rule),
            value=limit.value.cast(pl.Float64),
            threshold=pl.lit(float(limit.limit)),
        )
        value, bound = pl.col("value"), pl.col("threshold")
        broken.append(marked.filter(value < bound if limit.under else value > bound))
    return pl.concat(broken).drop(lacking)


def _limits(thresholds: Thresholds) -> dict[Rule, _Limit]:
    compared = pl.col("compared")
    return {
        "score": _Limit(pl.col("score"), thresholds.score, under=True),
        "own_loss": _Limit(pl.col("missing_own_loss"), thresholds.own_loss_rows_max),
        "differing": _Limit(
            pl.when(compared > 0).then(pl.col("differing") / compared),
            thresholds.differing_share_max,
        ),
        "anomalies": _Limit(pl.col("anomalies"), thresholds.anomalies_max),
    }
