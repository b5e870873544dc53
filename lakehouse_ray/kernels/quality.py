"""The quality of a symbol's day as one number between 0 and 1, and why it is not 1.

    score = completeness x (1 - sum of weight x (1 - part))     over the other four parts

Completeness multiplies, since what is not there can be neither right nor wrong. What was not
measured (nothing compared, no delay known) is null and costs nothing. docs/quality.md has the
formula with an example by hand. Every loss has a name; losses of a day add up to 1 - score.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import polars as pl

from lakehouse_ray.kernels.sentence import sentence, worded

KEYS = ("market", "dataset", "symbol", "interval", "day")
# Losses below this are the rounding of floats, not reasons.
_LOSS_MIN = 1e-9


@dataclass(frozen=True)
class CauseWeights:
    """What a missing row costs, by the cause of its gap: 1 is the whole row.

    Causes of weight 0 are rows that nobody could expect: they leave the count of expected rows.
    An outage and a halt cost a little, since the market has a hole there that a user must know of
    but nobody can fill. Refused rows are those in the quarantine.
    """

    own_loss: float = 1.0
    unknown: float = 1.0
    refused: float = 1.0
    archive_hole: float = 1.0
    outage: float = 0.1
    halted: float = 0.1
    no_trades: float = 0.0
    not_listed: float = 0.0
    delisted: float = 0.0


@dataclass(frozen=True)
class QualityWeights:
    """Weights and marks of the formula.

    validity, consistency, timeliness, normality: What each part may take from the score.
    flagged: What a marked row costs in validity; a refused one costs 1.
    on_time_hours, lost_hours: Delay of publication that costs nothing, and that costs all.
    calm_share, wild_share: Share of rows with an anomaly that costs nothing (markets jump), and
        that costs all. Anomalies alone cannot bring a day below 0.9.
    share_rows_min: A day of fewer rows is taken for one of so many here, else the one odd hour of
        24 would be a share of 4 %.
    """

    validity: float = 0.45
    consistency: float = 0.35
    timeliness: float = 0.10
    normality: float = 0.10
    flagged: float = 0.5
    on_time_hours: float = 48.0
    lost_hours: float = 720.0
    calm_share: float = 0.001
    wild_share: float = 0.02
    share_rows_min: int = 288
    causes: CauseWeights = field(default_factory=CauseWeights)


# The causes of gaps; `refused` is found by counting.
CAUSES = tuple(item.name for item in fields(CauseWeights) if item.name != "refused")

# One row per symbol and day. A column that is left out, and a null, is 0 or (rows_expected,
# compared, delay_hours, anomalies) not known.
COUNTS_SCHEMA = pl.Schema(
    {
        "market": pl.String(),
        "dataset": pl.String(),
        "symbol": pl.String(),
        "interval": pl.String(),
        "day": pl.Datetime("us", "UTC"),
        # By the rhythm of the data set, over the whole day; null: it has none.
        "rows_expected": pl.Int64(),
        "rows": pl.Int64(),
        "rows_flagged": pl.Int64(),
        # Names of the rules that these break.
        "rules": pl.String(),
        "rows_quarantined": pl.Int64(),
        # Rows missing by cause; what none explains counts as unknown.
        **{f"missing_{cause}": pl.Int64() for cause in CAUSES},
        # Rows held against another source, and those that differ.
        "compared": pl.Int64(),
        "differing": pl.Int64(),
        # From the end of the file's period to when it could first be had.
        "delay_hours": pl.Float64(),
        "anomalies": pl.Int64(),
    }
)

SCORES_SCHEMA = pl.Schema(
    {
        **{name: COUNTS_SCHEMA[name] for name in KEYS},
        "score": pl.Float64(),
        "completeness": pl.Float64(),
        "validity": pl.Float64(),
        "consistency": pl.Float64(),
        "timeliness": pl.Float64(),
        "normality": pl.Float64(),
        "rows_expected": pl.Int64(),
        "rows": pl.Int64(),
        "rows_missing": pl.Int64(),
        "rows_flagged": pl.Int64(),
        "rows_quarantined": pl.Int64(),
        "compared": pl.Int64(),
        "differing": pl.Int64(),
        "delay_hours": pl.Float64(),
        "anomalies": pl.Int64(),
        # Names of what was lost, and the same as sentences; the largest loss first.
        "codes": pl.List(pl.String()),
        "reasons": pl.List(pl.String()),
    }
)

_OTHERS = ("validity", "consistency", "timeliness", "normality")
_NOT_KNOWN = ("rows_expected", "compared", "delay_hours", "anomalies")


def score_days(counts: pl.DataFrame, weights: QualityWeights | None = None) -> pl.DataFrame:
    """Score each row of `counts` (COUNTS_SCHEMA, columns may be left out); in SCORES_SCHEMA.

    The score is null where nothing could be expected and nothing is there. Memory: some ten times
    the counts; a row is a symbol's day.
    """
    weights = weights or QualityWeights()
    frame = _completed(counts).with_row_index("_row")
    frame = _with_missing(frame, weights.causes)
    frame = _with_parts(frame, weights)
    losses = _losses(weights)
    # Shares of nothing are no losses.
    frame = frame.with_columns(
        pl.when(loss.value.is_finite()).then(loss.value).otherwise(0.0).alias(f"_loss_{loss.code}")
        for loss in losses
    )
    taken = pl.sum_horizontal(
        getattr(weights, part) * (1 - pl.col(part).fill_null(1.0)) for part in _OTHERS
    )
    score = pl.col("completeness") * (1 - taken)
    frame = frame.with_columns(
        score=pl.when(pl.col("_nothing")).then(None).otherwise(score.clip(0, 1))
    )
    reasons = _reasons(frame, losses)
    empty = pl.lit([], dtype=pl.List(pl.String))
    return (
        frame.join(reasons, on="_row", how="left", maintain_order="left")
        .with_columns(pl.col("codes", "reasons").fill_null(empty))
        .select(SCORES_SCHEMA.names())
        .cast(SCORES_SCHEMA)
    )


@dataclass(frozen=True)
class _Loss:
    """One way to lose: its name, what it takes from the score, and the sentence."""

    code: str
    value: pl.Expr
    text: pl.Expr


def _completed(counts: pl.DataFrame) -> pl.DataFrame:
    return counts.select(
        (pl.col(name) if name in counts.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in COUNTS_SCHEMA.items()
    ).with_columns(
        pl.col(name).fill_null(0)
        for name, dtype in COUNTS_SCHEMA.items()
        if dtype.is_numeric() and name not in _NOT_KNOWN
    )


def _with_missing(frame: pl.DataFrame, causes: CauseWeights) -> pl.DataFrame:
    """Tell rows nobody could expect (`_free`) from `_base`, and rows without a cause from the rest."""
    free = [cause for cause in CAUSES if getattr(causes, cause) == 0]
    named = pl.sum_horizontal(f"missing_{cause}" for cause in CAUSES)
    unexplained = (pl.col("rows_expected") - pl.col("rows") - named).clip(0).fill_null(0)
    return (
        frame.with_columns(_unexplained=unexplained)
        .with_columns(missing_refused=pl.min_horizontal("_unexplained", "rows_quarantined"))
        .with_columns(
            missing_unknown=pl.col("missing_unknown")
            + pl.col("_unexplained")
            - pl.col("missing_refused"),
            _free=pl.sum_horizontal([pl.lit(0), *(f"missing_{cause}" for cause in free)]),
        )
        .with_columns(
            rows_missing=pl.sum_horizontal(
                f"missing_{cause}" for cause in (*CAUSES, "refused") if cause not in free
            ),
            _base=(pl.col("rows_expected") - pl.col("_free")).clip(0),
        )
    )


def _with_parts(frame: pl.DataFrame, weights: QualityWeights) -> pl.DataFrame:
    rows, refused = pl.col("rows"), pl.col("rows_quarantined")
    lost = pl.sum_horizontal(
        getattr(weights.causes, cause) * pl.col(f"missing_{cause}")
        for cause in (*CAUSES, "refused")
    )
    # Without a rhythm a day is there or not.
    completeness = (
        pl.when(pl.col("_base") > 0)
        .then(1 - lost / pl.col("_base"))
        .when(pl.col("rows_expected").is_null() & (rows == 0) & (refused > 0))
        .then(0.0)
        .otherwise(1.0)
    )
    seen = rows + refused
    marked = weights.flagged * pl.col("rows_flagged") + refused
    late = (pl.col("delay_hours") - weights.on_time_hours) / (
        weights.lost_hours - weights.on_time_hours
    )
    share = pl.col("anomalies") / pl.max_horizontal(rows, pl.lit(weights.share_rows_min))
    wild = (share - weights.calm_share) / (weights.wild_share - weights.calm_share)
    return frame.with_columns(
        completeness=completeness.clip(0, 1),
        validity=pl.when(seen > 0).then((1 - marked / seen).clip(0, 1)),
        consistency=pl.when(pl.col("compared") > 0).then(
            (1 - pl.col("differing") / pl.col("compared")).clip(0, 1)
        ),
        timeliness=(1 - late).clip(0, 1),
        normality=pl.when(rows > 0).then((1 - wild).clip(0, 1)),
        _nothing=(pl.col("_base").fill_null(0) == 0) & (seen == 0),
    )


_MISSING_WORDS = {
    "own_loss": "refused or lost: their file is known",
    "unknown": "nothing stored tells why",
    "refused": "refused and in the quarantine",
    "archive_hole": "in no file here, though another series shows trading",
    "outage": "the exchange was down",
    "halted": "the symbol was halted",
    "no_trades": "nothing was traded",
    "not_listed": "the symbol was not listed yet",
    "delisted": "the symbol was not listed any more",
}


def _losses(weights: QualityWeights) -> list[_Loss]:
    missing = [
        _Loss(
            cause.upper(),
            getattr(weights.causes, cause) * pl.col(f"missing_{cause}") / pl.col("_base"),
            sentence(
                "{} of {} {} {} missing: {}",
                f"missing_{cause}",
                "_base",
                worded("_base", "row", "rows"),
                worded(f"missing_{cause}", "is", "are"),
                pl.lit(_MISSING_WORDS[cause]),
            ),
        )
        for cause in (*CAUSES, "refused")
        if getattr(weights.causes, cause) > 0
    ]
    there = pl.col("completeness")
    seen = pl.col("rows") + pl.col("rows_quarantined")
    validity = there * weights.validity / seen
    return [
        *missing,
        _Loss(
            "NO_ROWS",
            pl.when(pl.col("rows_expected").is_null()).then(1 - there),
            pl.when(pl.col("rows_quarantined") == 1)
            .then(pl.lit("its only row was refused"))
            .otherwise(sentence("all {} rows were refused", "rows_quarantined")),
        ),
        _Loss(
            "FLAGGED",
            validity * weights.flagged * pl.col("rows_flagged"),
            sentence(
                "{} of {} {} {} a rule{}",
                "rows_flagged",
                "rows",
                worded("rows", "row", "rows"),
                worded("rows_flagged", "breaks", "break"),
                pl.concat_str(pl.lit(": "), "rules").fill_null(""),
            ),
        ),
        _Loss(
            "QUARANTINED",
            validity * pl.col("rows_quarantined"),
            sentence(
                "{} of {} {} {} refused",
                "rows_quarantined",
                seen,
                worded(seen, "row", "rows"),
                worded("rows_quarantined", "was", "were"),
            ),
        ),
        _Loss(
            "DIFFERS",
            there * weights.consistency * (1 - pl.col("consistency")),
            sentence(
                "{} of {} compared {} {} from another source",
                "differing",
                "compared",
                worded("compared", "row", "rows"),
                worded("differing", "differs", "differ"),
            ),
        ),
        _Loss(
            "LATE",
            there * weights.timeliness * (1 - pl.col("timeliness")),
            sentence("published {} hours after its period", pl.col("delay_hours").round(1)),
        ),
        _Loss(
            "ANOMALIES",
            there * weights.normality * (1 - pl.col("normality")),
            sentence(
                "{} {} in {} {}",
                "anomalies",
                worded("anomalies", "finding", "findings"),
                "rows",
                worded("rows", "row", "rows"),
            ),
        ),
    ]


def _reasons(frame: pl.DataFrame, losses: list[_Loss]) -> pl.DataFrame:
    """Names and sentences per row, the largest loss first; no row where nothing was lost."""
    poor = frame.filter(pl.col("score") < 1 - _LOSS_MIN)
    parts = [
        poor.filter(pl.col(f"_loss_{loss.code}") > _LOSS_MIN).select(
            "_row",
            loss=f"_loss_{loss.code}",
            code=pl.lit(loss.code),
            reason=sentence(
                "{}: {} (-{})", pl.lit(loss.code), loss.text, pl.col(f"_loss_{loss.code}").round(4)
            ),
        )
        for loss in losses
    ]
    return (
        pl.concat(parts)
        .sort("_row", "loss", "code", descending=[False, True, False])
        .group_by("_row", maintain_order=True)
        .agg(codes="code", reasons="reason")
    )
