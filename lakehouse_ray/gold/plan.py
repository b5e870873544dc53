"""What has to be built: units whose inputs are not those they were built from. Pure functions.

A unit is named together with the row groups that it reads. Their names are hashed to its
fingerprint; it is current as long as that is the fingerprint of its last build. Where only files
changed (another symbol's rows in them, or compaction), the worker finds the same content.

Of a file that is gone or damaged, only what the table says of it is known: a unit that may need it
is lost until the file is back. It is not built, and what it has stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.gold.holdings import Holdings, held_by
from lakehouse_ray.model.product import ALL_SYMBOLS, EVER, Input, Product, ProductUnit, period_of
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market
from lakehouse_ray.storage.files import FileIndex
from lakehouse_ray.storage.groups import RowGroup


@dataclass(frozen=True)
class BuildScope:
    """Which units are wanted. Empty: all.

    symbols: Units that are whole markets are wanted whatever these say.
    span: Units whose period touches it.
    """

    markets: tuple[Market, ...] = ()
    symbols: tuple[str, ...] = ()
    intervals: tuple[str, ...] = ()
    span: TimeRange | None = None

    def takes(self, unit: ProductUnit) -> bool:
        return (
            (not self.markets or unit.market in self.markets)
            and (not self.symbols or unit.symbol in (*self.symbols, ALL_SYMBOLS))
            and (not self.intervals or unit.interval in (*self.intervals, ""))
            and (self.span is None or unit.span.overlaps(self.span))
        )


@dataclass(frozen=True)
class Logged:
    """The last build of a unit. Fields are those of `gold.build_log`."""

    fingerprint: str
    content: str
    rows_read: int
    rows: int
    output_sequence: int


@dataclass(frozen=True)
class Stale:
    """A unit that has to be built.

    inputs: Row groups to read, by the input's name.
    gone: Nothing makes the unit exist any more: its rows have to go.
    rows_read, size_bytes: Of these row groups.
    known: Its last build, where its content may be found again and then nothing is to be done.
    """

    unit: ProductUnit
    fingerprint: str
    inputs: Mapping[str, tuple[RowGroup, ...]]
    rows_read: int
    size_bytes: int
    known: Logged | None = None
    gone: bool = False


@dataclass(frozen=True)
class Lost:
    """A unit that cannot be built, since a file that it may need cannot be read."""

    unit: ProductUnit
    error: BadDataError


@dataclass(frozen=True)
class Output:
    """The product's own table at the start: its files and their row groups."""

    files: FileIndex = field(default_factory=FileIndex)
    groups: tuple[RowGroup, ...] = ()


@dataclass(frozen=True)
class ProductPlan:
    """current: Units that need nothing.

    symbols: All that there are, wanted or not.
    """

    product: Product
    stale: tuple[Stale, ...]
    current: int
    output: Output
    symbols: frozenset[str] = frozenset()
    lost: tuple[Lost, ...] = ()

    @property
    def units(self) -> int:
        return self.current + len(self.stale) + len(self.lost)

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.stale)


