"""The report of quality for a terminal of 100 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

import polars as pl

from lakehouse_ray.cli.quality_advice import Task
from lakehouse_ray.cli.quality_document import Told, evidence_of
from lakehouse_ray.cli.quality_words import (
    CAUSES,
    count,
    days,
    listed,
    name_of,
    plain,
    reasons_of,
    score,
    span,
)

WIDTH = 100
_OPTION = re.compile(r" (?=--)")
# Most lines of each list.
_SERIES_MAX, _SPANS_MAX, _REASONS_MAX, _TASKS_MAX, _CAUSES_MAX = 15, 10, 3, 8, 8


def text_report(told: Told) -> list[str]:
    """Return its lines: is it fine, what is worst, what to do."""
    report, verdict = told.report, told.verdict
    about = f"Quality of {told.about or 'everything stored'}"
    lines = [
        *_wrapped(f"{about}: {told.headline}."),
        *_wrapped(
            f"{report.assessed:,} series assessed ({count(report.rows, 'row')}), "
            f"{report.current:,} as they were"
            + (f", {report.failed:,} FAILED" if report.failed else "")
        ),
    ]
    if report.alerts_sent or report.alerts_waiting:
        lines.append(
            f"{count(report.alerts_sent, 'alert')} sent, {report.alerts_waiting:,} waiting"
        )
    for example in report.examples[:5]:
        lines += _wrapped(
            f"{example['reason']}: {plain(example['series'])}: {plain(example['detail'])}", "  "
        )
    return [
        *lines,
        *_series(verdict.series),
        *_spans(told),
        *_gaps(verdict.gap_causes),
        *_others(told),
        *_tasks(told.tasks),
    ]


def _series(series: pl.DataFrame) -> Iterator[str]:
    if series.is_empty():
        return
    yield ""
    yield "  mean    least     days  under  series, the worst first"
    for row in series.head(_SERIES_MAX).iter_rows(named=True):
        yield _cut(
            f"  {score(row['mean']):<6}  {score(row['least']):<6}  {row['days']:>6,} {row['poor']:>6,}"
            f"  {name_of(row)}"
        )
    more = series.slice(_SERIES_MAX)
    if more.height:
        poor = int(more["poor"].sum())
        least = score(more["least"].min())  # type: ignore[arg-type]
        said = f"{count(poor, 'day')} under" if poor else f"none under, least {least}"
        yield f"  and {more.height:,} more series ({said})"


def _spans(told: Told) -> Iterator[str]:
    spans, all_ = told.verdict.spans, int(str(told.verdict.totals["spans"]))
    if spans.is_empty():
        return
    yield ""
    yield f"Days under {told.verdict.threshold:g}, the worst first"
    for row in spans.head(_SPANS_MAX).iter_rows(named=True):
        when = days(row["first_day"], row["last_day"], row["days"])
        yield _cut(f"  {score(row['least'])}  {name_of(row)}  {when}")
        found = reasons_of(row["reasons"])
        for _, sentence, _ in found[:_REASONS_MAX]:
            yield from _wrapped(sentence, " " * 10)
        if len(found) > _REASONS_MAX:
            yield f"          and {count(len(found) - _REASONS_MAX, 'smaller reason')}"
        if known := evidence_of(told.verdict.gaps, row):
            yield from _wrapped(known, " " * 10)
    if all_ > _SPANS_MAX:
        yield f"  and {all_ - _SPANS_MAX:,} more: ask gold.quality, or write --html"


def _gaps(causes: pl.DataFrame) -> Iterator[str]:
    if causes.is_empty():
        return
    summed = (
        causes.group_by("cause")
        .agg(pl.sum("gaps", "missing"))
        .sort("missing", "cause", descending=[True, False])
    )
    yield ""
    yield "Gaps by cause"
    for cause, gaps, missing in summed.head(_CAUSES_MAX).iter_rows():
        meant = CAUSES.get(cause, "")
        yield from _wrapped(
            f"{cause}: {count(missing, 'row')} in {count(gaps, 'gap')}; {meant}", "  "
        )


def _others(told: Told) -> Iterator[str]:
    totals = told.verdict.totals
    parts = [
        count(int(str(totals[name])), one)
        for name, one in (("differences", "cross-check difference"), ("anomalies", "anomaly"))
    ]
    parts[1] = parts[1].replace("anomalys", "anomalies")
    yield ""
    yield from _wrapped(
        f"{', '.join(parts)} (gold.cross_checks, gold.anomalies; --html shows them)"
    )


def _tasks(tasks: list[Task]) -> Iterator[str]:
    yield ""
    if not tasks:
        yield "Nothing to do."
        return
    yield "What to do"
    for task in tasks[:_TASKS_MAX]:
        what = " ".join(part for part in (task.market, task.dataset, task.interval) if part)
        yield from _wrapped(
            f"{task.title}: {what} {listed(task.symbols, 5)}: {count(task.rows, 'row')}, "
            + (f"{task.ranges:,} ranges in " if task.ranges > 1 else "")
            + f"{span(task.start, task.end)}: {task.reason}",
            "  ",
        )
        for command in task.commands:
            yield from _command(command)
    if len(tasks) > _TASKS_MAX:
        yield f"  and {len(tasks) - _TASKS_MAX:,} more: --html or --report-json has them"


def _command(command: str) -> Iterator[str]:
    """In lines that can be copied, each ending before an option; a text in quotes stays whole."""
    line = ""
    for part in [command] if " sql " in command else _OPTION.split(command):
        if line and len(line) + 1 + len(part) > WIDTH - 8:
            yield f"      {line} \\"
            line = f"  {part}"
        else:
            line = f"{line} {part}" if line else part
    yield f"      {line}"


def _wrapped(line: str, indent: str = "") -> list[str]:
    more = indent + "  "
    return textwrap.wrap(
        line, WIDTH, initial_indent=indent, subsequent_indent=more, break_on_hyphens=False
    )


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
