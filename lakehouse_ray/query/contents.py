"""What the lake has: symbols, ranges, and the size of every table. Counted, not guessed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import to_us
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.pinned import Pinned, Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.scan import EVERYTHING, Where, quoted
from lakehouse_ray.query.statement import Result
from lakehouse_ray.query.views import TABLES, VIEWS, View
from lakehouse_ray.storage.files import FileEntry, file_entry

# Of a table's snapshots, so many of the latest are listed.
SNAPSHOTS_LISTED_MAX = 100


@dataclass
class Series:
    """What is stored of a data set in one market (for bars: at one interval).

    first_us, last_us: Times of the first and the last row.
    """

    dataset: Dataset
    market: str
    interval: str | None
    symbols: int = 0
    rows: int = 0
    files: int = 0
    size_bytes: int = 0
    first_us: int = 0
    last_us: int = 0

    def add(self, entry: FileEntry) -> None:
        region = entry.region
        self.first_us = min(self.first_us, region.time_min_us) if self.files else region.time_min_us
        self.last_us = max(self.last_us, region.time_max_us)
        self.rows += entry.rows
        self.files += 1
        self.size_bytes += entry.size_bytes


@dataclass(frozen=True)
class SnapshotFact:
    id: int
    committed_us: int
    operation: str
    rows: int


@dataclass
class TableFact:
    """One physical table as it is now. snapshots: All that are kept; `latest` lists some."""

    shape: Table
    snapshot_id: int | None = None
    snapshots: int = 0
    rows: int = 0
    files: int = 0
    size_bytes: int = 0
    latest: list[SnapshotFact] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    series: list[Series]
    tables: list[TableFact]


class Asking(Readable, Protocol):
    """A lake that can be asked in SQL."""

    def ask(
        self,
        query: str,
        views: Iterable[View],
        where: Where = EVERYTHING,
        *,
        parameters: object = None,
        as_of: AsOf = None,
    ) -> Result: ...


def contents(lake: Asking) -> Contents:
    """Count everything that is stored. Reads the files' descriptions and the symbols alone."""
    pinned = Pinned(lake, VIEWS.values())
    facts: list[TableFact] = []
    entries: dict[str, list[FileEntry]] = {}
    for name, shape in TABLES.items():
        if pinned.pin(shape).table is not None:
            fact, entries[name] = _fact(pinned, shape)
            facts.append(fact)
    series: list[Series] = []
    for dataset in DATASETS.values():
        series += _series(pinned, dataset, entries)
    return Contents(series, facts)


def symbols(
    lake: Asking, dataset: Dataset, market: str, interval: str | None = None, *, as_of: AsOf = None
) -> list[str]:
    """Return every symbol that has rows, sorted."""
    equal = {"market": market} | ({"interval": interval} if interval else {})
    where = Where(equal)
    view = _view(dataset)
    condition = where.sql(dataset.tables[0])
    query = f"SELECT DISTINCT symbol FROM {view.name} WHERE {condition} ORDER BY symbol"
    with lake.ask(query, [view], where, as_of=as_of) as result:
        return [str(row["symbol"]) for row in result.rows()]


def intervals(
    lake: Asking, dataset: Dataset, market: str, symbol: str, *, as_of: AsOf = None
) -> list[str]:
    """Return the intervals at which a symbol has bars, the shortest first."""
    where, view = Where({"market": market, "symbol": symbol}), _view(dataset)
    condition = where.sql(dataset.tables[0])
    query = f'SELECT DISTINCT "interval" FROM {view.name} WHERE {condition}'
    with lake.ask(query, [view], where, as_of=as_of) as result:
        return sorted((str(row["interval"]) for row in result.rows()), key=list(INTERVALS).index)


def extent(
    lake: Asking, dataset: Dataset, series: dict[str, str], *, as_of: AsOf = None
) -> tuple[int, int] | None:
    """Return the times of the first and the last row of a symbol, or None."""
    where, view = Where(series), _view(dataset)
    table = dataset.tables[0]
    time = quoted(table.time)
    query = f"SELECT min({time}) a, max({time}) b FROM {view.name} WHERE {where.sql(table)}"
    with lake.ask(query, [view], where, as_of=as_of) as result:
        row = result.rows()[0]
    return (to_us(row["a"]), to_us(row["b"])) if row["a"] is not None else None


