"""Many questions over one state of the lake: snapshots pinned once, files chosen per question."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import polars as pl
from pyiceberg.expressions import And, BooleanExpression, In
from pyiceberg.manifest import DataFile

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table
from lakehouse_ray.query.live import plan_live, sources_of
from lakehouse_ray.query.pins import AsOf, Pin
from lakehouse_ray.query.scan import EVERYTHING, Where, empty_sql, quoted, text
from lakehouse_ray.query.statement import Engine, Result
from lakehouse_ray.query.views import VIEWS, View
from lakehouse_ray.storage.files import Region, file_entry
from lakehouse_ray.storage.objects import ObjectStore

T = TypeVar("T", bound=Sized)

# Rows that one question hands over at a time: with three columns some 25 MB.
PIECE_ROWS = 500_000
# Symbols asked about together, as a rule.
SYMBOLS_MAX = 100
# Files are pruned by at most so many.
_SYMBOLS_PRUNED_MAX = 5_000
_LIVES = ("symbol", "first_time", "last_time", "rows")
LIFE = pl.Schema(
    {
        "symbol": pl.String(),
        "first_time": pl.Datetime("us", "UTC"),
        "last_time": pl.Datetime("us", "UTC"),
        "rows": pl.Int64(),
    }
)


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
    def stored_tables(self) -> tuple[Table, ...]:
        """The hot table first, where the data set has one."""
        hot = self.dataset.hot_table
        return (self.table,) if hot is None else (hot, self.table)

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

    def alternatives(self) -> Sequence[Mapping[str, str]]:
        if not 0 < len(self.symbols) <= _SYMBOLS_PRUNED_MAX:
            return super().alternatives()
        return [{**self.equal, "symbol": symbol} for symbol in self.symbols]

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
        self._left_out: frozenset[str] = frozenset()
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

    @property
    def store(self) -> ObjectStore:
        """Holds the tables' files."""
        return self._engine.store

    def without(self, paths: Iterable[str]) -> Pinned:
        """The same state as if these files (`DataFile.file_path`) had no rows."""
        other = copy(self)
        other._left_out = self._left_out | frozenset(paths)
        return other

    def files(self, table: Table, where: Where = EVERYTHING) -> list[DataFile]:
        """The files of a table that may hold wanted rows, by path."""
        files = self._engine.plan(self._pins[table.name], where)
        return [file for file in files if file.file_path not in self._left_out]

    def derive(self, what: Hashable, tables: Iterable[Table], make: Callable[[], T]) -> T:
        """Return a small collection that `make` derives from these tables alone, kept from question
        to question as long as none of them changes. Nobody may change it.

        what: Names what it is, and for what.
        """
        kept = self._engine.kept
        if kept is None or self._left_out:
            return make()
        versions = frozenset((table.name, self._pins[table.name].snapshot_id) for table in tables)
        return kept.derived.get((what, versions), make, self._engine.check)

    def ask(self, query: str, view: View, where: Where, parameters: object = None) -> Result:
        """Run a statement over one view, opening only files that may hold wanted rows."""
        return self._ask(query, view, where, parameters, view.tables)

    def _ask(
        self, query: str, view: View, where: Where, parameters: object, tables: Iterable[Table]
    ) -> Result:
        """As if of the view's tables only these had rows. Live ones need not be pinned."""
        pins = {t.name: self._pins[t.name] for t in tables if t.name in self._pins or not t.live}
        planned = plan_live(pins, where, lambda pin, wanted: self.files(pin.shape, wanted))
        self._engine.verify(file for files in planned.values() for file in files)
        sources = {table.name: empty_sql(table) for table in view.tables}
        sources |= sources_of({n: pin.shape for n, pin in pins.items()}, planned, where)
        return self._engine.run(query, [view], sources, parameters)

    def frame(
        self, query: str, view: View, where: Where, parameters: object = None
    ) -> pl.DataFrame:
        with self.ask(query, view, where, parameters) as result:
            return result.pl()

    def frame_of(self, tables: Iterable[Table], query: str) -> pl.DataFrame:
        """A statement over tables as they are, by their names; live rows are no part of them."""
        shapes = {table.name: table for table in tables}
        planned = {name: self.files(table) for name, table in shapes.items()}
        self._engine.verify(file for files in planned.values() for file in files)
        with self._engine.run(query, (), sources_of(shapes, planned)) as result:
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
                for file in self._engine.plan(self._pins[table.name]):
                    values = {name: file.partition[i] for i, name in enumerate(columns)}
                    market = str(values["market"])
                    interval = str(values["interval"]) if dataset.bars else None
                    key = dataset.name, market, interval
                    found.setdefault(key, Kind(dataset, market, interval))
            for kind in self._live_kinds(dataset):
                found.setdefault((dataset.name, kind.market, kind.interval), kind)
        return list(found.values())

    def _live_kinds(self, dataset: Dataset) -> list[Kind]:
        """Those that have live rows. A hot table holds all intervals, so its rows tell which."""
        hot = dataset.hot_table
        if hot is None or hot.name not in self._pins or not self.files(hot):
            return []
        interval = "interval" if dataset.bars else 'NULL AS "interval"'

        def read() -> list[Kind]:
            rows = self.frame(
                f"SELECT DISTINCT market, {interval} FROM {hot.name}", VIEWS[hot.name], EVERYTHING
            )
            return [
                Kind(dataset, market, length)
                for market, length in rows.sort(rows.columns).iter_rows()
            ]

        return self.derive(("live kinds", dataset.name), [hot, *dataset.tables], read)

    def lives(self, kind: Kind, symbols: Sequence[str] = ()) -> pl.DataFrame:
        """Return `symbol, first_time, last_time, rows` of every symbol (or these), sorted.

        Of main rows kept from question to question: what files told that were lost since is still so.
        """
        where = Among(kind.equal, None, tuple(symbols))
        query = _lives_sql(kind, where, ())

        def read() -> pl.DataFrame:
            with self._ask(query, kind.view, where, None, kind.dataset.tables) as result:
                return result.pl().select(_LIVES)

        known = self.derive(("lives of kind", str(kind), tuple(symbols)), [kind.table], read)
        live = self._live_lives(kind, where)
        return known if live.is_empty() else _together(known, live)

    def _live_lives(self, kind: Kind, where: Where) -> pl.DataFrame:
        """The same of live rows alone, which change with every moment and are few."""
        hot = kind.dataset.hot_table
        if hot is None or hot.name not in self._pins or not self.files(hot, where):
            return pl.DataFrame(schema=LIFE)
        view = VIEWS[hot.name]
        query = _lives_sql(kind, where, (), view)
        return self.frame(query, view, where).select(_LIVES)

    def read_lives(
        self, kind: Kind, symbols: Sequence[str] = (), columns: Sequence[str] = ()
    ) -> pl.DataFrame:
        """The same from the files as they are now.

        columns: Also read, so that it fails where a file's part of one cannot be.
        """
        where = Among(kind.equal, None, tuple(symbols))
        found = self.frame(_lives_sql(kind, where, columns), kind.view, where)
        return found.select(_LIVES)

    def lives_in(
        self, kind: Kind, table: Table, file: DataFile, columns: Sequence[str] = ()
    ) -> pl.DataFrame:
        """The same as one file of one of its tables tells."""
        query = _lives_sql(kind, Where(kind.equal), columns)
        return self.tell(query, kind.view, table, file).select(_LIVES)

    def tell(self, query: str, view: View, table: Table, file: DataFile) -> pl.DataFrame:
        """Run a statement over a view as if this file of one of its tables were all there is."""
        self._engine.verify([file])
        shapes = {t.name: t for t in view.tables}
        sources = sources_of(shapes, {n: [file] if n == table.name else [] for n in shapes})
        with self._engine.run(query, [view], sources, None) as result:
            return result.pl()

    def region(self, table: Table, file: DataFile) -> Region:
        """Where a file's rows lie."""
        pinned = self._pins[table.name].table
        assert pinned is not None
        return file_entry(table, pinned.schema(), file).region


