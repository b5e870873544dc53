"""What to do about a poor score: which days to fetch (again), which gaps to fill, what to look at."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.timespan import DAY_US

_TIME = pl.Datetime("us", "UTC")

# What `recommend` reads of gaps: as `lakehouse gaps` reports them.
GAPS_SCHEMA = pl.Schema(
    {
        "market": pl.String(),
        "dataset": pl.String(),
        "symbol": pl.String(),
        "interval": pl.String(),
        "start": _TIME,
        "end": _TIME,
        "missing": pl.Int64(),
        "cause": pl.String(),
    }
)

# action: `fetch_again` (the objects that cover [start, end), which were here already), `fetch` (if there
# are any), `fill_gap` (from another file or by REST), `inspect` (by a person). Rows: how many are at
# stake.
RECOMMENDATIONS_SCHEMA = pl.Schema(
    {
        "action": pl.String(),
        "market": pl.String(),
        "dataset": pl.String(),
        "symbol": pl.String(),
        "interval": pl.String(),
        "start": _TIME,
        "end": _TIME,
        "rows": pl.Int64(),
        "reason": pl.String(),
    }
)

_OF = ("market", "dataset", "symbol", "interval")
_FOR_CAUSE = {
    "own_loss": ("fetch_again", "rows of a file that is known were refused or lost on the way"),
    "archive_hole": (
        "fill_gap",
        "another series shows trading then; another file or REST may have the rows",
    ),
    "unknown": (
        "fetch",
        "nothing stored tells why; the archive may have a file of them, else REST may have the rows",
    ),
}
# By name in `codes`: what to do, the column that counts the rows, why.
_FOR_CODE = {
    "QUARANTINED": ("fetch_again", "rows_quarantined", "rows were refused"),
    "NO_ROWS": ("fetch_again", "rows_quarantined", "every row was refused"),
    "DIFFERS": (
        "fetch_again",
        "differing",
        "rows differ from another account; one of the two may be outdated",
    ),
    "FLAGGED": ("inspect", "rows_flagged", "rows break a rule"),
    "ANOMALIES": ("inspect", "anomalies", "findings of the anomaly methods"),
}
# Codes of rows that are in the quarantine.
_REFUSED = ("NO_ROWS", "QUARANTINED")
_ORDER = {"fetch_again": 0, "fetch": 1, "fill_gap": 2, "inspect": 3}


def recommend(scores: pl.DataFrame, gaps: pl.DataFrame, *, threshold: float = 0.9) -> pl.DataFrame:
    """Return what to do, by action and then the most rows first; in RECOMMENDATIONS_SCHEMA.

    scores: In SCORES_SCHEMA. Rows that were refused or that differ are acted on whatever the score;
        days are looked at (`inspect`) only below `threshold`. Days in a row become one range.
    gaps: In GAPS_SCHEMA. Gaps that are explained (outage, halt, no trades, not listed) need nothing.

    What is refused leaves a gap: it is told once, as a gap of `own_loss`, else as rows refused.
    """
    gone = _by_day(gaps.filter(cause="own_loss")).select(*_OF, "day").unique()
    refused = _refused(scores).join(gone, on=[*_OF, "day"], how="anti")
    parts = [
        _of_gaps(_unless_refused(gaps, refused)),
        *(_of_scores(refused.filter(code=code), code, threshold) for code in _REFUSED),
        *(
            _of_scores(scores.filter(pl.col("codes").list.contains(code)), code, threshold)
            for code in _FOR_CODE
            if code not in _REFUSED
        ),
    ]
    order = pl.col("action").replace_strict(_ORDER, return_dtype=pl.Int8)
    return pl.concat(parts).sort(
        [order, pl.col("rows"), *(pl.col(name) for name in (*_OF, "start"))],
        descending=[False, True, False, False, False, False, False],
        nulls_last=True,
    )


def _of_gaps(gaps: pl.DataFrame) -> pl.DataFrame:
    known = gaps.filter(pl.col("cause").is_in(list(_FOR_CAUSE)))
    action = {cause: action for cause, (action, _) in _FOR_CAUSE.items()}
    reason = {cause: why for cause, (_, why) in _FOR_CAUSE.items()}
    return known.select(
        pl.col("cause").replace_strict(action, return_dtype=pl.String).alias("action"),
        *_OF,
        "start",
        "end",
        pl.col("missing").alias("rows"),
        pl.col("cause").replace_strict(reason, return_dtype=pl.String).alias("reason"),
    ).cast(RECOMMENDATIONS_SCHEMA)


def _refused(scores: pl.DataFrame) -> pl.DataFrame:
    """Days of which rows are in the quarantine, each with one `code`: `NO_ROWS` where nothing else
    is left of it."""
    codes = pl.col("codes")
    found = pl.coalesce(pl.when(codes.list.contains(name)).then(pl.lit(name)) for name in _REFUSED)
    return scores.with_columns(code=found).filter(pl.col("code").is_not_null())


def _unless_refused(gaps: pl.DataFrame, refused: pl.DataFrame) -> pl.DataFrame:
    """Gaps but those that nobody can tell the cause of and that are no larger than what was refused on
    all of their days."""
    numbered = gaps.with_row_index("_gap")
    told = (
        _by_day(numbered.filter(cause="unknown"))
        .join(refused.select(*_OF, "day", "rows_quarantined"), on=[*_OF, "day"], how="left")
        .group_by("_gap")
        .agg(
            pl.col("rows_quarantined").is_not_null().all().alias("every"),
            (pl.col("rows_quarantined").sum() >= pl.col("missing").first()).alias("enough"),
        )
        .filter("every", "enough")
    )
    return numbered.join(told, on="_gap", how="anti").drop("_gap")


def _by_day(gaps: pl.DataFrame) -> pl.DataFrame:
    """A row for each `day` that a gap touches."""
    first, last = pl.col("start").dt.truncate("1d"), pl.col("end").dt.offset_by("-1us")
    days = pl.datetime_ranges(first, last.dt.truncate("1d"), "1d")
    return gaps.with_columns(day=days).explode("day")


def _of_scores(scores: pl.DataFrame, code: str, threshold: float) -> pl.DataFrame:
    """scores: Of the days that lost by this code."""
    action, count, why = _FOR_CODE[code]
    chosen = scores.filter(pl.col("score") < threshold) if action == "inspect" else scores
    day = pl.col("day").dt.epoch("us") // DAY_US
    chosen = chosen.select(*_OF, day.alias("day"), pl.col(count).alias("rows")).sort(*_OF, "day")
    new_range = (pl.col("day") != pl.col("day").shift(1) + 1) | pl.any_horizontal(
        pl.col(name).ne_missing(pl.col(name).shift(1)) for name in _OF
    )
    return (
        chosen.with_columns(_range=new_range.fill_null(True).cum_sum())
        .group_by("_range", *_OF, maintain_order=True)
        .agg(pl.col("day").min().alias("start"), pl.col("day").max().alias("end"), pl.sum("rows"))
        .select(
            pl.lit(action).alias("action"),
            *_OF,
            (pl.col("start") * DAY_US).cast(_TIME),
            ((pl.col("end") + 1) * DAY_US).cast(_TIME).alias("end"),
            "rows",
            pl.lit(why).alias("reason"),
        )
        .cast(RECOMMENDATIONS_SCHEMA)
    )
