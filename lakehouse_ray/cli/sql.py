"""`lakehouse sql`: a question in SQL, its answer on stdout."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.output import OutOption, OutputOption, RowsOption, choose_format, write

AsOfOption = Annotated[
    str,
    typer.Option("--as-of", help="Read tables as they were: a time, or the id of a snapshot."),
]


def sql(
    query: Annotated[str, typer.Argument(help="One statement; - reads it from stdin.")],
    output: OutputOption = None,
    out: OutOption = None,
    as_of: AsOfOption = "",
    rows: RowsOption = None,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Ask the lake in SQL (DuckDB's), over the schemas bronze, silver and gold. Times are UTC.

    Example: lakehouse sql "select symbol, max(high) from silver.klines where interval = '1h'
    group by symbol" --output csv
    """
    form = choose_format(output, out, as_json=json_)
    reader = Reader(settings_of(home=home))
    if query == "-":
        query = sys.stdin.read()
    note_empty(reader, quiet=quiet)
    with reader.lake.sql(query, as_of=as_of or None) as result:
        write(result, form, out, rows_max=rows, quiet=quiet)
    return endings.OK


def note_empty(reader: Reader, *, quiet: bool) -> None:
    """Say so where there is no lake: an answer of nothing might come from a mistyped home."""
    if not quiet and not reader.exists:
        typer.echo(
            f"note: there is no lake at {reader.settings.home} yet "
            "(LAKEHOUSE_HOME or --home says where; `lakehouse ingest` makes one)",
            err=True,
        )
