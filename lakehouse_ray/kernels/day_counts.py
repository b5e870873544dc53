"""Rows of a symbol counted by UTC day: what the quality score begins with."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from lakehouse_ray.model.timespan import DAY_US

DAY_COUNTS_SCHEMA = pl.Schema(
    {
        "day": pl.Datetime("us", "UTC"),
        "rows": pl.Int64(),
        "rows_flagged": pl.Int64(),
        "rows_noted": pl.Int64(),
        # Names that the flagged rows have and that cost, sorted; null: none.
        "rules": pl.String(),
    }
)
_BETWEEN = ", "


def day_counts(
    time: pl.Series, flags: pl.Series | None, free: Collection[str] = frozenset()
) -> pl.DataFrame:
    """Count the rows of each day that has any, in DAY_COUNTS_SCHEMA, sorted by day.

    time: Of each row of one symbol (and interval), in any order; UTC microseconds.
    flags: Of the same rows, as `kernels.check` gives them.
    free: Names that cost nothing (`model.checks.registry.free_names()`): a row that has no others
        is noted, any other marked row is flagged.
    """
    day = (time.dt.epoch("us") // DAY_US).alias("day")
    counts = _rows_of(day).rename({"n": "rows"})
    flagged, noted = _rows_of(day.head(0)), _rows_of(day.head(0))
    rules = pl.DataFrame(schema={"day": day.dtype, "rules": pl.String()})
    if flags is not None:
        costs = _costs(flags, free)
        flagged = _rows_of(day.filter(costs.fill_null(False)))
        noted = _rows_of(day.filter((~costs).fill_null(False)))
        marked = pl.DataFrame([day, flags.alias("rules")]).filter(costs.fill_null(False)).unique()
        rules = marked.group_by("day").agg(rules_together(",", free))
    return (
        counts.join(flagged.rename({"n": "rows_flagged"}), on="day", how="left")
        .join(noted.rename({"n": "rows_noted"}), on="day", how="left")
        .join(rules, on="day", how="left")
        .with_columns(pl.col("rows_flagged", "rows_noted").fill_null(0), pl.col("day") * DAY_US)
        .sort("day")
        .cast(DAY_COUNTS_SCHEMA)
    )


def rules_together(between: str = _BETWEEN, free: Collection[str] = frozenset()) -> pl.Expr:
    """The names in texts of a column `rules`, each once; null where there are none."""
    names = pl.col("rules").drop_nulls().str.split(between).explode().unique().sort()
    joined = names.filter(~names.is_in(list(free))).str.join(_BETWEEN)
    return pl.when(joined != "").then(joined).alias("rules")


def _rows_of(day: pl.Series) -> pl.DataFrame:
    """Rows per day. Sorted rows are one run a day, which is 9 times quicker than grouping rows."""
    runs = day.rle().struct.unnest()
    return runs.group_by(pl.col("value").alias("day")).agg(n=pl.col("len").cast(pl.Int64).sum())


def _costs(flags: pl.Series, free: Collection[str]) -> pl.Series:
    """Whether a row has a name that is not free; null where it has none at all."""
    names = flags.drop_nulls().unique().to_list()
    costly = [text for text in names if not set(text.split(",")) <= set(free)]
    return flags.is_in(costly)
