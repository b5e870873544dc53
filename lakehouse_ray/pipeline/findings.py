"""What an assessment finds of some symbols of one kind: gaps, differences, anomalies, scores, alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from lakehouse_ray.kernels.alerts import alerts_of, runs_of, unheard
from lakehouse_ray.kernels.anomaly_forest import forest_installed
from lakehouse_ray.kernels.causes import classify
from lakehouse_ray.kernels.coverage import is_long
from lakehouse_ray.kernels.day_gaps import missing_by_day
from lakehouse_ray.kernels.quality import COUNTS_SCHEMA, KEYS, QualityWeights, score_days
from lakehouse_ray.model.alerts import Thresholds
from lakehouse_ray.model.assessment import (
    ALERTS,
    ANOMALY_LOG,
    ASSESSMENT_LOG,
    CROSS_CHECK_LOG,
    GAPS_LOG,
    QUALITY_LOG,
    SERIES,
    VERSION,
    ForestPolicy,
)
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.gaps import CAUSES
from lakehouse_ray.model.rhythm import About, Grid, Rhythm, rhythm_of
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US, MINUTE_US
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query import coverage, file_days
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.cross_checks import Account, added_up, cross_check
from lakehouse_ray.query.daily_monthly import Bronze, hold_files
from lakehouse_ray.query.forest_scan import scan_with_forest
from lakehouse_ray.query.gap_facts import gather
from lakehouse_ray.query.gaps import find, labelled
from lakehouse_ray.query.pinned import Among, Kind, Pinned
from lakehouse_ray.query.scan import text
from lakehouse_ray.query.series_scan import scan_series
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.storage.frames import frame_schema

# What an assessment looks at: all of it at the snapshots that the driver pinned.
SEEN = (
    *(VIEWS[f"silver.{dataset.view}"] for dataset in DATASETS.values()),
    VIEWS["bronze.objects"],
    VIEWS["silver.quarantine"],
    VIEWS["gold.alerts"],
)
_DAY = pl.Datetime("us", "UTC")
# With `quality.forest = auto` the forest looks at bars of at least this length: it takes three times
# as long as all else, and a lake has 15 times as many minutes (docs/anomalies.md).
_FOREST_LENGTH_US = 15 * MINUTE_US
_NO_FOREST = "isolation_forest: {}"
NOT_INSTALLED = _NO_FOREST.format("scikit-learn is not installed")


@dataclass(frozen=True)
class AssessTask:
    """Some symbols of one kind.

    lives: `Pinned.lives` of all symbols of the kind, by which a gap is compared with others.
    accounts: What its bars are held against.
    numbers: Of the latest assessment of each symbol that has one.
    """

    kind: Kind
    symbols: tuple[str, ...]
    lives: pl.DataFrame
    accounts: tuple[Account, ...]
    fingerprint: str
    numbers: Mapping[str, int]

    def only(self, symbol: str) -> AssessTask:
        return replace(self, symbols=(symbol,))


@dataclass(frozen=True)
class Means:
    """What an assessment is made with, besides the tables. forest: `quality.forest`."""

    thresholds: Thresholds
    bronze: Bronze
    forest: ForestPolicy

    def left_out(self, kind: Kind) -> str | None:
        """What is not looked for in bars of trades, and why."""
        if kind.dataset.name != KLINES.name or kind.interval is None:
            return None
        if self.forest == "off":
            return _NO_FOREST.format("quality.forest is off")
        if not forest_installed():
            return NOT_INSTALLED
        length = INTERVALS[kind.interval]
        if self.forest == "auto" and length is not None and length < _FOREST_LENGTH_US:
            return _NO_FOREST.format("quality.forest is auto, and the bars are short")
        return None


@dataclass(frozen=True)
class Findings:
    """What was found of a group of symbols, each frame with the columns of its log but the run."""

    gaps: pl.DataFrame
    differences: pl.DataFrame
    anomalies: pl.DataFrame
    scores: pl.DataFrame
    alerts: pl.DataFrame
    left_out: str | None

    @classmethod
    def of(cls, pinned: Pinned, task: AssessTask, means: Means) -> Findings:
        """Look at the rows, what is missing, what others say, and the files; then score."""
        kind, symbols = task.kind, task.symbols
        chosen = task.lives.filter(pl.col("symbol").is_in(symbols))
        rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
        gaps = _gaps(pinned, task)
        scanned = scan_series(pinned, kind, chosen)
        checked = cross_check(pinned, kind, chosen, task.accounts)
        differences, compared = hold_files(pinned, kind, symbols, means.bronze)
        left_out = means.left_out(kind)
        found = scanned.anomalies
        if found is not None and left_out is None:
            found = pl.concat([found, scan_with_forest(pinned, kind, chosen)])
        days = coverage.of_kind(pinned, kind, chosen, Asked(symbols=symbols))
        missing = missing_by_day(gaps, long=is_long(rhythm))
        counts = _expected(rhythm, days, missing)
        refused = file_days.refused_days(pinned, kind, symbols)
        more_days, more_missing = _refused_whole(rhythm, counts, refused)
        counts = pl.concat([counts, more_days])
        missing = pl.concat([missing, more_missing])
        odd = None if found is None else _per_day(found)
        for more in (
            _by_cause(missing),
            scanned.days.select("symbol", "day", "rows_flagged", "rules"),
            file_days.refused_rows(pinned, kind, symbols),
            added_up([checked.compared, compared]),
            file_days.delays(pinned, kind, symbols, QualityWeights().lost_hours),
            *(() if odd is None else (odd,)),
        ):
            counts = _joined(counts, more)
        if odd is not None:
            counts = counts.with_columns(pl.col("anomalies").fill_null(0))
        named = _named(kind, counts)
        scores = score_days(named.select(n for n in COUNTS_SCHEMA if n in named.columns))
        scores = scores.sort(KEYS).with_columns(
            codes=_listed("codes", ","), reasons=_listed("reasons", "; ")
        )
        if found is not None:
            # Not in the score: these bars differ, and are counted as such.
            found = pl.concat([found, checked.contradicted])
        differences = pl.concat([checked.differences, differences])
        return cls(
            gaps,
            differences.with_columns(dataset=pl.lit(kind.dataset.name)),
            _anomalies(kind, found),
            scores,
            _alerts(pinned, kind, symbols, _judged(scores, named), means.thresholds),
            left_out,
        )

    def tables(self, task: AssessTask) -> list[tuple[Table, pl.DataFrame]]:
        return [
            (GAPS_LOG, self.gaps),
            (CROSS_CHECK_LOG, self.differences),
            (ANOMALY_LOG, self.anomalies),
            (QUALITY_LOG, self.scores),
            (ALERTS, self.alerts),
            (ASSESSMENT_LOG, self._assessments(task)),
        ]

    def _assessments(self, task: AssessTask) -> pl.DataFrame:
        """A row per series, also of one of which nothing was found."""
        rows = _named(task.kind, task.lives.filter(pl.col("symbol").is_in(task.symbols)))
        rows = rows.select(*SERIES, "rows").join(
            self.scores.group_by("symbol").agg(
                days=pl.col("score").count().cast(pl.Int64),
                score_mean=pl.col("score").mean(),
                score_min=pl.col("score").min(),
            ),
            on="symbol",
            how="left",
        )
        for name, found in (
            ("gaps", self.gaps),
            ("differences", self.differences),
            ("anomalies", self.anomalies),
            ("alerts", self.alerts),
        ):
            if found.is_empty():
                rows = rows.with_columns(pl.lit(0, dtype=pl.Int64).alias(name))
                continue
            number = found.group_by("symbol").agg(pl.len().cast(pl.Int64).alias(name))
            rows = rows.join(number, on="symbol", how="left")
        return rows.with_columns(
            pl.col("days", "gaps", "differences", "anomalies", "alerts").fill_null(0),
            number=pl.col("symbol").replace_strict(
                dict(task.numbers), default=0, return_dtype=pl.Int64
            )
            + 1,
            version=pl.lit(VERSION),
            left_out=pl.lit(self.left_out, dtype=pl.String),
            fingerprint=pl.lit(task.fingerprint),
        )


def _gaps(pinned: Pinned, task: AssessTask) -> pl.DataFrame:
    found = find(pinned, task.kind, task.lives, Asked(symbols=task.symbols))
    if found.is_empty():
        return labelled(task.kind, _no_gaps())
    return labelled(task.kind, classify(gather(pinned, task.kind, found, task.lives)))


def _no_gaps() -> pl.DataFrame:
    return frame_schema(GAPS_LOG).to_frame()


def _expected(rhythm: Rhythm | None, days: pl.DataFrame, missing: pl.DataFrame) -> pl.DataFrame:
    """`symbol, day, rows, rows_expected` of each day from the first to the last row.

    Ids say how many rows a day should have only where it has some: what is missing between two days
    is added. Coverage counts slots of a data set that comes "about" every so often as wide as its
    tolerance allows; gaps are counted in steps.
    """
    counts = days.select(
        "symbol", pl.col("day").cast(_DAY), "rows", pl.col("expected").alias("rows_expected")
    )
    if isinstance(rhythm, About):
        wide = (rhythm.step_us + rhythm.tolerance_us) // rhythm.step_us
        return counts.with_columns(pl.col("rows_expected") * wide)
    if rhythm is None or isinstance(rhythm, Grid):
        return counts
    total = missing.group_by("symbol", "day").agg(_missing=pl.col("missing").sum())
    there = pl.col("rows") + pl.col("_missing").fill_null(0)
    return (
        _joined(counts, total)
        .with_columns(rows_expected=pl.max_horizontal("rows_expected", there))
        .drop("_missing")
    )


def _refused_whole(
    rhythm: Rhythm | None, counts: pl.DataFrame, refused: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Days outside the stored rows of which there was a file, and it was refused: as rows of the
    counts and of what is missing. Between stored rows they are gaps already."""
    due = DAY_US // rhythm.step_us if isinstance(rhythm, Grid) and not is_long(rhythm) else 1
    outside = refused.join(counts, on=["symbol", "day"], how="anti")
    number = pl.lit(due, dtype=pl.Int64)
    return (
        outside.select("symbol", "day", rows=pl.lit(0, dtype=pl.Int64), rows_expected=number),
        outside.select("symbol", "day", cause=pl.lit("own_loss"), missing=number),
    )


