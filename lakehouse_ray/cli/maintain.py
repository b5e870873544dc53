"""`lakehouse maintain`: small files are written together, and what nobody needs goes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.progress import MaintenanceProgress
from lakehouse_ray.cli.quality_words import count
from lakehouse_ray.pipeline.maintenance import (
    STEPS,
    MaintenanceRequest,
    parse_steps,
)
from lakehouse_ray.pipeline.maintenance import (
    maintain as maintain_lake,
)
from lakehouse_ray.pipeline.maintenance_report import MaintenanceReport, TableReport

_STEPS_HELP = f"Of {', '.join(STEPS)}, by commas. Default: all."


def maintain(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Such as silver.klines_fine. Default: all.")
    ] = None,
    steps: Annotated[str, typer.Option(help=_STEPS_HELP)] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Write small files together, let old snapshots expire, remove files that nothing speaks of.

    Readers and writers may go on meanwhile. No row changes. Running it again changes nothing.

    Example: lakehouse maintain --dry-run
    """
    asked = [part.strip() for part in steps.split(",") if part.strip()]
    request = MaintenanceRequest(tuple(dict.fromkeys(tables or ())), parse_steps(asked), dry_run)
    request.shapes()
    writer = Writer(settings_of(home=home))
    with MaintenanceProgress(enabled=not (json_ or quiet)) as progress:
        report = maintain_lake(writer, request, progress)
    if json_:
        typer.echo(json.dumps(report.as_dict()))
    else:
        typer.echo("\n".join(_lines(report)))
    return endings.PARTIAL if report.partial else endings.OK


def _lines(report: MaintenanceReport) -> list[str]:
    lines = [f"NOT DONE: {why}" for why in report.failed]
    if report.folded is not None and report.folded.rows:
        verb = "would be folded" if report.dry_run else "folded"
        lines.append(f"{count(report.folded.rows, 'live row')} {verb} into the main tables")
    for table in report.tables:
        done = _done(table, report.dry_run)
        if done:
            lines.append(f"{table.table}: {', '.join(done)}")
        lines += [f"{table.table}: NOT DONE: {why}" for why in table.failed]
    lines.append(
        f"{count(len(report.tables), 'table')} looked after in {report.seconds:.1f} s"
        + ("; nothing was changed" if report.dry_run else "")
    )
    return lines


def _done(table: TableReport, dry_run: bool) -> list[str]:
    would = "would be " if dry_run else ""
    done = []
    if table.compacted:
        size = f"{table.compacted_bytes / 1e6:,.1f} MB"
        became = f", now {count(table.written, 'file')}" if table.written else ""
        done.append(f"{count(table.compacted, 'file')} ({size}) {would}written together{became}")
    if table.manifests_left < table.manifests:
        done.append(f"{count(table.manifests, 'manifest')} {would}written together")
    if table.expired:
        done.append(f"{table.expired:,} of {count(table.snapshots, 'snapshot')} {would}expired")
    if table.orphans:
        size = f"{table.orphan_bytes / 1e6:,.1f} MB"
        done.append(f"{count(table.orphans, 'file')} ({size}) {would}removed")
    if table.young:
        done.append(f"{count(table.young, 'file')} of no snapshot too young to remove")
    return done
