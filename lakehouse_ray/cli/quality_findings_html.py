"""What lies behind the scores: gaps, differences, anomalies, alerts; as tables of a page."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from lakehouse_ray.cli.markup import Markup, element
from lakehouse_ray.cli.quality_document import Told
from lakehouse_ray.cli.quality_parts import Column, left_out, more, named, rows_table
from lakehouse_ray.cli.quality_words import CAUSES, CHECKS, days, number, reasons_of, score, span


def findings(told: Told, rows_max: int) -> list[Markup]:
    """Return the sections. rows_max: Of each table."""
    return [
        *_gaps(told, rows_max),
        *_differences(told, rows_max),
        *_anomalies(told, rows_max),
        *_alerts(told, rows_max),
    ]


def _gaps(told: Told, rows_max: int) -> list[Markup]:
    verdict = told.verdict
    head = element("h2", "Gaps by cause")
    if verdict.gap_causes.is_empty():
        return [head, element("p", "No row is missing between the first and the last of a series.")]
    causes = (
        verdict.gap_causes.group_by("cause")
        .agg(
            pl.sum("gaps", "missing"),
            pl.concat_str("market", "dataset", "interval", separator=" ")
            .str.strip_chars()
            .unique(maintain_order=True)
            .alias("kinds"),
        )
        .sort("missing", "cause", descending=[True, False])
    )
    by_cause = [
        Column("cause", lambda row: element("code", row["cause"]), "text"),
        Column("gaps", lambda row: f"{row['gaps']:,}"),
        Column("rows missing", lambda row: f"{row['missing']:,}"),
        Column("of", lambda row: _some(row["kinds"]), "text"),
        Column("meaning", lambda row: CAUSES.get(row["cause"], ""), "text soft"),
    ]
    longest = [
        Column("series", named, "text name"),
        Column("when", lambda row: span(row["start_time"], row["end_time"]), "text when"),
        Column("rows", lambda row: f"{row['missing']:,}"),
        Column("cause", lambda row: element("code", row["cause"]), "text"),
        Column("evidence", lambda row: row["evidence"], "text soft"),
    ]
    return [
        head,
        rows_table(by_cause, causes),
        element("h3", "The longest"),
        rows_table(longest, verdict.gaps.head(rows_max)),
        *more(left_out(told, "gaps", rows_max), "select * from silver.gaps order by missing desc"),
    ]


def _differences(told: Told, rows_max: int) -> list[Markup]:
    verdict = told.verdict
    head = element("h2", "Where two accounts differ")
    if verdict.checks.is_empty():
        return [head, element("p", "No compared value differs, or nothing could be compared.")]
    counted = [
        Column("check", lambda row: element("code", row["check"]), "text"),
        Column("of", lambda row: _kind(row), "text"),
        Column("value", lambda row: element("code", row["column"]), "text"),
        Column("differences", lambda row: f"{row['differences']:,}"),
        Column("symbols", lambda row: f"{row['symbols']:,}"),
        Column("explained", lambda row: f"{row['explained']:,}"),
        Column("largest", lambda row: _relative(row["relative_max"])),
    ]
    single = [
        Column("series", named, "text name"),
        Column("when", lambda row: _moment(row["time"]), "text when"),
        Column("value", lambda row: element("code", row["column"]), "text"),
        Column("one account", lambda row: _side(row, "left")),
        Column("the other", lambda row: _side(row, "right")),
        Column("relative", lambda row: _relative(row["relative"])),
        Column("why", lambda row: row["reason"] or "not known", "text soft"),
    ]
    sides = "; ".join(
        f"{check}: {CHECKS[check][0]}, then {CHECKS[check][1]}"
        for check in verdict.checks["check"].unique(maintain_order=True)
        if check in CHECKS
    )
    return [
        head,
        rows_table(counted, verdict.checks.head(rows_max)),
        *more(
            verdict.checks.height - rows_max,
            'select "check", market, "interval", "column", count(*) from gold.cross_checks group by all',
        ),
        element("h3", "The largest ", element("small", sides)),
        rows_table(single, verdict.differences.head(rows_max)),
        *more(
            left_out(told, "differences", rows_max),
            "select * from gold.cross_checks order by relative desc",
        ),
    ]


def _anomalies(told: Told, rows_max: int) -> list[Markup]:
    verdict = told.verdict
    head = element("h2", "Anomalies by method")
    if verdict.anomaly_methods.is_empty():
        return [head, element("p", "No bar looks unlikely.")]
    counted = [
        Column("method", lambda row: element("code", row["method"]), "text"),
        Column("findings", lambda row: f"{row['findings']:,}"),
        Column("series", lambda row: f"{row['series']:,}"),
        Column("furthest", lambda row: f"{row['score_max']:,.2f}"),
    ]
    single = [
        Column("method", lambda row: element("code", row["method"]), "text"),
        Column("series", named, "text name"),
        Column("when", lambda row: _moment(row["time"]), "text when"),
        Column("score", lambda row: f"{row['score']:,.2f}"),
        Column("there", lambda row: _short(row["value"])),
        Column("expected", lambda row: _short(row["expected"])),
        Column("why", lambda row: row["reason"], "text soft"),
    ]
    return [
        head,
        element("p", "Markets jump: a finding is a bar to look at, not an error. A score of 1 is at "
                     "the method's limit."),
        rows_table(counted, verdict.anomaly_methods.head(rows_max)),
        element("h3", "The most unlikely of each"),
        rows_table(single, verdict.anomalies.head(rows_max)),
        *more(
            left_out(told, "anomalies", rows_max), "select * from gold.anomalies order by score desc"
        ),
    ]  # fmt: skip


def _alerts(told: Told, rows_max: int) -> list[Markup]:
    verdict = told.verdict
    head = element("h2", "Alerts ", element("small", "the newest first"))
    if verdict.alerts.is_empty():
        return [head, element("p", "None was raised.")]
    columns = [
        Column("raised", lambda row: _moment(row["raised_at"]), "text when"),
        Column("series", named, "text name"),
        Column(
            "days", lambda row: days(row["first_day"], row["last_day"], row["days"]), "text when"
        ),
        Column("score", lambda row: score(row["least"])),
        Column("first reason", lambda row: _first(row["reasons"]), "text soft"),
    ]
    return [
        head,
        element("p", f"This run raised {told.report.alerts:,}, one for days in a row beyond a "
                     "threshold for the same reasons."),
        rows_table(columns, verdict.alerts.head(rows_max)),
        *more(
            left_out(told, "alerts", rows_max), "select * from gold.alerts order by raised_at desc"
        ),
    ]  # fmt: skip


def _some(kinds: list[str]) -> str:
    shown = ", ".join(kinds[:4])
    return shown + (f" and {len(kinds) - 4} more" if len(kinds) > 4 else "")


def _kind(row: dict[str, Any]) -> str:
    return " ".join(part for part in (row["market"], row["interval"]) if part)


def _first(reasons: str | None) -> str:
    found = reasons_of(reasons)
    return found[0][1] if found else ""


def _side(row: dict[str, Any], side: str) -> str:
    return "no row" if row[side] is None else number(row[side])


def _relative(value: float | None) -> str:
    return "-" if value is None else f"{value:.3%}" if value >= 1e-5 else f"{value:.1e}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if not moment.second else f"{moment:%Y-%m-%d %H:%M:%S}"
