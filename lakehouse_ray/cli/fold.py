"""`lakehouse fold`: live rows into the main tables."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.quality_words import count
from lakehouse_ray.model.timespan import format_time, parse_time
from lakehouse_ray.pipeline import folding
from lakehouse_ray.pipeline.fold_report import FoldReport


def fold(
    until: Annotated[
        str,
        typer.Option(help="Fold rows before this instant. Default: the last hour that is over."),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Merge live rows of closed hours into the main tables, and drop them from the hot ones.

    What is asked of the lake is the same before, meanwhile and afterwards. Running it again changes
    nothing. Ends with 3 where files could not be read.

    Example: lakehouse fold --until 2024-06-01
    """
    writer = Writer(settings_of(home=home))
    moment = parse_time(until) if until else None
    report = folding.fold(writer, moment, dry_run=dry_run)
    if json_:
        typer.echo(json.dumps(_document(report, dry_run=dry_run)))
    elif not quiet:
        typer.echo("\n".join(_lines(report, dry_run=dry_run)))
    return endings.PARTIAL if report.unreadable else endings.OK


def _document(report: FoldReport, *, dry_run: bool) -> dict[str, object]:
    return {"v": 1, "dry_run": dry_run, **report.as_dict()}


def _lines(report: FoldReport, *, dry_run: bool) -> list[str]:
    verb = "would fold" if dry_run else "folded"
    lines = [
        f"{verb} {count(report.rows, 'live row')} before {format_time(report.until_us)}, "
        f"{count(report.files, 'file')}; {count(report.files_left, 'file')} of later rows stay"
    ]
    merged = report.merged
    if not dry_run:
        lines.append(
            f"{merged.rows:,} new, {merged.rows_replaced:,} replaced, {merged.rows_known:,} known, "
            f"{merged.rows_refused:,} refused, in {report.seconds:.1f} s"
        )
    return lines + [f"cannot be read: {one}" for one in report.unreadable]
