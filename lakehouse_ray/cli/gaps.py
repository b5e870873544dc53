"""`lakehouse gaps`: what is missing, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lakehouse_ray.cli import endings, unread
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

    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.query.answered import Answered


def gaps(
    market: MarketFilter = "",
    dataset: DatasetFilter = "",
    interval: IntervalFilter = "",
    symbols: SymbolsFilter = "",
    start: StartFilter = "",
    end: EndFilter = "",
    captured: Annotated[
        bool,
        typer.Option(
            "--captured", help="Instead, what captures of streams missed, and what became of it."
        ),
    ] = False,
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

    What `lakehouse stream` has missed is listed by --captured, of all data sets: open, filled,
    absent (REST lacks it, too), refused, no_history (REST has no past of it).

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
    from lakehouse_ray.query.stream_gaps import captured_gaps

    form = choose_format(output, out, as_json=json_)
    reader = Reader(settings_of(home=home))
    asked = read_filters(reader.clock, market, dataset, interval, symbols, start, end)
    if not quiet and not json_ and not reader.exists:
        note_empty(reader.settings.home)
    seen = captured_gaps(reader.lake, asked, as_of or None)
    if captured:
        _list_captured(reader, seen, form, out, rows, quiet=quiet or json_)
        return endings.OK
    found = find_gaps(reader.lake, asked, as_of or None)
    if form is Format.JSON:
        put_text(_document(found, seen), out)
    else:
        with reader.lake.engine.hold(_spoken(found.rows)) as result:
            write(result, form, out, rows_max=rows, quiet=True)
    if not quiet and not json_:
        _note(found.rows, without_rhythm(reader.lake, asked))
        _note_captured(seen)
    unread.note(found)
    return unread.ending(found)


def _list_captured(
    reader: Reader,
    seen: pl.DataFrame,
    form: Format,
    out: Path | None,
    rows: int | None,
    *,
    quiet: bool,
) -> None:
    from lakehouse_ray.cli.rows import write
    from lakehouse_ray.cli.texts import put_text

    if form is Format.JSON:
        put_text(json.dumps({"captured": _listed(seen)}, ensure_ascii=False), out)
    else:
        with reader.lake.engine.hold(_spoken(seen)) as result:
            write(result, form, out, rows_max=rows, quiet=True)
    if not quiet:
        _note_captured(seen, listed=True)


def _spoken(found: pl.DataFrame) -> pl.DataFrame:
    """The names that people and scripts are given."""
    import polars as pl

    return found.rename({"start_time": "start", "end_time": "end"}).with_columns(
        interval=pl.when(pl.col("interval") != "").then("interval")
    )


def _document(found: Answered, seen: pl.DataFrame) -> str:
    """`captured`: Of gaps that captures saw, how many are in which state; where there are any."""
    counted = {"captured": _states(seen)} if seen.height else {}
    told = {"gaps": _listed(found.rows)} | counted | unread.member(found)
    return json.dumps(told, ensure_ascii=False)


def _listed(found: pl.DataFrame) -> list[dict[str, object]]:
    from lakehouse_ray.model.timespan import format_time, to_us

    return [
        row | {"start": format_time(to_us(row["start"])), "end": format_time(to_us(row["end"]))}
        for row in _spoken(found).iter_rows(named=True)
    ]


def _states(seen: pl.DataFrame) -> dict[str, int]:
    return dict(seen.group_by("state").len().sort("len", "state", descending=[True, False]).rows())


def _note_captured(seen: pl.DataFrame, *, listed: bool = False) -> None:
    """Say what captures have missed, and how to see it."""
    states = ", ".join(f"{count:,} {state}" for state, count in _states(seen).items())
    where = "" if listed else "; `lakehouse gaps --captured` lists them"
    if states or listed:
        number = f"{seen.height:,} gap{'s' if seen.height != 1 else ''}" if states else "no gap"
        typer.echo(
            f"(captures of streams saw {number}{': ' if states else ''}{states}{where})", err=True
        )


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
