"""What a run of `lakehouse quality` tells, as one document; text and page say the same."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any, Literal

import polars as pl

from lakehouse_ray.cli.quality_advice import Task, tasks_of
from lakehouse_ray.cli.quality_words import count, days, name_of, reasons_of
from lakehouse_ray.model.assessment import SERIES
from lakehouse_ray.model.timespan import format_time, to_us
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.query.quality import Verdict

# Of what to do, so many rows are reported.
_REPORTED_MAX = 10_000

State = Literal["good", "poor", "partial"]


@dataclass(frozen=True)
class Told:
    """What is told.

    about: What was asked for, in words; empty: everything.
    made_at: When, ISO.
    """

    report: AssessmentReport
    verdict: Verdict
    about: str
    made_at: str

    @cached_property
    def tasks(self) -> list[Task]:
        return tasks_of(self.verdict.advice)

    @property
    def state(self) -> State:
        if self.report.partial:
            return "partial"
        return "poor" if self.verdict.totals["poor"] else "good"

    @property
    def headline(self) -> str:
        """Is it fine?"""
        totals, limit = self.verdict.totals, f"{self.verdict.threshold:g}"
        scored = int(str(totals["scored"]))
        if totals["poor"]:
            text = f"{totals['poor']:,} of {count(scored, 'day')} score less than {limit}"
        elif scored:
            days = count(scored, "day scores", "days score")
            text = f"Fine: {'all ' if scored > 1 else ''}{days} {limit} or more"
        else:
            text = "No day has a score"
        if self.report.partial:
            text += f"; {count(self.report.failed, 'series', 'series')} could not be assessed"
        return text

    @property
    def worst(self) -> tuple[str, str]:
        """The series and days that are worst, and why; empty where no day is poor."""
        verdict = self.verdict
        if verdict.spans.is_empty():
            return "", ""
        row = verdict.spans.row(0, named=True)
        told = [text for _, text, _ in reasons_of(row["reasons"])[:1]]
        known = evidence_of(verdict.gaps, row)
        when = days(row["first_day"], row["last_day"], row["days"])
        return f"{name_of(row)}, {when}", "; ".join([*told, *([known] if known else [])])


def evidence_of(gaps: pl.DataFrame, span: Mapping[str, Any]) -> str:
    """What is known of the longest gap within some days of a series; empty where there is none.

    gaps: `Verdict.gaps`, the longest first. span: A row of `Verdict.spans`.
    """
    start = datetime.combine(span["first_day"], time(), UTC)
    end = datetime.combine(span["last_day"], time(), UTC) + timedelta(days=1)
    found = gaps.filter(
        *(pl.col(name) == span[name] for name in SERIES),
        pl.col("start_time") < end,
        pl.col("end_time") > start,
    )
    return str(found["evidence"][0]) if found.height else ""


def document_of(told: Told) -> dict[str, Any]:
    """Return the document of `--json` and `--report-json`, as docs/quality.md describes it."""
    verdict = told.verdict
    rows = {
        "kinds": verdict.kinds,
        "series": verdict.series,
        "worst_days": verdict.poor,
        "worst_spans": verdict.spans,
        "losses": verdict.losses,
        "distribution": verdict.distribution,
        "gap_causes": verdict.gap_causes,
        "gaps": verdict.gaps,
        "checks": verdict.checks,
        "differences": verdict.differences,
        "anomaly_methods": verdict.anomaly_methods,
        "anomalies": verdict.anomalies,
        "alerts": verdict.alerts,
        "recommendations": verdict.advice.head(_REPORTED_MAX),
    }
    return {
        "v": 1,
        "about": told.about,
        "made_at": told.made_at,
        "state": told.state,
        "headline": told.headline,
        "threshold": verdict.threshold,
        "run": _plain(told.report.as_dict()),
        "totals": _plain(dict(verdict.totals)),
        "days_under": verdict.totals["poor"],
        **{name: _plain(frame.to_dicts()) for name, frame in rows.items()},
        "tasks": _plain([dataclasses.asdict(task) for task in told.tasks[:_REPORTED_MAX]]),
    }


def spelled(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Times as ISO, and what JSON cannot say (NaN, infinity) as null."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return format_time(to_us(value))
    if isinstance(value, date):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
