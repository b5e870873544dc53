"""`lakehouse gaps`: what is missing, and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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
    RowsOption,
    choose_format,
    note_empty,
)

if TYPE_CHECKING:
    import polars as pl

    from lakehouse_ray.query.answered import Answered


def gaps(
    market: MarketFilter = "",
    dataset: DatasetFilter = "",
    interval: IntervalFilter = "",
    symbols: SymbolsFilter = "",
    start: StartFilter = "",
    end: EndFilter = "",
    output: OutputOption = None,
    out: OutOption = None,
    as_of: AsOfOption = "",
    rows: RowsOption = None,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """List rows that are missing between the first and the last one of each symbol, and why.

    Without options: of everything stored. With a range: in all of it, also before a symbol's first
    row and after its last one. Data sets whose rows come when something happens have no gaps.

    What `lakehouse stream` has missed, and whether it came later, is in silver.stream_gaps (SQL).

    Causes: outage, archive_hole, no_trades, not_listed, delisted, halted, own_loss, unknown.
    Series with a file that cannot be read are named and left out; then the exit code is 3.

    Example: lakehouse gaps --market spot --dataset klines --interval 1h --symbols BTCUSDT
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.cli.rows import write
    from lakehouse_ray.cli.texts import put_text
    from lakehouse_ray.query.gaps import gaps as find_gaps
    from lakehouse_ray.query.gaps import without_rhythm

    form = choose_format(output, out, as_json=json_)
    reader = Reader(settings_of(home=home))
    asked = read_filters(reader.clock, market, dataset, interval, symbols, start, end)
    if not quiet and not json_ and not reader.exists:
        note_empty(reader.settings.home)
    found = find_gaps(reader.lake, asked, as_of or None)
    if form is Format.JSON:
        put_text(_document(found), out)
    else:
        with reader.lake.engine.hold(_spoken(found.rows)) as result:
            write(result, form, out, rows_max=rows, quiet=True)
    if not quiet and not json_:
        _note(found.rows, without_rhythm(reader.lake, asked))
    unread.note(found)
    return unread.ending(found)


def _spoken(found: pl.DataFrame) -> pl.DataFrame:
    """The names that people and scripts are given."""
    import polars as pl

    return found.rename({"start_time": "start", "end_time": "end"}).with_columns(
        interval=pl.when(pl.col("interval") != "").then("interval")
    )


def _document(found: Answered) -> str:
    from lakehouse_ray.model.timespan import format_time, to_us

    rows = [
        row | {"start": format_time(to_us(row["start"])), "end": format_time(to_us(row["end"]))}
        for row in _spoken(found.rows).iter_rows(named=True)
    ]
    return json.dumps({"gaps": rows} | unread.member(found), ensure_ascii=False)


def _note(found: pl.DataFrame, eventful: list[str]) -> None:
    """Say what was found in one line, and what cannot have gaps."""
    counts = found.group_by("cause").len().sort("len", "cause", descending=[True, False])
    causes = ", ".join(f"{count:,} {cause}" for cause, count in counts.iter_rows())
    number = f"{found.height:,} gap{'s' if found.height != 1 else ''}" if found.height else "no gap"
    typer.echo(f"({number}{': ' if causes else ''}{causes})", err=True)
    if eventful:
        typer.echo(
            f"(no rhythm, so no gaps to find: {', '.join(eventful)}; "
            "`lakehouse coverage` shows the days that have rows)",
            err=True,
        )
