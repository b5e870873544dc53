"""`lakehouse datasets`: the data sets, and what the lake has of each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, settings_of
from lakehouse_ray.cli.output import Format, OutputOption, choose_format, note_empty
from lakehouse_ray.cli.table import aligned
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import format_time

if TYPE_CHECKING:
    import polars as pl

    from lakehouse_ray.query.contents import Contents


def datasets(
    output: OutputOption = None,
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """List the data sets, and what the lake has of each: symbols, rows, times, bytes, snapshots.

    JSON is one document, of tables and snapshots too; the other formats have a row per series.

    Example: lakehouse datasets --json
    """
    # Loaded when they are needed: help is quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.cli.rows import write
    from lakehouse_ray.query.contents import contents
    from lakehouse_ray.query.contents_document import contents_document

    form = choose_format(output, None, as_json=json_)
    reader = Reader(settings_of(home=home))
    if form is Format.TABLE and not reader.exists:
        note_empty(reader.settings.home)
    found = contents(reader.lake)
    if form is Format.JSON:
        typer.echo(json.dumps(contents_document(found)))
    elif form is Format.TABLE:
        typer.echo("\n".join(_lines(found)))
    else:
        with reader.lake.engine.hold(_frame(found)) as result:
            write(result, form, None, rows_max=None, quiet=True)
    return endings.OK


def _frame(found: Contents) -> pl.DataFrame:
    """A row per data set, market and interval; times are UTC."""
    import polars as pl

    snapshots = {fact.shape.name: fact.snapshots for fact in found.tables}
    rows = [
        (
            one.dataset.name, one.market, one.interval, one.symbols, one.rows,
            one.first_us, one.last_us, one.files, one.size_bytes,
            snapshots.get(one.dataset.table(one.interval).name, 0),
        )
        for one in found.series
    ]  # fmt: skip
    time = pl.Datetime("us", "UTC")
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "dataset": pl.String, "market": pl.String, "interval": pl.String,
        "symbols": pl.Int64, "rows": pl.Int64, "first": time, "last": time,
        "files": pl.Int64, "bytes": pl.Int64, "snapshots": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def _lines(found: Contents) -> list[str]:
    columns = (
        "dataset",
        "market",
        "interval",
        "symbols",
        "rows",
        "first",
        "last",
        "MB",
        "snapshots",
    )
    snapshots = {fact.shape.name: fact.snapshots for fact in found.tables}
    rows = [
        (
            one.dataset.name, one.market, one.interval or "", one.symbols, one.rows,
            format_time(one.first_us), format_time(one.last_us), round(one.size_bytes / 1e6, 1),
            snapshots.get(one.dataset.table(one.interval).name, 0),
        )
        for one in found.series
    ]  # fmt: skip
    stored = {one.dataset.name for one in found.series}
    absent = [
        _offer(dataset)
        for name, dataset in DATASETS.items()
        if name not in stored and dataset.archive
    ]
    lines = aligned(columns, rows) if rows else ["nothing is stored yet"]
    if absent:
        lines += ["", "not stored, but in the archive:", *(f"  {line}" for line in absent)]
    return lines


def _offer(dataset: Dataset) -> str:
    return f"{dataset.name} ({', '.join(dataset.archive)}): {dataset.doc}"
