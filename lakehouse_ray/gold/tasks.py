"""Units bundled into tasks. Pure functions.

A task writes the rows of its units anew, together with those of other symbols that share a file
with them. So that no two tasks of a run get into each other's way, their symbols do not interleave:
each task has a range of symbols of its own, with all files of the product that reach into it and
have to be replaced. Files of a task become one file per partition, so they stay few.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lakehouse_ray.gold.holdings import Holdings
from lakehouse_ray.gold.plan import ProductPlan, Stale
from lakehouse_ray.model.product import ALL_SYMBOLS, Period, Product, ProductUnit, period_of
from lakehouse_ray.model.timespan import from_us, month_ordinal
from lakehouse_ray.storage.files import ANY, PartitionKey, Region
from lakehouse_ray.storage.groups import RowGroup
from lakehouse_ray.storage.schemas import bucket_of

# What a unit costs however little it reads, in bytes that are read in the same time.
UNIT_BYTES_MIN = 64 << 10
# Before and after every symbol.
_FIRST, _LAST = "", "\U0010ffff"
_COARSE_FIRST: Sequence[Period] = ("history", "year", "month")


@dataclass(frozen=True)
class Task:
    """What a worker does in one go.

    id: The same for the same units, inputs and files in the way.
    old: All row groups of the product's files that may have to be replaced.
    regions, seen: For the commit, see `storage.committer`.
    """

    id: str
    product: str
    units: tuple[Stale, ...]
    old: tuple[RowGroup, ...]
    regions: tuple[Region, ...]
    seen: frozenset[str]


def make_tasks(plan: ProductPlan, *, bytes_max: int) -> list[Task]:
    """Bundle the stale units of a plan.

    bytes_max: Input bytes of a task, if it can be cut there.
    """
    product = plan.product
    written = Holdings((product.table,), plan.output.groups)
    by_file: dict[str, list[RowGroup]] = defaultdict(list)
    for group in plan.output.groups:
        by_file[group.path].append(group)
    cells: dict[PartitionKey, list[Stale]] = defaultdict(list)
    for item in plan.stale:
        cells[_cell(product, item.unit)].append(item)
    return [
        _task(plan, bundle, by_file)
        for cell in cells.values()
        for bundle in _bundle(_clusters(cell, written, by_file), bytes_max)
    ]


@dataclass
class _Cluster:
    """Units that have to be in one task, the range of symbols they take, and files to replace."""

    first: str
    last: str
    items: list[Stale]
    paths: set[str]

    @property
    def size_bytes(self) -> int:
        return sum(max(UNIT_BYTES_MIN, item.size_bytes) for item in self.items)

    def join(self, other: _Cluster) -> None:
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.items += other.items
        self.paths |= other.paths


def _cell(product: Product, unit: ProductUnit) -> PartitionKey:
    """Units of two cells never share a file."""
    transforms = [partition.transform for partition in product.table.partitions]
    periods: list[Period] = [product.period]
    if "month" not in transforms:
        periods.append("year" if "year" in transforms else "history")
    coarser = min(periods, key=_COARSE_FIRST.index)
    bucketed = "bucket16" in transforms and unit.symbol != ALL_SYMBOLS
    return (
        unit.market,
        unit.interval,
        bucket_of(unit.symbol) if bucketed else 0,
        period_of(unit.span.start_us, coarser),
    )


def _clusters(
    cell: Iterable[Stale], written: Holdings, by_file: dict[str, list[RowGroup]]
) -> Iterator[_Cluster]:
    """Cut the units of a cell wherever no symbol or file is on both sides, in order of symbols."""
    whole: _Cluster | None = None
    for cluster in sorted(
        (_alone(item, written, by_file) for item in cell), key=lambda cluster: cluster.first
    ):
        if whole is not None and cluster.first <= whole.last:
            whole.join(cluster)
            continue
        if whole is not None:
            yield whole
        whole = cluster
    if whole is not None:
        yield whole


def _alone(item: Stale, written: Holdings, by_file: dict[str, list[RowGroup]]) -> _Cluster:
    unit = item.unit
    held = written.find(unit.market, unit.interval, unit.symbol, unit.span)
    paths = {group.path for group in held}
    if unit.symbol == ALL_SYMBOLS:
        return _Cluster(_FIRST, _LAST, [item], paths)
    symbols = {group.region.lead_min for path in paths for group in by_file[path]}
    symbols.add(unit.symbol)
    return _Cluster(min(symbols), max(symbols), [item], paths)


def _bundle(clusters: Iterable[_Cluster], bytes_max: int) -> Iterator[_Cluster]:
    """Put neighbours together as long as they are small."""
    whole: _Cluster | None = None
    for cluster in clusters:
        if whole is not None and whole.size_bytes + cluster.size_bytes > bytes_max:
            yield whole
            whole = None
        if whole is None:
            whole = cluster
        else:
            whole.join(cluster)
    if whole is not None:
        yield whole


def _task(plan: ProductPlan, bundle: _Cluster, by_file: dict[str, list[RowGroup]]) -> Task:
    regions = _regions(plan.product, [item.unit for item in bundle.items])
    files = plan.output.files
    seen = frozenset(entry.path for region in regions for entry in files.overlapping(region))
    digest = hashlib.sha256(plan.product.name.encode())
    for item in bundle.items:
        digest.update(f"\n{item.unit} {item.fingerprint}".encode())
    for path in sorted(seen):
        digest.update(f"\n{path}".encode())
    return Task(
        digest.hexdigest()[:16],
        plan.product.name,
        tuple(sorted(bundle.items, key=lambda item: item.unit)),
        tuple(group for path in sorted(bundle.paths) for group in by_file[path]),
        regions,
        seen,
    )


def _regions(product: Product, units: Iterable[ProductUnit]) -> tuple[Region, ...]:
    """Everything that rows of these units can touch."""
    found: dict[PartitionKey, Region] = {}
    for unit in units:
        key, span = _pattern(product, unit), unit.span
        first, last = unit.symbol, unit.symbol
        if unit.symbol == ALL_SYMBOLS:
            first, last = _FIRST, _LAST
        known = found.get(key) or Region(key, first, last, span.start_us, span.end_us - 1)
        found[key] = Region(
            key,
            min(known.lead_min, first),
            max(known.lead_max, last),
            min(known.time_min_us, span.start_us),
            max(known.time_max_us, span.end_us - 1),
        )
    return tuple(found.values())


def _pattern(product: Product, unit: ProductUnit) -> PartitionKey:
    """Partitions that rows of a unit can be in."""
    identity = {"market": unit.market, "interval": unit.interval or ANY}
    start_us = unit.span.start_us
    values: list[object] = []
    for partition in product.table.partitions:
        value: object = ANY
        if partition.transform == "identity":
            value = identity.get(partition.column, ANY)
        elif partition.transform == "bucket16" and unit.symbol != ALL_SYMBOLS:
            value = bucket_of(unit.symbol)
        elif partition.transform == "year" and product.period != "history":
            value = from_us(start_us).year - 1970
        elif partition.transform == "month" and product.period == "month":
            value = month_ordinal(start_us)
        values.append(value)
    return tuple(values)
