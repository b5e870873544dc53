"""`lakehouse datasets`: the data sets, and what the lake has of each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, settings_of
from lakehouse_ray.cli.output import note_empty
from lakehouse_ray.cli.table import aligned
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import format_time

if TYPE_CHECKING:
    from lakehouse_ray.query.contents import Contents


def datasets(home: HomeOption = "", json_: JsonOption = False, debug: DebugOption = False) -> int:
    """List the data sets, and what the lake has of each: symbols, rows, times, bytes, snapshots.

    Example: lakehouse datasets --json
    """
    # Loaded when they are needed: help is quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.query.contents import contents
    from lakehouse_ray.query.contents_document import contents_document

    reader = Reader(settings_of(home=home))
    if not json_ and not reader.exists:
        note_empty(reader.settings.home)
    found = contents(reader.lake)
    if json_:
        typer.echo(json.dumps(contents_document(found)))
    else:
        typer.echo("\n".join(_lines(found)))
    return endings.OK


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
