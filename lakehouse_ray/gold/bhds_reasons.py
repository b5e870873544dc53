"""Why BHDS's bars differ from ours, and differences as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

REASONS: Mapping[str, str] = {
    "MINUTE_CALENDAR": "BHDS fills minute by minute whatever the interval, and so makes up bars between bars",
    "LONG_GAP_FILLED": "BHDS fills a long gap before it splits there; the made-up bars end the earlier part",
    "OFF_GRID": "Bars lie off the grid here or just before; BHDS's calendar passes over them",
    "SHIFTED_CALENDAR": "The first bar lies off the grid, and BHDS counts its minutes from it",
    "SPLIT_EQUAL_PRICE": "BHDS does not split at a long gap after which the price is exactly the same",
    "SPLIT_QUIET": "BHDS splits at days of bars without trades; they are there, nothing is missing",
    "SPLIT_FIRST_TRADE": "After a gap BHDS begins the part with the first trade, ours with the first bar",
    "SPLIT_NO_TRADE": "BHDS splits between two traded bars; before or after this gap nothing was traded",
    "SPLIT_BAR_LENGTH": "BHDS measures gaps from opening to opening, so bars longer than a day are gaps",
    "PART_NAMES": "The parts are cut differently (rows of `part`), so they are numbered differently",
    "VWAP_NO_VOLUME": "Without volume there is no average price; BHDS puts the open there",
    "VWAP_COIN_MARGINED": "On COIN-M volume is contracts and quote volume the base asset: BHDS's quotient is no price",
    "VWAP_CLIPPED": "The exchange's own sums give an average outside low … high; BHDS clips it",
    "FUNDING_NONE": "No funding fell due: ours is null, BHDS writes 0, which is also a rate",
    "FUNDING_INSIDE": "Funding fell due within the bar, not at its opening: BHDS joins equal times and loses it",
    "FUNDING_SEVERAL": "Several payments fell due within the bar: ours is their sum, BHDS has at most one",
    "FUNDING_IN_GAP": "Funding fell due while bars are missing: BHDS joins before it fills and loses it",
    "FUNDING_TINY": "BHDS takes rates up to 1e-6 for none",
    "FUNDING_LATE": "BHDS moves a payment calculated well past the hour back to where it was not known yet",
    "UNTRADED_PRICE": "Some minutes of the bar had no trade: the exchange leaves their carried price out, BHDS does not",
    "ONLY_FILLED": "No finer bar exists here: BHDS makes the bar of made-up minutes",
    "PARTIAL_EDGE": "The first or last bar of a part is partial: ours keeps and marks it, BHDS drops it",
    "PART_WITHIN": "After quiet bars a part begins within the bar: ours keeps it, BHDS resamples each part alone and drops it",
    "UNEXPLAINED": "None of the known reasons",
}  # fmt: skip

TOLERANCE = 1e-9

_SAME = ("offset", "column", "ours", "bhds", "reason")


def rows(
    both: pl.DataFrame, which: pl.Expr, column: str, ours: pl.Expr, bhds: pl.Expr, reason: pl.Expr
) -> pl.DataFrame:
    """Differences in one column: the rows `which` of a joined frame with `_row` and `offset`."""
    # Filtered last, so that expressions may look at the bars around.
    found = both.select(
        pl.col("_row").cast(pl.Int64),
        "offset",
        pl.lit(column).alias("column"),
        "open_time",
        ours.cast(pl.String).alias("ours"),
        bhds.cast(pl.String).alias("bhds"),
        reason.cast(pl.String).alias("reason"),
        which.alias("_which"),
    )
    return found.filter("_which").drop("_which")


def unequal(ours: str, bhds: str) -> pl.Expr:
    """Whether two numbers differ by more than the tolerance, or one of them is null."""
    left, right = pl.col(ours).cast(pl.Float64), pl.col(bhds).cast(pl.Float64)
    size = pl.max_horizontal(left.abs(), right.abs())
    near = (left - right).abs() <= TOLERANCE * size
    return near.fill_null(value=False).not_() & left.ne_missing(right)


def first_true(*cases: tuple[str, pl.Expr]) -> pl.Expr:
    """The first reason whose condition holds; UNEXPLAINED where none does."""
    return pl.coalesce(
        *(
            pl.when(condition.fill_null(value=False)).then(pl.lit(code))
            for code, condition in cases
        ),
        pl.lit("UNEXPLAINED"),
    )


def told(found: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Differences in a row as one, each with its sentence; in order of column and time."""
    every = pl.concat(found).sort("offset", "column", "_row", nulls_last=False)
    follows = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift()) for name in _SAME)
    follows = follows & (pl.col("_row") == pl.col("_row").shift() + 1)
    return (
        every.with_columns(_run=follows.fill_null(value=False).not_().cum_sum())
        .group_by("_run", maintain_order=True)
        .agg(
            pl.col("offset", "column").first(),
            pl.col("open_time").first(),
            pl.col("open_time").last().alias("last_open_time"),
            pl.len().cast(pl.Int64).alias("bars"),
            pl.col("ours", "bhds", "reason").first(),
        )
        .drop("_run")
        .with_columns(
            pl.col("reason").replace_strict(dict(REASONS), return_dtype=pl.String).alias("sentence")
        )
    )


def summary(differences: pl.DataFrame) -> pl.DataFrame:
    """How many differences and bars each reason accounts for, by column."""
    return (
        differences.group_by("reason", "column", "sentence")
        .agg(pl.len().alias("differences"), pl.col("bars").sum())
        .sort("bars", "reason", "column", descending=[True, False, False])
        .select("reason", "column", "differences", "bars", "sentence")
    )
