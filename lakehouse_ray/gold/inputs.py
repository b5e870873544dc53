"""Reading what a unit is made from: its row groups, and of them its rows and columns."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from lakehouse_ray.gold.plan import declared
from lakehouse_ray.model.product import ALL_SYMBOLS, Input, Parameter, Product, ProductUnit
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.groups import DAMAGE, GroupReader, RowGroup

_HASH_SEED = 20_17


class UnitInputs:
    """The inputs of one unit. `gold.recipe.Inputs`.

    In memory: the frames that were asked for, and one piece or one symbol at a time of the rest.
    """

    def __init__(
        self,
        reader: GroupReader,
        product: Product,
        unit: ProductUnit,
        groups: Mapping[str, Sequence[RowGroup]],
    ) -> None:
        self._product = product
        self._readers = {
            item.name: _InputReader(reader, item, unit, groups[item.name])
            for item in product.inputs
        }
        self._frames: dict[str, pl.DataFrame] = {}

    def frame(self, name: str) -> pl.DataFrame:
        if name not in self._frames:
            self._frames[name] = self._readers[name].all()
        return self._frames[name]

    def pieces(self, name: str) -> Iterator[pl.DataFrame]:
        return self._readers[name].pieces()

    def symbols(self, name: str) -> Iterator[tuple[str, pl.DataFrame]]:
        return self._readers[name].symbols()

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return dict(self._product.parameters)

    def content(self) -> str:
        """Name the rows themselves: the same however they are spread over files.

        Only within one version of Polars, whose hash of a row it uses: after an update of Polars,
        units of changed files are built again.
        """
        digest = hashlib.sha256(declared(self._product).encode())
        for item in self._product.inputs:
            digest.update(f"\n{item.name}".encode())
            reader = self._readers[item.name]
            if item.in_pieces:
                digest.update(" ".join(group.name for group in reader.groups).encode())
            elif reader.whole_market:
                for symbol, frame in reader.symbols():
                    digest.update(f"\n{symbol}".encode())
                    digest.update(_hash(frame))
            else:
                digest.update(_hash(self.frame(item.name)))
        return digest.hexdigest()[:16]


def _hash(frame: pl.DataFrame) -> Any:
    return frame.hash_rows(_HASH_SEED).to_numpy().tobytes()


def _total_order(item: Input, table: Table, interval: str) -> tuple[str, ...]:
    """The table's order, and what else tells the rows of an input apart."""
    same = {"market"} | {p.column for p in table.partitions if p.transform == "identity"}
    if not interval:
        same -= {"interval"}
    more = [name for name in table.key if name not in same] or item.columns
    return tuple(dict.fromkeys([*table.sort, *more]))


class _InputReader:
    """Reads one input of one unit."""

    def __init__(
        self, reader: GroupReader, item: Input, unit: ProductUnit, groups: Sequence[RowGroup]
    ) -> None:
        self.groups = groups
        self.whole_market = item.whole_market or unit.symbol == ALL_SYMBOLS
        self._reader = reader
        self._item = item
        self._unit = unit
        self._span = item.span(unit.span)
        self._tables = {table.name: table for table in item.tables("")}
        first = next(iter(self._tables.values()))
        self._lead, self._sort = (
            first.sort[0],
            _total_order(item, first, item.interval or unit.interval),
        )
        # Whatever rows are chosen and ordered by is read too.
        chosen = [name for name, _ in item.where]
        for table in self._tables.values():
            chosen += [table.time, *self._equal(table)]
        self._read = tuple(dict.fromkeys([*item.columns, *self._sort, *chosen]))

    def all(self) -> pl.DataFrame:
        return self._ordered(self.groups).select(self._item.columns)

    def pieces(self) -> Iterator[pl.DataFrame]:
        """Groups one by one in the order of time; together where they overlap."""
        waiting: list[RowGroup] = []
        end_us = 0
        for group in sorted(self.groups, key=lambda group: group.region.time_min_us):
            if waiting and group.region.time_min_us > end_us:
                yield self._ordered(waiting).select(self._item.columns)
                waiting = []
            waiting.append(group)
            end_us = max(end_us, group.region.time_max_us)
        if waiting:
            yield self._ordered(waiting).select(self._item.columns)

    def symbols(self) -> Iterator[tuple[str, pl.DataFrame]]:
        by_symbol: dict[str, list[RowGroup]] = defaultdict(list)
        mixed: list[RowGroup] = []
        for group in self.groups:
            region = group.region
            known = by_symbol[region.lead_min] if region.lead_min == region.lead_max else mixed
            known.append(group)
        # Groups of several symbols are those of logs: few rows.
        rest = self._ordered(mixed)
        for symbol in sorted({*by_symbol, *rest[self._lead].to_list()}):
            frame = self._ordered(by_symbol.get(symbol, ()))
            others = rest.filter(pl.col(self._lead) == symbol)
            if others.height:
                frame = pl.concat([frame, others]).sort(self._sort)
            if frame.height:
                yield symbol, frame.select(self._item.columns)

    def _ordered(self, groups: Sequence[RowGroup]) -> pl.DataFrame:
        frames = [self._rows(group) for group in groups]
        if not frames:
            schema = frame_schema(next(iter(self._tables.values())))
            return pl.DataFrame(schema={name: schema[name] for name in self._read})
        if len(frames) == 1 and self._sort == self._tables[groups[0].table].sort:
            return frames[0]
        return pl.concat(frames).sort(self._sort)

    def _rows(self, group: RowGroup) -> pl.DataFrame:
        """The wanted rows of a group."""
        table = self._tables[group.table]
        try:
            frame = self._reader.read(table, group, self._read)
        except DAMAGE as error:
            raise self._reader.lost(group, error) from error
        region = group.region
        time = pl.col(table.time).dt.epoch("us")
        conditions = [pl.col(name) == value for name, value in self._equal(table).items()]
        conditions += [pl.col(name) == value for name, value in self._item.where]
        if not self.whole_market and region.lead_min != region.lead_max:
            conditions.append(pl.col(table.sort[0]) == self._unit.symbol)
        if region.time_min_us < self._span.start_us or region.time_max_us >= self._span.end_us:
            conditions.append((time >= self._span.start_us) & (time < self._span.end_us))
        return frame.filter(conditions) if conditions else frame

    def _equal(self, table: Table) -> dict[str, str]:
        """What only the rows themselves can tell."""
        by_partition = {p.column for p in table.partitions if p.transform == "identity"}
        interval = self._item.interval or self._unit.interval
        if interval and "interval" in table.names and "interval" not in by_partition:
            return {"interval": interval}
        return {}