def _together(known: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
    return (
        pl.concat([known.cast(LIFE), live.cast(LIFE)])
        .group_by("symbol")
        .agg(pl.col("first_time").min(), pl.col("last_time").max(), pl.col("rows").sum())
        .sort("symbol")
    )


def _lives_sql(kind: Kind, where: Where, columns: Sequence[str], view: View | None = None) -> str:
    time = quoted(kind.dataset.time)
    also = "".join(f", max({quoted(name)}) AS _{i}" for i, name in enumerate(columns))
    return (
        f"SELECT symbol, min({time}) first_time, max({time}) last_time, count(*) AS rows{also} "
        f"FROM {(view or kind.view).name} WHERE {where.sql(kind.table)} "
        "GROUP BY symbol ORDER BY symbol"
    )


def in_groups(
    lives: pl.DataFrame, rows_max: int = 4 * PIECE_ROWS, symbols_max: int = SYMBOLS_MAX
) -> Iterator[tuple[str, ...]]:
    """Cut symbols into groups that are asked about together: so many rows, or one symbol."""
    group: list[str] = []
    rows = 0
    for symbol, count in lives.select("symbol", "rows").iter_rows():
        if group and (rows + count > rows_max or len(group) >= symbols_max):
            yield tuple(group)
            group, rows = [], 0
        group.append(symbol)
        rows += count
    if group:
        yield tuple(group)
