"""`lakehouse verify`: the lake checked against itself."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.output import note_empty
from lakehouse_ray.cli.quality_words import count

if TYPE_CHECKING:
    from lakehouse_ray.query.verification import Finding, Verification


def verify(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every byte and compute every sha256.")
    ] = False,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Check tables, ledger and files against each other; say what is wrong and what to do.

    Changes nothing. Ends with 3 where there is a problem, with 0 where there is none.

    Example: lakehouse verify --deep
    """
    # Loaded when it is needed: help is quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.query.verify import verify as verify_lake

    reader = Reader(settings_of(home=home))
    if not json_ and not reader.exists:
        note_empty(reader.settings.home)
    say = _silent if json_ or quiet else _say
    result = verify_lake(reader.lake, deep=deep, say=say)
    if json_:
        typer.echo(json.dumps(_document(result, deep=deep)))
    else:
        typer.echo("\n".join(_lines(result)))
    return endings.PARTIAL if result.problems else endings.OK


def _say(text: str) -> None:
    if sys.stderr.isatty():
        typer.echo(f"checking {text}", err=True)


def _silent(text: str) -> None:
    """Say nothing."""


def _document(result: Verification, *, deep: bool) -> dict[str, object]:
    return {
        "v": 1,
        "ok": not result.problems,
        "deep": deep,
        "tables": result.tables,
        "files": result.files,
        "rows": result.rows,
        "objects": result.objects,
        "findings": [dataclasses.asdict(finding) for finding in result.findings],
    }


def _lines(result: Verification) -> list[str]:
    lines = [
        f"checked {count(result.tables, 'table')}, {count(result.files, 'file')}, "
        f"{count(result.rows, 'row')}, {count(result.objects, 'object')}"
    ]
    for finding in result.findings:
        lines += _told(finding)
    problems = len(result.problems)
    lines.append(count(problems, "problem") if problems else "all is well")
    return lines


def _told(finding: Finding) -> list[str]:
    shown = list(finding.examples[:5])
    more = finding.count - len(shown)
    return [
        f"{finding.severity}: {finding.check}: {finding.count:,} {finding.what}",
        *(f"    {example}" for example in shown),
        *([f"    and {more:,} more"] if more else []),
        f"  -> {finding.mend}",
    ]
