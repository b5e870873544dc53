"""Which row groups of a table hold what a unit needs. Pure: footers in, row groups out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from lakehouse_ray.model.product import ALL_SYMBOLS, Input, Product, ProductUnit, periods_between
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange, month_ordinal
from lakehouse_ray.model.venue import Market
from lakehouse_ray.storage.groups import RowGroup
from lakehouse_ray.storage.schemas import bucket_of

# Spans of more months are looked for in the whole list.
_MONTHS_MAX = 24


class _Shelf:
    """Row groups of one symbol, findable by time."""

    def __init__(self) -> None:
        self.groups: list[RowGroup] = []
        self._by_month: dict[int, list[RowGroup]] = defaultdict(list)

    def add(self, group: RowGroup) -> None:
        self.groups.append(group)
        region = group.region
        last = month_ordinal(region.time_max_us)
        for month in range(month_ordinal(region.time_min_us), last + 1):
            self._by_month[month].append(group)

    def overlapping(self, span: TimeRange) -> Iterator[RowGroup]:
        first, last = month_ordinal(span.start_us), month_ordinal(span.end_us - 1)
        candidates: Iterable[RowGroup] = self.groups
        if last - first < _MONTHS_MAX:
            # A group that lies in several months is found in each.
            candidates = dict.fromkeys(
                group for month in range(first, last + 1) for group in self._by_month.get(month, ())
            )
        for group in candidates:
            if group.region.time_min_us < span.end_us and group.region.time_max_us >= span.start_us:
                yield group


class Holdings:
    """Row groups by market, interval and symbol.

    The interval is known of tables that are partitioned by it. A group of several symbols, as in
    logs, is taken to hold all of those between its first and its last. So is a file that is lost.
    """

    def __init__(self, tables: Iterable[Table], groups: Iterable[RowGroup]) -> None:
        tables = tuple(tables)
        self._columns = {table.name: _identity(table) for table in tables}
        self._buckets = {table.name: _bucket(table) for table in tables}
        self._shelves: dict[tuple[str, str], dict[str, _Shelf]] = defaultdict(dict)
        self._mixed: dict[tuple[str, str], list[RowGroup]] = defaultdict(list)
        lost: list[tuple[tuple[str, str], RowGroup]] = []
        for group in groups:
            values = self.values(group)
            key = (values["market"], values.get("interval", ""))
            region = group.region
            if region.lead_min == region.lead_max:
                self._shelve(key, group)
                continue
            self._mixed[key].append(group)
            if group.lost is not None:
                lost.append((key, group))
        for key, group in lost:
            # It has its first and its last symbol; of those between, known from other files, any
            # may be in it.
            region = group.region
            there = [name for name in self._shelves[key] if self._may_hold(group, name)]
            for symbol in {region.lead_min, region.lead_max, *there}:
                alone = replace(region, lead_min=symbol, lead_max=symbol)
                self._shelve(key, replace(group, region=alone))

    def _shelve(self, key: tuple[str, str], group: RowGroup) -> None:
        shelves = self._shelves[key]
        if group.region.lead_min not in shelves:
            shelves[group.region.lead_min] = _Shelf()
        shelves[group.region.lead_min].add(group)

    def _may_hold(self, group: RowGroup, symbol: str) -> bool:
        region, bucket = group.region, self._buckets[group.table]
        return region.lead_min <= symbol <= region.lead_max and (
            bucket is None or region.partition[bucket] == bucket_of(symbol)
        )

    def values(self, group: RowGroup) -> dict[str, str]:
        """What its partition says of all rows of a group."""
        partition = group.region.partition
        return {name: str(partition[i]) for name, i in self._columns[group.table].items()}

    def find(self, market: str, interval: str, symbol: str, span: TimeRange) -> list[RowGroup]:
        """Groups that may hold such rows, by name. interval: Empty: any. symbol: Or ALL_SYMBOLS."""
        found: list[RowGroup] = []
        for key in self._keys(market, interval):
            shelves = self._shelves.get(key, {})
            if symbol == ALL_SYMBOLS:
                for shelf in shelves.values():
                    found += shelf.overlapping(span)
            elif symbol in shelves:
                found += shelves[symbol].overlapping(span)
            found += (
                group
                for group in self._mixed.get(key, ())
                if symbol == ALL_SYMBOLS or self._may_hold(group, symbol)
                if group.region.time_min_us < span.end_us
                if group.region.time_max_us >= span.start_us
            )
        return sorted(found, key=lambda group: group.name)

    def units(self, product: Product, interval: str) -> Iterator[ProductUnit]:
        """Name every unit that the rows here make exist; some of them repeatedly.

        interval: That all units of the product read. Empty: each its own.
        """
        for (market, of), shelves in self._shelves.items():
            if market not in product.markets or interval not in ("", of):
                continue
            made = product.intervals if interval else (of,)
            for symbol, shelf in shelves.items():
                who = symbol if product.of == "symbol" else ALL_SYMBOLS
                for period in _periods(product, shelf):
                    for named in made if product.intervals else ("",):
                        yield ProductUnit(_market(market, product), named, who, period)

    def _keys(self, market: str, interval: str) -> list[tuple[str, str]]:
        if interval:
            return [(market, interval), (market, "")]
        keys = dict.fromkeys([*self._shelves, *self._mixed])
        return [key for key in keys if key[0] == market]


def held_by(item: Input, groups: Iterable[RowGroup]) -> Holdings:
    """What an input has, as far as partitions tell that it is wanted."""
    tables = item.tables("")
    columns = {table.name: _identity(table) for table in tables}

    def wanted(group: RowGroup) -> bool:
        known: Mapping[str, int] = columns[group.table]
        return all(
            name not in known or group.region.partition[known[name]] == value
            for name, value in item.where
        )

    return Holdings(tables, filter(wanted, groups))


def _identity(table: Table) -> dict[str, int]:
    return {p.column: i for i, p in enumerate(table.partitions) if p.transform == "identity"}


def _bucket(table: Table) -> int | None:
    """Where its partition has the bucket of the symbol, if it has."""
    transforms = [partition.transform for partition in table.partitions]
    return transforms.index("bucket16") if "bucket16" in transforms else None


def _periods(product: Product, shelf: _Shelf) -> list[str]:
    """Every period from the first row to the last: how files are cut must decide nothing."""
    first_us = min(group.region.time_min_us for group in shelf.groups)
    last_us = max(group.region.time_max_us for group in shelf.groups)
    return periods_between(first_us, last_us, product.period)


def _market(name: str, product: Product) -> Market:
    return next(market for market in product.markets if market == name)
