"""`lakehouse sql`: a question in SQL, its answer on stdout."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.output import (
    AsOfOption,
    OutOption,
    OutputOption,
    RowsOption,
    choose_format,
    note_empty,
)


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
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.cli.rows import write

    form = choose_format(output, out, as_json=json_)
    reader = Reader(settings_of(home=home))
    if query == "-":
        query = sys.stdin.read()
    if not quiet and not reader.exists:
        note_empty(reader.settings.home)
    with reader.lake.sql(query, as_of=as_of or None) as result:
        write(result, form, out, rows_max=rows, quiet=quiet)
    return endings.OK
