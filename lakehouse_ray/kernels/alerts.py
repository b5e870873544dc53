"""Which days break which thresholds, and which of them somebody should be told of.

Days in a row that break the same threshold for the same reasons are one alert: somebody would mend
them, or give them up, together. `codes` are the same reasons in whatever order.
"""

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


def runs_of(days: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each run of days in a row, in the order of symbols, rules and days.

    days: As `alerts_of` returns them, with `symbol, day, codes`; a symbol's day once per rule.

    `day` and `last_day` are the first and the last day, `days` their number. All else is what the
    worst of them has (the least score, else the largest value; of equal ones the first), which is
    `worst_day`.
    """
    series = ["symbol", "rule", "_causes"]
    ordered = days.with_columns(
        _causes=_causes(), _good=pl.when(rule="score").then("value").otherwise(-pl.col("value"))
    ).sort(*series, "day", nulls_last=True)
    began = (pl.col("day").diff() != pl.duration(days=1)).fill_null(True)
    changed = pl.struct(series).rle_id().diff().fill_null(1) != 0
    return (
        ordered.with_columns(_run=(began | changed).cum_sum(), worst_day="day")
        .sort("_run", "_good", "day")
        .group_by("_run", maintain_order=True)
        .agg(
            pl.all().exclude("_run", "day").first(),
            day=pl.col("day").min(),
            last_day=pl.col("day").max(),
            days=pl.len().cast(pl.Int64),
        )
        .drop("_run", "_causes", "_good")
    )


def unheard(runs: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return the runs that are news: at least as many of their days have not been told as have been.

    So what goes on is told when it begins and each time it has doubled, not every day.

    runs: Of `runs_of`. told: `symbol, rule, codes, day, last_day` of what was raised before.
    """
    key = ["symbol", "rule", "_causes", "_day"]
    every = pl.datetime_ranges("day", "last_day", "1d")
    known = told.with_columns(_causes=_causes(), _day=every).explode("_day").select(key).unique()
    numbered = runs.with_row_index("_run")
    heard = (
        numbered.with_columns(_causes=_causes(), _day=every)
        .explode("_day")
        .join(known.cast({"_day": runs.schema["day"]}), on=key, how="semi", nulls_equal=True)
        .group_by("_run")
        .agg(_heard=pl.len())
    )
    return (
        numbered.join(heard, on="_run", how="left", maintain_order="left")
        .with_columns(pl.col("_heard").fill_null(0))
        .filter(pl.col("days") > pl.col("_heard"), pl.col("days") >= 2 * pl.col("_heard"))
        .drop("_run", "_heard")
    )


def _causes() -> pl.Expr:
    return pl.col("codes").str.split(",").list.sort().list.join(",")


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
