"""What an answer leaves out because files cannot be read: on stderr, in documents, by exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from lakehouse_ray.cli import endings

if TYPE_CHECKING:
    from lakehouse_ray.query.answered import Answered

# Told on stderr; `--json` has all.
_TOLD_MAX = 20
_LESS = {"rows": "NOT READ", "causes": "WHY NOT TOLD"}


def ending(found: Answered) -> int:
    """The exit code."""
    return endings.OK if found.whole else endings.PARTIAL


def lines(found: Answered) -> list[str]:
    """A line for each series."""
    # Loaded when it is needed: help is quick.
    from lakehouse_ray.query.answered import series_name

    return [
        f"{_LESS[row['part']]}: {series_name(row)}: {row['reason']}"
        for row in found.unread.iter_rows(named=True)
    ]


def note(found: Answered) -> None:
    """Say it on stderr, also with `--quiet`: it is no progress."""
    told = lines(found)
    for line in told[:_TOLD_MAX]:
        typer.echo(line, err=True)
    if len(told) > _TOLD_MAX:
        typer.echo(f"… and {len(told) - _TOLD_MAX:,} more series; --json names all", err=True)


def member(found: Answered) -> dict[str, Any]:
    """The same for a document of `--json`, which has `unread` only where there is some."""
    rows = [
        row | {"interval": row["interval"] or None} for row in found.unread.iter_rows(named=True)
    ]
    return {"unread": rows} if rows else {}