def _by_cause(missing: pl.DataFrame) -> pl.DataFrame:
    """A column `missing_…` for each cause."""
    return missing.group_by("symbol", "day").agg(
        pl.col("missing").filter(pl.col("cause") == cause).sum().alias(f"missing_{cause}")
        for cause in CAUSES
    )


def _per_day(found: pl.DataFrame) -> pl.DataFrame:
    """Bars with a finding, of however many methods."""
    return found.group_by("symbol", day=pl.col("time").dt.truncate("1d")).agg(
        anomalies=pl.col("time").n_unique().cast(pl.Int64)
    )


def _joined(counts: pl.DataFrame, more: pl.DataFrame) -> pl.DataFrame:
    return counts.join(more, on=["symbol", "day"], how="left", maintain_order="left")


def _anomalies(kind: Kind, found: pl.DataFrame | None) -> pl.DataFrame:
    return frame_schema(ANOMALY_LOG).to_frame() if found is None else _named(kind, found)


def _named(kind: Kind, rows: pl.DataFrame) -> pl.DataFrame:
    """With the columns that say which series it is."""
    return rows.with_columns(
        market=pl.lit(kind.market),
        dataset=pl.lit(kind.dataset.name),
        interval=pl.lit(kind.interval or ""),
    )


def _listed(name: str, separator: str) -> pl.Expr:
    joined = pl.col(name).list.join(separator)
    return pl.when(joined != "").then(joined).alias(name)


def _judged(scores: pl.DataFrame, counts: pl.DataFrame) -> pl.DataFrame:
    """Scores with what else alerts are raised by."""
    lost = [n for n in ("missing_own_loss",) if n in counts.columns]
    return scores.join(counts.select("symbol", "day", *lost), on=["symbol", "day"], how="left")


def _alerts(
    pinned: Pinned,
    kind: Kind,
    symbols: tuple[str, ...],
    days: pl.DataFrame,
    thresholds: Thresholds,
) -> pl.DataFrame:
    """Runs of days beyond a threshold that nobody has been told of (`kernels.alerts.unheard`)."""
    # A day without a score is one on which nothing could be expected.
    found = runs_of(alerts_of(days.filter(pl.col("score").is_not_null()), thresholds))
    if found.is_empty():
        return found
    where = Among({"market": kind.market, "dataset": kind.dataset.name}, None, symbols)
    known = pinned.frame(
        "SELECT symbol, rule, codes, day, last_day FROM gold.alerts "
        f'WHERE {where.sql(ALERTS)} AND "interval" = {text(kind.interval or "")}',
        VIEWS["gold.alerts"],
        where,
    ).cast({"day": _DAY, "last_day": _DAY})
    return unheard(found, known)