def _view(dataset: Dataset) -> View:
    return VIEWS[f"silver.{dataset.view}"]


def _fact(pinned: Pinned, shape: Table) -> tuple[TableFact, list[FileEntry]]:
    pin = pinned.pin(shape)
    assert pin.table is not None
    schema = pin.table.schema()
    entries = [file_entry(shape, schema, file) for file in pinned.files(shape)]
    kept = sorted(pin.table.snapshots(), key=lambda snapshot: snapshot.timestamp_ms)
    latest = [
        SnapshotFact(
            snapshot.snapshot_id,
            snapshot.timestamp_ms * 1000,
            snapshot.summary.operation.value if snapshot.summary else "",
            int((snapshot.summary["total-records"] if snapshot.summary else None) or 0),
        )
        for snapshot in kept[-SNAPSHOTS_LISTED_MAX:]
    ]
    fact = TableFact(
        shape,
        pin.snapshot_id,
        len(kept),
        sum(entry.rows for entry in entries),
        len(entries),
        sum(entry.size_bytes for entry in entries),
        latest,
    )
    return fact, entries


def _series(pinned: Pinned, dataset: Dataset, entries: dict[str, list[FileEntry]]) -> list[Series]:
    found: dict[tuple[str, str | None], Series] = {}
    for table in dataset.tables:
        columns = [p.column for p in table.partitions]
        for entry in entries.get(table.name, ()):
            values = dict(zip(columns, entry.region.partition, strict=True))
            market = str(values["market"])
            interval = str(values["interval"]) if dataset.bars else None
            one = found.setdefault((market, interval), Series(dataset, market, interval))
            one.add(entry)
    hot = dataset.hot_table
    live = _live(pinned, dataset) if hot is not None and entries.get(hot.name) else {}
    if not found and not live:
        return []
    symbols = pinned.derive(
        ("symbols stored", dataset.name), dataset.tables, lambda: _symbols(pinned, dataset)
    )
    for key, (own, rows, first_us, last_us) in live.items():
        one = found.setdefault(key, Series(dataset, key[0], key[1]))
        one.first_us = min(one.first_us, first_us) if one.rows else first_us
        one.last_us = max(one.last_us, last_us)
        one.rows += rows
        one.symbols = len(own - symbols.get(key, frozenset()))
    for key, one in found.items():
        one.symbols += len(symbols.get(key, ()))
    return [found[key] for key in sorted(found, key=str)]


# Market, and interval of bars.
_Key = tuple[str, str | None]


def _symbols(pinned: Pinned, dataset: Dataset) -> dict[_Key, frozenset[str]]:
    """The symbols that the main tables have."""
    found: dict[_Key, set[str]] = {}
    for table in dataset.tables:
        if not pinned.files(table):
            continue
        names = "market, interval, symbol" if dataset.bars else "market, symbol"
        # Without the hot table, whose rows change with every moment.
        rows = pinned.frame_of([table], f"SELECT DISTINCT {names} FROM {table.name}")
        for row in rows.iter_rows(named=True):
            found.setdefault((row["market"], row.get("interval")), set()).add(row["symbol"])
    return {key: frozenset(names) for key, names in found.items()}


def _live(pinned: Pinned, dataset: Dataset) -> dict[_Key, tuple[frozenset[str], int, int, int]]:
    """Symbols, rows, and times of the first and the last one, of live rows that count."""
    assert dataset.hot_table is not None
    view = VIEWS[dataset.hot_table.name]
    names = "market, interval" if dataset.bars else "market"
    time = quoted(dataset.time)
    query = (
        f"SELECT {names}, list(DISTINCT symbol) AS symbols, count(*) AS n, min({time}) AS a, "
        f"max({time}) AS b FROM {view.name} GROUP BY {names}"
    )
    return {
        (row["market"], row.get("interval")): (
            frozenset(row["symbols"]), row["n"], to_us(row["a"]), to_us(row["b"]),
        )
        for row in pinned.frame(query, view, EVERYTHING).iter_rows(named=True)
    }  # fmt: skip
