"""Many questions over one state of the lake: snapshots pinned once, files chosen per question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import polars as pl
from pyiceberg.expressions import And, BooleanExpression, In
from pyiceberg.manifest import DataFile

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table
from lakehouse_ray.query.pins import AsOf, Pin
from lakehouse_ray.query.scan import Where, files_sql, plan_files, quoted, scan_sql, text
from lakehouse_ray.query.statement import Engine, Result
from lakehouse_ray.query.views import VIEWS, View
from lakehouse_ray.storage.files import Region, file_entry

# Rows that one question hands over at a time: with three columns some 25 MB.
PIECE_ROWS = 500_000
# Symbols asked about together. Files are pruned by at most 200 values.
SYMBOLS_MAX = 100


@dataclass(frozen=True)
class Kind:
    """Series that are alike: one data set of one market, for bars at one interval."""

    dataset: Dataset
    market: str
    interval: str | None

    @property
    def view(self) -> View:
        return VIEWS[f"silver.{self.dataset.view}"]

    @property
    def table(self) -> Table:
        return self.dataset.table(self.interval)

    @property
    def equal(self) -> dict[str, str]:
        return {"market": self.market} | ({"interval": self.interval} if self.interval else {})

    def __reduce__(self) -> tuple[object, ...]:
        # By name: elsewhere too the data set is the declared one, not a copy that `is` none of them.
        return _kind, (self.dataset.name, self.market, self.interval)

    def __str__(self) -> str:
        return " ".join(part for part in (self.market, self.dataset.name, self.interval) if part)


def _kind(dataset: str, market: str, interval: str | None) -> Kind:
    return Kind(DATASETS[dataset], market, interval)


@dataclass(frozen=True)
class Among(Where):
    """Also only these symbols; none: all."""

    symbols: tuple[str, ...] = ()

    def sql(self, table: Table) -> str:
        condition = super().sql(table)
        if not self.symbols:
            return condition
        return f"{condition} AND symbol IN ({', '.join(map(text, self.symbols))})"

    def iceberg(self, table: Table) -> BooleanExpression:
        expression = super().iceberg(table)
        if not self.symbols:
            return expression
        return And(expression, In(term="symbol", literals=self.symbols))


class Readable(Protocol):
    """What a lake must be able to do for its state to be pinned."""

    def pin(self, views: Iterable[View], as_of: AsOf = None) -> dict[str, Pin]: ...

    @property
    def engine(self) -> Engine: ...


class Pinned:
    """Reads of one state of the lake, however many commits come meanwhile."""

    def __init__(
        self,
        lake: Readable,
        views: Iterable[View],
        as_of: AsOf = None,
        *,
        snapshots: Mapping[str, int | None] | None = None,
    ) -> None:
        """snapshots: What another process pinned (`Pinned.snapshots`), to see the same here."""
        self._engine = lake.engine
        self._pins = lake.pin(views, as_of)
        if snapshots is not None:
            self._pins = {
                name: replace(pin, snapshot_id=snapshots[name]) for name, pin in self._pins.items()
            }

    @property
    def snapshots(self) -> dict[str, int | None]:
        """By table; None: it had no rows yet."""
        return {name: pin.snapshot_id for name, pin in self._pins.items()}

    def pin(self, table: Table) -> Pin:
        """The table at its pinned snapshot."""
        return self._pins[table.name]

    def files(self, table: Table, where: Where) -> list[DataFile]:
        """The files of a table that may hold wanted rows, by path."""
        return plan_files(self._pins[table.name], where)

    def ask(self, query: str, view: View, where: Where, parameters: object = None) -> Result:
        """Run a statement over one view, opening only files that may hold wanted rows."""
        sources = {table.name: scan_sql(self._pins[table.name], where) for table in view.tables}
        return self._engine.run(query, [view], sources, parameters)

    def frame(
        self, query: str, view: View, where: Where, parameters: object = None
    ) -> pl.DataFrame:
        with self.ask(query, view, where, parameters) as result:
            return result.pl()

    def pieces(self, query: str, view: View, where: Where) -> Iterator[pl.DataFrame]:
        """The rows of a statement in pieces of about `PIECE_ROWS`."""
        with self.ask(query, view, where) as result:
            for batch in result.fetch_batches(PIECE_ROWS):
                piece = pl.from_arrow(batch)
                assert isinstance(piece, pl.DataFrame)
                yield piece

    @cached_property
    def kinds(self) -> list[Kind]:
        """Every kind of series that the pinned data sets have; reads no rows."""
        found: dict[tuple[str, str, str | None], Kind] = {}
        for dataset in DATASETS.values():
            for table in dataset.tables:
                if table.name not in self._pins:
                    continue
                columns = [partition.column for partition in table.partitions]
                for file in plan_files(self._pins[table.name]):
                    values = {name: file.partition[i] for i, name in enumerate(columns)}
                    market = str(values["market"])
                    interval = str(values["interval"]) if dataset.bars else None
                    key = dataset.name, market, interval
                    found.setdefault(key, Kind(dataset, market, interval))
        return list(found.values())

    def lives(self, kind: Kind, symbols: Sequence[str] = ()) -> pl.DataFrame:
        """Return `symbol, first_time, last_time, rows` of every symbol (or these), sorted."""
        where = Among(kind.equal, None, tuple(symbols))
        return self.frame(_lives_sql(kind, where), kind.view, where)

    def lives_in(self, kind: Kind, file: DataFile) -> pl.DataFrame:
        """The same as one file of it tells."""
        sources = {
            table.name: files_sql(table, [file] if table.name == kind.table.name else [])
            for table in kind.view.tables
        }
        query = _lives_sql(kind, Where(kind.equal))
        with self._engine.run(query, [kind.view], sources, None) as result:
            return result.pl()

    def region(self, table: Table, file: DataFile) -> Region:
        """Where a file's rows lie."""
        pinned = self._pins[table.name].table
        assert pinned is not None
        return file_entry(table, pinned.schema(), file).region


def _lives_sql(kind: Kind, where: Where) -> str:
    time = quoted(kind.dataset.time)
    return (
        f"SELECT symbol, min({time}) first_time, max({time}) last_time, count(*) AS rows "
        f"FROM {kind.view.name} WHERE {where.sql(kind.table)} GROUP BY symbol ORDER BY symbol"
    )


def in_groups(lives: pl.DataFrame, rows_max: int = 4 * PIECE_ROWS) -> Iterator[tuple[str, ...]]:
    """Cut symbols into groups that are asked about together: so many rows, or one symbol."""
    group: list[str] = []
    rows = 0
    for symbol, count in lives.select("symbol", "rows").iter_rows():
        if group and (rows + count > rows_max or len(group) >= SYMBOLS_MAX):
            yield tuple(group)
            group, rows = [], 0
        group.append(symbol)
        rows += count
    if group:
        yield tuple(group)
