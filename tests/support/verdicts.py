"""Verdicts on made findings: the real questions, put to tables in DuckDB's memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import polars as pl

from lakehouse_ray.cli.quality_document import Told
from lakehouse_ray.model.assessment import ALERTS
from lakehouse_ray.model.crosschecks import CROSS_CHECKS
from lakehouse_ray.model.gaps import GAPS
from lakehouse_ray.model.quality import ANOMALIES, QUALITY
from lakehouse_ray.model.table import Table
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.query.quality import Limits, Verdict, sum_up
from lakehouse_ray.storage.frames import frame_schema

START = datetime(2024, 1, 1, tzinfo=UTC)
_TABLES: Mapping[str, Table] = {
    "gold.quality": QUALITY,
    "silver.gaps": GAPS,
    "gold.cross_checks": CROSS_CHECKS,
    "gold.anomalies": ANOMALIES,
    "gold.alerts": ALERTS,
}


def score_row(
    symbol: str, day: int, score: float | None, code: str = "UNKNOWN", **more: Any
) -> dict[str, Any]:
    """A row of gold.quality, `day` days after START, that lost by one code."""
    lost = score is not None and score < 1
    return {
        "market": "spot", "dataset": "klines", "symbol": symbol, "interval": "1h",
        "day": START + timedelta(days=day), "score": score, "completeness": score or 0.0,
        "rows_expected": 24, "rows": 24, "rows_missing": 0, "rows_flagged": 0,
        "rows_quarantined": 0, "differing": 0,
        "codes": code if lost else None,
        "reasons": f"{code}: some of 24 rows are missing (-{1 - score:.4f})"
        if score is not None and lost else None,
        "run_id": "r", "scored_at": START,
    } | more  # fmt: skip


def gap_row(symbol: str, start: datetime, end: datetime, cause: str, **more: Any) -> dict[str, Any]:
    return {
        "market": "spot", "dataset": "klines", "symbol": symbol, "interval": "1h",
        "start_time": start, "end_time": end, "missing": (end - start) // timedelta(hours=1),
        "cause": cause, "evidence": f"evidence of {symbol}",
    } | more  # fmt: skip


def difference_row(symbol: str, hour: int, **more: Any) -> dict[str, Any]:
    return {
        "market": "spot", "check": "finer_coarser", "symbol": symbol, "interval": "1h",
        "time": START + timedelta(hours=hour), "column": "trades", "left": 22852.0,
        "right": 22816.0, "difference": 36.0, "relative": 36 / 22852, "tolerance": 0.0,
        "verdict": "differs", "reason": "",
    } | more  # fmt: skip


def anomaly_row(symbol: str, hour: int, method: str, score: float, **more: Any) -> dict[str, Any]:
    return {
        "market": "spot", "dataset": "klines", "symbol": symbol, "interval": "1h",
        "time": START + timedelta(hours=hour), "method": method, "score": score, "value": 2.0,
        "expected": 1.0, "reason": f"{method} of {symbol}", "run_id": "r", "found_at": START,
    } | more  # fmt: skip


def alert_row(
    symbol: str, day: int, score: float, code: str = "UNKNOWN", *, days: int = 1
) -> dict[str, Any]:
    """A row of gold.alerts that begins `day` days after START."""
    chosen = score_row(symbol, day, score, code)
    names = [name for name in ALERTS.names if name in chosen]
    return {n: chosen[n] for n in names} | {
        "threshold": 0.9, "raised_at": START, "rule": "score", "value": score,
        "last_day": START + timedelta(days=day + days - 1), "days": days,
        "worst_day": chosen["day"],
    }  # fmt: skip


def verdict_of(
    scores: Iterable[dict[str, Any]],
    *,
    gaps: Iterable[dict[str, Any]] = (),
    differences: Iterable[dict[str, Any]] = (),
    anomalies: Iterable[dict[str, Any]] = (),
    alerts: Iterable[dict[str, Any]] = (),
    threshold: float = 0.9,
    limits: Limits | None = None,
) -> Verdict:
    """Sum up these rows."""
    found = dict(zip(_TABLES, (scores, gaps, differences, anomalies, alerts), strict=True))
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'; CREATE SCHEMA gold; CREATE SCHEMA silver")
        for name, rows in found.items():
            schema = frame_schema(_TABLES[name])
            frame = pl.DataFrame(list(rows), schema=schema)
            engine.register("given", frame.to_arrow())
            engine.execute(f"CREATE TABLE {name} AS SELECT * FROM given")

        def ask(view: str, query: str) -> pl.DataFrame:
            filled = re.sub(r"\{(days?|time|start_time)\}", "true", query.replace("{view}", view))
            return engine.sql(filled).pl()

        return sum_up(ask, threshold, limits or Limits())


def told_of(verdict: Verdict, *, about: str = "", **report: Any) -> Told:
    return Told(AssessmentReport(run_id="run-1", **report), verdict, about, "2024-06-01T12:34:56Z")
