"""What a worker does: assess some symbols of one kind of series, and write what it found to files.

Nothing is visible before the driver commits it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import Clock
from lakehouse_ray.kernels.alerts import alerts_of
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
    LOGS,
    QUALITY_LOG,
    SERIES,
    VERSION,
)
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.gaps import CAUSES
from lakehouse_ray.model.rhythm import About, Grid, Rhythm, rhythm_of
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.pipeline.execution import concerns_all
from lakehouse_ray.query import coverage, file_days
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.cross_checks import COMPARED, Account, cross_check
from lakehouse_ray.query.gap_facts import gather
from lakehouse_ray.query.gaps import find, labelled
from lakehouse_ray.query.pinned import Among, Kind, Pinned
from lakehouse_ray.query.scan import text
from lakehouse_ray.query.series_scan import scan_series
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.ledger import frame_schema, log_request

# What an assessment looks at: all of it at the snapshots that the driver pinned.
SEEN = (
    *(VIEWS[f"silver.{dataset.view}"] for dataset in DATASETS.values()),
    VIEWS["bronze.objects"],
    VIEWS["silver.quarantine"],
    VIEWS["gold.alerts"],
)
_DAY = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class AssessTask:
    """Some symbols of one kind.

    lives: `Pinned.lives` of all symbols of the kind, by which a gap is compared with others.
    accounts: What its bars are held against.
    """

    kind: Kind
    symbols: tuple[str, ...]
    lives: pl.DataFrame
    accounts: tuple[Account, ...]
    fingerprint: str

    def only(self, symbol: str) -> AssessTask:
        return AssessTask(self.kind, (symbol,), self.lives, self.accounts, self.fingerprint)


@dataclass(frozen=True)
class Failure:
    """A symbol that could not be assessed; what was known of it stays."""

    symbol: str
    reason: str
    detail: str


@dataclass
class Assessed:
    """requests: By table, written and not committed. assessments: Rows of ASSESSMENT_LOG."""

    requests: dict[str, list[CommitRequest]] = field(default_factory=dict)
    assessments: pl.DataFrame = field(
        default_factory=lambda: frame_schema(ASSESSMENT_LOG).to_frame()
    )
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Assessed) -> None:
        for name, requests in other.requests.items():
            self.requests.setdefault(name, []).extend(requests)
        self.assessments = pl.concat([self.assessments, other.assessments])
        self.failures += other.failures


class Assessor:
    """Assesses groups of symbols at pinned snapshots. For several threads.

    lanes: Groups looked at at once; others wait.
    """

    def __init__(
        self,
        writer: Writer,
        snapshots: Mapping[str, int | None],
        run_id: str,
        *,
        thresholds: Thresholds,
        lanes: int,
    ) -> None:
        self._writer = writer
        self._snapshots = snapshots
        self._run_id = run_id
        self._thresholds = thresholds
        self._lanes = threading.Semaphore(lanes)

    @cached_property
    def _pinned(self) -> Pinned:
        return Pinned(Reader(self._writer.settings).lake, SEEN, snapshots=self._snapshots)

    def assess(self, task: AssessTask) -> Assessed:
        """Assess a group; where that fails, each of its symbols by itself."""
        with self._lanes:
            return self._assess(task)

    def _assess(self, task: AssessTask) -> Assessed:
        try:
            findings = Findings.of(self._pinned, task, self._thresholds)
            return self._written(task, findings)
        except Exception as error:
            if concerns_all(error):
                raise
            if len(task.symbols) == 1:
                failure = Failure(task.symbols[0], type(error).__name__, str(error))
                return Assessed(failures=[failure])
        found = Assessed()
        for symbol in task.symbols:
            found.add(self._assess(task.only(symbol)))
        return found

    def _written(self, task: AssessTask, found: Findings) -> Assessed:
        clock: Clock = self._writer.clock
        moment = pl.lit(clock.now_us(), dtype=pl.Int64).cast(_DAY)
        stamped = {
            table.name: rows.with_columns(
                run_id=pl.lit(self._run_id), scored_at=moment, found_at=moment, raised_at=moment,
                assessed_at=moment,
            ).select(pl.col(name).cast(kind) for name, kind in frame_schema(table).items())
            for table, rows in found.tables(task)
        }  # fmt: skip
        result = Assessed(assessments=stamped[ASSESSMENT_LOG.name])
        partition = task.kind.market, task.kind.dataset.name
        for table in LOGS:
            rows = stamped[table.name]
            if rows.height:
                request_id = uuid.uuid4().hex[:16]
                request = log_request(table, self._writer.store, rows, partition, request_id)
                result.requests[table.name] = [request]
        return result


@dataclass(frozen=True)
class Findings:
    """What was found of a group of symbols, each frame with the columns of its log but the run."""

    gaps: pl.DataFrame
    differences: pl.DataFrame
    anomalies: pl.DataFrame
    scores: pl.DataFrame
    alerts: pl.DataFrame

    @classmethod
    def of(cls, pinned: Pinned, task: AssessTask, thresholds: Thresholds) -> Findings:
        """Look at the rows, what is missing, what others say, and the files; then score."""
        kind, symbols = task.kind, task.symbols
        chosen = task.lives.filter(pl.col("symbol").is_in(symbols))
        rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
        gaps = _gaps(pinned, task)
        scanned = scan_series(pinned, kind, chosen)
        differences, compared = cross_check(pinned, kind, chosen, task.accounts)
        days = coverage.of_kind(pinned, kind, chosen, Asked(symbols=symbols))
        missing = missing_by_day(gaps, long=is_long(rhythm))
        counts = _expected(rhythm, days, missing)
        refused = file_days.refused_days(pinned, kind, symbols)
        more_days, more_missing = _refused_whole(rhythm, counts, refused)
        counts = pl.concat([counts, more_days])
        missing = pl.concat([missing, more_missing])
        found = None if scanned.anomalies is None else _per_day(scanned.anomalies)
        for more in (
            _by_cause(missing),
            scanned.days.select("symbol", "day", "rows_flagged"),
            file_days.refused_rows(pinned, kind, symbols),
            compared if task.accounts else COMPARED.to_frame(),
            file_days.delays(pinned, kind, symbols, QualityWeights().lost_hours),
            *(() if found is None else (found,)),
        ):
            counts = _joined(counts, more)
        if found is not None:
            counts = counts.with_columns(pl.col("anomalies").fill_null(0))
        named = _named(kind, counts)
        scores = score_days(named.select(n for n in COUNTS_SCHEMA if n in named.columns))
        scores = scores.sort(KEYS).with_columns(
            codes=_listed("codes", ","), reasons=_listed("reasons", "; ")
        )
        return cls(
            gaps,
            differences.with_columns(dataset=pl.lit(kind.dataset.name)),
            _anomalies(kind, scanned.anomalies),
            scores,
            _alerts(pinned, kind, symbols, _judged(scores, named), thresholds),
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
            version=pl.lit(VERSION),
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
    return found.group_by("symbol", day=pl.col("time").dt.truncate("1d")).agg(
        anomalies=pl.len().cast(pl.Int64)
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
    """Days beyond a threshold that no alert has been raised for with the same reasons."""
    # A day without a score is one on which nothing could be expected.
    found = alerts_of(days.filter(pl.col("score").is_not_null()), thresholds)
    if found.is_empty():
        return found
    where = Among({"market": kind.market, "dataset": kind.dataset.name}, None, symbols)
    known = pinned.frame(
        "SELECT symbol, day, rule, codes FROM gold.alerts "
        f'WHERE {where.sql(ALERTS)} AND "interval" = {text(kind.interval or "")}',
        VIEWS["gold.alerts"],
        where,
    ).cast({"day": _DAY})
    return found.join(known, on=["symbol", "day", "rule", "codes"], how="anti", nulls_equal=True)
