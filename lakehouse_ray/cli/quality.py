"""`lakehouse quality`: how good each symbol's day is, and why it is no better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from lakehouse_ray.cli.quality_words import listed
from lakehouse_ray.cli.texts import put_text
from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.timespan import format_time

if TYPE_CHECKING:
    from lakehouse_ray.query.asked import Asked

# Of symbols asked for, so many are named in a title.
_NAMED_MAX = 5


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
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with pictures, readable offline.")
    ] = None,
    report_json: Annotated[
        Path | None,
        typer.Option("--report-json", help="Write the document of --json to this file."),
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

    Example: lakehouse quality --market spot --dataset klines --interval 1h --html quality.html
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.assembly.writer import Writer
    from lakehouse_ray.cli.progress import AssessmentProgress
    from lakehouse_ray.cli.quality_document import Told, document_of, spelled
    from lakehouse_ray.cli.quality_html import html_report
    from lakehouse_ray.cli.quality_text import text_report
    from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
    from lakehouse_ray.query.quality import judge

    for path in (html, report_json):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise InvalidError(f"cannot write {path}", "name a file in a folder that exists")
    given = {} if threshold is None else {"threshold": threshold}
    settings = settings_of(home=home, address=address, quality=given)
    reader = Reader(settings)
    asked = read_filters(reader.clock, market, dataset, interval, symbols, start, end)
    with AssessmentProgress(enabled=not (json_ or quiet)) as progress:
        report = assess(Writer(settings), AssessmentRequest(asked, again), progress)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    verdict = judge(reader.lake, asked, settings.quality.threshold)
    if not verdict.totals["days"] and not report.partial:
        raise NotFoundError(
            f"no day is scored: {_about(asked) or 'everything stored'}",
            "`lakehouse coverage` shows the days that have rows",
        )
    told = Told(report, verdict, _about(asked), format_time(reader.clock.now_us()))
    if html is not None:
        put_text(html_report(told), html)
    if report_json is not None:
        put_text(spelled(document_of(told)), report_json)
    if json_:
        typer.echo(spelled(document_of(told)))
    else:
        typer.echo("\n".join(text_report(told)))
    for written in (html, report_json):
        if written is not None and not quiet and not json_:
            typer.echo(f"wrote {written}", err=True)
    if report.partial:
        return endings.PARTIAL
    return endings.QUALITY if verdict.poor.height else endings.OK


def _about(asked: Asked) -> str:
    """What was asked for, in words; empty: everything."""
    names = listed(asked.symbols, _NAMED_MAX)
    start = format_time(asked.start_us) if asked.start_us is not None else ""
    end = format_time(asked.end_us) if asked.end_us is not None else ""
    parts = (str(asked), names, f"from {start}" if start else "", f"before {end}" if end else "")
    return " ".join(part for part in parts if part)
