"""`lakehouse quality`: how good each symbol's day is, and why it is no better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.filters import (
    DatasetFilter,
    EndFilter,
    IntervalFilter,
    MarketFilter,
    StartFilter,
    SymbolsFilter,
    read_filters,
)
from lakehouse_ray.cli.options import (
    AddressOption,
    DebugOption,
    HomeOption,
    JsonOption,
    QuietOption,
    settings_of,
)
from lakehouse_ray.cli.texts import put_text

if TYPE_CHECKING:
    from lakehouse_ray.pipeline.assessment_report import AssessmentReport
    from lakehouse_ray.query.quality import Verdict

# Of days and of what to do, so many are printed; the report has up to so many.
_SHOWN_MAX, _REPORTED_MAX = 15, 10_000


def quality(
    market: MarketFilter = "",
    dataset: DatasetFilter = "",
    interval: IntervalFilter = "",
    symbols: SymbolsFilter = "",
    start: StartFilter = "",
    end: EndFilter = "",
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Days that score less fail. [default: quality.threshold]"),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Assess what has not changed, too.")
    ] = False,
    report_json: Annotated[
        Path | None, typer.Option("--report-json", help="Write the report to this file.")
    ] = None,
    address: AddressOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Assess what has changed; print the worst days, why, and what to do about it.

    Series are assessed as a whole; --start and --end choose the days that are shown and judged.
    Ends with code 5 if any of them scores less than the threshold. Formula: docs/quality.md.

    Example: lakehouse quality --market spot --dataset klines --interval 1h --start 2024-01
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.assembly.writer import Writer
    from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
    from lakehouse_ray.query.quality import judge

    given = {} if threshold is None else {"threshold": threshold}
    settings = settings_of(home=home, address=address, quality=given)
    reader = Reader(settings)
    asked = read_filters(reader.clock, market, dataset, interval, symbols, start, end)
    report = assess(Writer(settings), AssessmentRequest(asked, again))
    limit = settings.quality.threshold
    verdict = judge(reader.lake, asked, limit)
    document = _document(report, verdict, limit)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if report_json is not None:
        put_text(json.dumps(document, default=str, ensure_ascii=False), report_json)
    if json_:
        typer.echo(json.dumps(document, default=str, ensure_ascii=False))
    else:
        typer.echo("\n".join(_lines(report, verdict, limit)))
    if report.partial:
        return endings.PARTIAL
    return endings.QUALITY if verdict.poor.height else endings.OK


def _document(report: AssessmentReport, verdict: Verdict, threshold: float) -> dict[str, Any]:
    return {
        "v": 1,
        "threshold": threshold,
        "run": report.as_dict(),
        "series": verdict.series.to_dicts(),
        "days_under": verdict.poor.height,
        "worst_days": verdict.poor.head(_REPORTED_MAX).to_dicts(),
        "recommendations": verdict.advice.head(_REPORTED_MAX).to_dicts(),
    }


def _lines(report: AssessmentReport, verdict: Verdict, threshold: float) -> list[str]:
    lines = [
        f"{report.assessed:,} series assessed ({report.rows:,} rows), {report.current:,} as they were"
        + (f", {report.failed:,} FAILED" if report.failed else "")
    ]
    lines += [f"  {e['reason']}: {e['series']}: {e['detail']}" for e in report.examples[:5]]
    if report.alerts_sent or report.alerts_waiting:
        lines.append(f"{report.alerts_sent:,} alerts sent, {report.alerts_waiting:,} waiting")
    lines += ["", "score mean, least, days, under the threshold"]
    for row in verdict.series.iter_rows(named=True):
        mean, least = (f"{row[n]:.4f}" if row[n] is not None else "-" for n in ("mean", "least"))
        lines.append(f"  {mean}  {least}  {row['days']:>6,}  {row['poor']:>5,}  {_name(row)}")
    if verdict.poor.height:
        lines += ["", f"{verdict.poor.height:,} days under {threshold:g}, the worst first"]
        for row in verdict.poor.head(_SHOWN_MAX).iter_rows(named=True):
            lines.append(f"  {row['score']:.4f}  {row['day']:%Y-%m-%d}  {_name(row)}")
            lines += [f"      {reason}" for reason in (row["reasons"] or "").split("; ")]
    if verdict.advice.height:
        lines += ["", f"{verdict.advice.height:,} things to do, the first of each kind"]
        first = verdict.advice.group_by("action", maintain_order=True).head(5)
        for row in first.iter_rows(named=True):
            span = f"{row['start']:%Y-%m-%dT%H:%M} to {row['end']:%Y-%m-%dT%H:%M}"
            lines.append(f"  {row['action']}  {_name(row)}  {span}: {row['reason']}")
    return lines


def _name(row: dict[str, Any]) -> str:
    names = ("market", "dataset", "interval", "symbol")
    return " ".join(row[name] for name in names if row[name])