def plan_product(
    product: Product,
    scope: BuildScope,
    inputs: Mapping[str, Sequence[RowGroup]],
    output: Output,
    log: Mapping[ProductUnit, Logged],
    *,
    rebuild: bool = False,
) -> ProductPlan:
    """Find the units that are not what they would be if they were built now.

    inputs: Row groups of each input at its pinned snapshot.
    log: The last build of each unit, those of other products left away.
    rebuild: Take none as current.
    """
    holdings = {item.name: held_by(item, inputs[item.name]) for item in product.inputs}
    written = Holdings((product.table,), output.groups)
    finder = _Finder(product, holdings)
    driven = {
        unit
        for item in product.drivers
        for unit in holdings[item.name].units(product, item.interval)
        if not product.intervals or unit.interval in product.intervals
    }
    # What was built before and is wanted no more leaves rows that have to go.
    units = driven | {unit for unit in log if _is_unit_of(product, unit)}
    units.update(written.units(product, ""))
    stale: list[Stale] = []
    lost: list[Lost] = []
    damaged = any(group.lost for some in (*inputs.values(), output.groups) for group in some)
    current = 0
    for unit in sorted(filter(scope.takes, units)):
        gone = unit not in driven
        found = {} if gone else finder.find(unit)
        if damaged:
            # What other files no longer make exist may be in one that is lost.
            read = finder.ever(unit) if gone else [g for some in found.values() for g in some]
            written_before = written.find(unit.market, unit.interval, unit.symbol, unit.span)
            error = next((g.lost for g in (*read, *written_before) if g.lost), None)
            if error is not None:
                lost.append(Lost(unit, error))
                continue
        name = fingerprint(product, found)
        last = log.get(unit)
        if last is not None and last.fingerprint == name and not rebuild:
            current += 1
            continue
        groups = [group for some in found.values() for group in some]
        rows_read = sum(group.rows for group in groups)
        known = None
        if last is not None and last.rows_read == rows_read and not rebuild:
            held = written.find(unit.market, unit.interval, unit.symbol, unit.span)
            known = last if _as_logged(last, held, output.files) else None
        size_bytes = sum(group.size_bytes for group in groups)
        stale.append(Stale(unit, name, found, rows_read, size_bytes, known, gone))
    symbols = frozenset(unit.symbol for unit in units)
    return ProductPlan(product, tuple(stale), current, output, symbols, tuple(lost))


def declared(product: Product) -> str:
    """Everything of a declaration that decides what rows come out."""
    asked = [
        (i.name, i.columns, i.interval, i.lookback_us, i.lookahead_us, i.where, i.whole_market)
        for i in product.inputs
    ]
    return repr((product.name, product.version, product.period, product.parameters, asked))


def fingerprint(product: Product, inputs: Mapping[str, Sequence[RowGroup]]) -> str:
    """Name what a unit is built from: 16 hexadecimal digits."""
    digest = hashlib.sha256(declared(product).encode())
    for name in sorted(inputs):
        digest.update(f"\n{name}".encode())
        for group in sorted(inputs[name], key=lambda group: group.name):
            digest.update(f" {group.name}".encode())
    return digest.hexdigest()[:16]


class _Finder:
    """Finds what units read; what all of a market read is looked for once."""

    def __init__(self, product: Product, holdings: Mapping[str, Holdings]) -> None:
        self._product = product
        self._holdings = holdings
        self._shared: dict[tuple[str, str, str, str], tuple[RowGroup, ...]] = {}

    def find(self, unit: ProductUnit) -> dict[str, tuple[RowGroup, ...]]:
        return {item.name: self._of(item, unit) for item in self._product.inputs}

    def ever(self, unit: ProductUnit) -> list[RowGroup]:
        """Whatever could make the unit exist, at any time: a hole is a unit, too."""
        return [
            group
            for item in self._product.drivers
            for group in self._holdings[item.name].find(
                unit.market, item.interval or unit.interval, unit.symbol, EVER
            )
        ]

    def _of(self, item: Input, unit: ProductUnit) -> tuple[RowGroup, ...]:
        holdings, span = self._holdings[item.name], item.span(unit.span)
        interval = item.interval or unit.interval
        if not (item.whole_market or unit.symbol == ALL_SYMBOLS):
            return tuple(holdings.find(unit.market, interval, unit.symbol, span))
        key = (item.name, unit.market, interval, unit.period)
        if key not in self._shared:
            self._shared[key] = tuple(holdings.find(unit.market, interval, ALL_SYMBOLS, span))
        return self._shared[key]


def _is_unit_of(product: Product, unit: ProductUnit) -> bool:
    """Whether the product is cut like this now; else a unit of today covers its rows."""
    return (
        period_of(unit.span.start_us, product.period) == unit.period
        and (unit.symbol == ALL_SYMBOLS) == (product.of == "market")
        and bool(unit.interval) == bool(product.intervals)
    )


def _as_logged(last: Logged, held: Iterable[RowGroup], files: FileIndex) -> bool:
    """Whether the rows there are surely those of the logged build.

    A run that died between its rows and its log leaves newer rows than the log knows of.
    """
    sequences = [files.entry(group.path).sequence for group in held]
    return bool(sequences) == bool(last.rows) and max(sequences, default=0) <= last.output_sequence
