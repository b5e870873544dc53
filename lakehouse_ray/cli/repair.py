"""`lakehouse repair`: lost files are taken out of their tables, and made anew."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.again import DONE, run_again
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.quality_words import count
from lakehouse_ray.pipeline.refetching import Refetched
from lakehouse_ray.pipeline.repairing import Repair, RepairReport
from lakehouse_ray.pipeline.repairing import repair as repair_lake


def repair(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every byte of every data file.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    from_archive: Annotated[
        bool,
        typer.Option(
            "--from-archive",
            help="First fetch raw objects that bronze has lost, where the archive still has the same.",
        ),
    ] = False,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Take lost data files out of their tables, and make their rows anew.

    Only where the rows can come back: from raw objects in bronze by an ingestion, or by a build.
    Ends with 0 where nothing is lost any more, with 3 where something is.

    Example: lakehouse repair --dry-run
    """
    writer = Writer(settings_of(home=home))
    report = repair_lake(writer, deep=deep, dry_run=dry_run, from_archive=from_archive)
    if not json_:
        typer.echo("\n".join(_lines(report)))
    codes: dict[str, int] = {}
    for command in [] if dry_run else report.then:
        codes[command] = run_again(shlex.split(command)[1:], writer.settings, silent=quiet or json_)
    if json_:
        typer.echo(json.dumps(report.as_dict() | {"codes": codes}))
    elif codes:
        typer.echo("\n".join(_ended(command, code) for command, code in codes.items()))
    whole = all(one.mended for one in report.repairs) and not (dry_run and report.repairs)
    whole = whole and (report.raw is None or report.raw.lost == report.raw.fetched)
    return endings.OK if whole and set(codes.values()) <= set(DONE) else endings.PARTIAL


def _ended(command: str, code: int) -> str:
    if code in DONE:
        return f"done: {command}"
    return f"FAILED ({code}), and its rows are missing until it is run: {command}"


def _lines(report: RepairReport) -> list[str]:
    lines = [f"looked at {count(report.tables, 'table')}"]
    if report.raw is not None:
        lines += _raw(report.raw, report.dry_run)
    for one in report.repairs:
        lines += _told(one, report.dry_run)
    if not report.repairs:
        lines.append("no data file is lost")
    return lines


def _raw(raw: Refetched, dry_run: bool) -> list[str]:
    if not raw.lost:
        return ["no raw object of the archive is lost"]
    lines = [f"bronze: {count(len(raw.lost), 'raw object')} lost"]
    lines += [f"    {path}" for path in raw.lost[:5]]
    if dry_run:
        return [*lines, "  would be fetched again from the archive"]
    lines.append(f"  {len(raw.fetched):,} fetched again from the archive")
    return lines + [f"  NOT FETCHED: {path}: {why}" for path, why in [*raw.refused.items()][:5]]


def _told(one: Repair, dry_run: bool) -> list[str]:
    lines = []
    if one.lost:
        lines.append(f"{one.table}: {count(len(one.lost), 'file')} lost, {one.rows:,} rows")
        lines += [f"    {path}" for path in one.lost[:5]]
    if one.set_back_to:
        lines.append(
            f"{one.table}: its metadata is lost; the version before is of {one.set_back_to}, and one "
            "commit is lost"
        )
    if one.refused:
        return [*lines, f"{one.table}: NOT MENDED: {one.refused}"]
    done = "would be" if dry_run else "are" if one.mended else "were not: another run was first;"
    what = f"  they {done} taken out of the table"
    if one.set_back_to:
        done = "would be" if dry_run else "is" if one.mended else "was not: another run was first;"
        what = f"  the catalog {done} set back"
    if one.objects:
        what += f"; {count(one.objects, 'raw object')} will be merged again from bronze"
    if one.answers:
        verb = "will be" if dry_run else "were"
        what += f"; {count(one.answers, 'answer')} of REST {verb} merged again from bronze"
    if one.frames:
        told = "" if dry_run else f", {one.live_rows:,} live rows"
        what += f"; {count(one.frames, 'object')} of captured frames read again{told}"
    if one.units:
        what += f"; {count(one.units, 'unit')} will be built again"
    if one.note:
        what += f"; {one.note}"
    return [*lines, what, *(f"  then: {command}" for command in one.then)]
