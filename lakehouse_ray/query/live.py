"""Live rows beside the main tables: which of them a read sees.

Of the hot table's rows of one key the best one counts, by the rule of `silver.resolve`; a row of a
main table with that key hides them all. So it makes no difference whether a row has been merged into
the main tables, whether it has been dropped from the hot one yet, or whether the archive has its own.
That holds at any instant, since the hot table is pinned first (`pins`).

A read that touches no file of a hot table is what it would be without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from pyiceberg.manifest import DataFile

from lakehouse_ray.model.dataset import PRECEDENCE, Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import EVERYTHING, Where, files_sql, quoted, timestamp
from lakehouse_ray.storage.files import FileEntry, file_entry
from lakehouse_ray.storage.schemas import iceberg_schema

# By table: the files that are read.
Planned = Mapping[str, Sequence[DataFile]]

_OF_HOT: Mapping[str, Dataset] = MappingProxyType(
    {d.hot_table.name: d for d in DATASETS.values() if d.hot_table is not None}
)
_DAY = "_day"


def plan_live(
    pins: Mapping[str, Pin], where: Where, plan: Callable[[Pin, Where], list[DataFile]]
) -> dict[str, list[DataFile]]:
    """The files of pinned tables that may hold wanted rows, or rows that hide those.

    plan: Of one table, such as `Engine.plan`.
    """
    found: dict[str, list[DataFile]] = {}
    for name, dataset in _OF_HOT.items():
        if name not in pins:
            continue
        around = _around(dataset, where)
        found[name] = plan(pins[name], around)
        if found[name]:
            for main in dataset.tables:
                if main.name in pins:
                    found[main.name] = plan(pins[main.name], around)
    return {name: found[name] if name in found else plan(pin, where) for name, pin in pins.items()}


def sources_of(
    shapes: Mapping[str, Table],
    planned: Planned,
    where: Where = EVERYTHING,
    places: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """SELECT that reads each table by its name, for `Engine.run`.

    That of a hot table has only rows that count, where the main tables are among these. A data set
    that is not of bars has its view's name in common with its main table: there it has both.

    where: What is wanted at most, as it was planned with. places: As for `files_sql`.
    """
    sources = {name: files_sql(table, planned[name], places) for name, table in shapes.items()}
    for name, dataset in _OF_HOT.items():
        if name not in shapes or not planned[name]:
            continue
        mains = [table for table in dataset.tables if table.name in shapes]
        sources[name] = _counting(dataset, planned, mains, where, places)
        if not dataset.bars and mains:
            (main,) = mains
            both = f"{sources[main.name]} UNION ALL SELECT * FROM ({sources[name]})"
            sources[main.name] = both
    return sources


def is_live(planned: Sequence[tuple[Pin, Sequence[DataFile]]]) -> bool:
    """Whether a read touches live rows."""
    return any(pin.shape.live and files for pin, files in planned)


def _around(dataset: Dataset, where: Where) -> Where:
    span = where.span
    if span is None or not dataset.edge_us:
        return where
    start_us = max(0, span.start_us - dataset.edge_us)
    return replace(where, span=TimeRange(start_us, span.end_us + dataset.edge_us))


def _counting(
    dataset: Dataset,
    planned: Planned,
    mains: Sequence[Table],
    where: Where,
    places: Mapping[str, str] | None,
) -> str:
    hot = dataset.hot_table
    assert hot is not None
    where = _around(dataset, where)
    names = (*(n for n in ("market", "symbol", "interval") if n in hot.names), *dataset.key)
    key = [quoted(name) for name in dict.fromkeys(names)]
    day = f", date_trunc('day', {quoted(hot.time)} AT TIME ZONE 'UTC') AS {_DAY}"
    if dataset.key_within_day:
        key.append(_DAY)
    else:
        day = ""
    ranks = " ".join(f"WHEN '{source}' THEN {rank}" for source, rank in PRECEDENCE.items())
    columns = ", ".join(quoted(name) for name in hot.names)
    best = (
        f"SELECT *{day} FROM ({files_sql(hot, planned[hot.name], places)}) "
        f"WHERE {where.sql(hot)} QUALIFY row_number() OVER (PARTITION BY {', '.join(key)} "
        f"ORDER BY CASE source {ranks} END, source_key DESC, source_version DESC) = 1"
    )
    entries = [_entry(hot, file) for file in planned[hot.name]]
    hiding = [
        f"SELECT {', '.join(quoted(n) for n in dict.fromkeys((*names, hot.time)))} "
        f"FROM ({files_sql(main, files, places)})"
        for main in mains
        if (files := _beside(dataset, main, planned[main.name], entries))
    ]
    if not hiding:
        return f"SELECT {columns} FROM ({best})"
    first, last = _span(dataset, entries)
    time = quoted(hot.time)
    hidden = (
        f"SELECT *{day} FROM ({' UNION ALL '.join(hiding)}) WHERE {where.sql(hot)} "
        f"AND {time} BETWEEN {timestamp(max(0, first))} AND {timestamp(last)}"
    )
    same = " AND ".join(f"live.{name} IS NOT DISTINCT FROM main.{name}" for name in key)
    return f"SELECT {columns} FROM ({best}) AS live ANTI JOIN ({hidden}) AS main ON {same}"


def _span(dataset: Dataset, entries: Sequence[FileEntry]) -> tuple[int, int]:
    """First and last time at which a main table may have keys of the hot table's files."""
    first = min(e.region.time_min_us for e in entries)
    last = max(e.region.time_max_us for e in entries)
    return first - dataset.edge_us, last + dataset.edge_us


def _beside(
    dataset: Dataset, main: Table, files: Sequence[DataFile], entries: Sequence[FileEntry]
) -> list[DataFile]:
    """Files of a main table that may have keys of the hot table's files."""
    if not entries:
        return []
    first, last = _span(dataset, entries)
    regions = [(file, _entry(main, file).region) for file in files]
    return [
        f for f, region in regions if region.time_max_us >= first and region.time_min_us <= last
    ]


def _entry(table: Table, file: DataFile) -> FileEntry:
    return file_entry(table, iceberg_schema(table), file)
