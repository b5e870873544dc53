"""`lakehouse coverage`: how much of each symbol's day is there."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lakehouse_ray.cli import unread
from lakehouse_ray.cli.filters import (
    DatasetFilter,
    EndFilter,
    IntervalFilter,
    MarketFilter,
    StartFilter,
    SymbolsFilter,
    read_filters,
)
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.output import (
    AsOfOption,
    Format,
    OutOption,
    OutputOption,
    choose_format,
    note_empty,
)
from lakehouse_ray.model.timespan import format_time

if TYPE_CHECKING:
    import polars as pl

    from lakehouse_ray.query.answered import Answered

HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Write the picture to this file, readable offline.")
]


def coverage(
    market: MarketFilter = "",
    dataset: DatasetFilter = "",
    interval: IntervalFilter = "",
    symbols: SymbolsFilter = "",
    start: StartFilter = "",
    end: EndFilter = "",
    html: HtmlOption = None,
    output: OutputOption = None,
    out: OutOption = None,
    as_of: AsOfOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Show rows per symbol and day against rows that were due: a heat map, days across.

    Days run from a symbol's first row to its last one. What is missing, and why: `lakehouse gaps`.
    Series with a file that cannot be read are named and left out; then the exit code is 3.

    Example: lakehouse coverage --market um --dataset klines --interval 1m --html coverage.html
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.cli.heatmap_html import html_map
    from lakehouse_ray.cli.rows import write
    from lakehouse_ray.cli.texts import put_text
    from lakehouse_ray.query.coverage import coverage as measure

    form = choose_format(output, out, as_json=json_)
    reader = Reader(settings_of(home=home))
    asked = read_filters(reader.clock, market, dataset, interval, symbols, start, end)
    if not quiet and not json_ and not reader.exists:
        note_empty(reader.settings.home)
    found = measure(reader.lake, asked, as_of or None)
    if html is not None:
        title = f"Coverage: {asked}" if str(asked) else "Coverage"
        made_at = format_time(reader.clock.now_us())
        put_text(html_map(found.rows, title, made_at, unread.lines(found)), html)
        if not quiet:
            typer.echo(f"wrote {html}", err=True)
    if form is Format.JSON:
        put_text(_document(found), out)
    elif form is not Format.TABLE or out is not None:
        with reader.lake.engine.hold(found.rows) as result:
            write(result, form, out, rows_max=None, quiet=True)
    elif html is None:
        _print_map(found.rows)
    unread.note(found)
    return unread.ending(found)


def _document(found: Answered) -> str:
    rows = [
        row | {"day": str(row["day"]), "interval": row["interval"] or None}
        for row in found.rows.iter_rows(named=True)
    ]
    document = {"v": 1, "coverage": rows} | unread.member(found)
    return json.dumps(document, ensure_ascii=False)


def _print_map(found: pl.DataFrame) -> None:
    from lakehouse_ray.cli.heatmap_text import style_of, text_map

    style = style_of(ascii_only=not can_draw(sys.stdout.encoding), colours=may_colour())
    width = shutil.get_terminal_size().columns
    for line in text_map(found, width, style):
        typer.echo(line, color=True)


def can_draw(encoding: str | None) -> bool:
    """Whether blocks can be written to stdout."""
    if os.environ.get("TERM") == "dumb":
        return False
    try:
        "█▓▒░×■…".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def may_colour() -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
