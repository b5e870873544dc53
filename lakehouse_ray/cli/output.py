"""How a reading command is asked to write, and what it says when there is nothing to read.

Loads no engine: what writes is `rows`, which commands load when they run, so that help is quick.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lakehouse_ray.errors import InvalidError


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


BINARY = (Format.PARQUET, Format.ARROW)
_BY_SUFFIX = {
    ".json": Format.JSON,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".arrows": Format.ARROW,
}

OutputOption = Annotated[
    Format | None,
    typer.Option("--output", "-o", help="How rows are written. [default: table, or by --out]"),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write to this file; it appears when it is complete.")
]
RowsOption = Annotated[
    int | None,
    typer.Option(
        "--rows", min=0, help="Most rows of a table; 0: all. [default: 100 on a terminal, else all]"
    ),
]
AsOfOption = Annotated[
    str,
    typer.Option("--as-of", help="Read tables as they were: a time, or the id of a snapshot."),
]


def choose_format(output: Format | None, out: Path | None, *, as_json: bool) -> Format:
    """Settle what `--output`, `--json` and the name of the file ask for."""
    if as_json:
        if output not in (None, Format.JSON):
            raise InvalidError(f"--json and --output {output} exclude each other", "give one")
        return Format.JSON
    if output is not None:
        return output
    return _BY_SUFFIX.get(out.suffix.lower(), Format.TABLE) if out is not None else Format.TABLE


def note_empty(home: Path) -> None:
    """Say that there is no lake: an answer of nothing might come from a mistyped home."""
    typer.echo(
        f"note: there is no lake at {home} yet "
        "(LAKEHOUSE_HOME or --home says where; `lakehouse ingest` makes one)",
        err=True,
    )
