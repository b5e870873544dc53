"""What a derived table is: what it is made from, in which pieces it is made, and by which version.

Each product is one declaration in `lakehouse_ray.model.products`; the function that makes its rows
is in `lakehouse_ray.gold`. A product is built unit by unit, a unit only when what it is made from
has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange, from_us, month_range, parse_time
from lakehouse_ray.model.venue import MARKETS, Market

Period = Literal["month", "year", "history"]
Parameter = str | int | float | bool

# The symbol of a unit that is a whole market.
ALL_SYMBOLS = "*"
# Before and after everything that can be stored.
EVER = TimeRange(0, parse_time("2200"))
_WHOLE_HISTORY = "all"


@dataclass(frozen=True)
class Input:
    """One thing that a product reads.

    name: By which its function asks for it.
    source: A data set of silver, or a table: another product's, or a log of the lake.
    columns: Those the function gets, in this order. A change in others rebuilds nothing.
    interval: Of bars. Empty: the unit's own; all, where the unit has none.
    lookback_us, lookahead_us: How far before and after the unit's period rows are read too. None:
        without limit.
    where: Further columns and the value each must have, such as ("dataset", "klines").
    whole_market: The rows of all symbols of the unit's market, not of its symbol alone. So they
        are always where the unit is a market.
    in_pieces: Rows may not fit into memory: the function gets them piece by piece, in the order of
        time. Then a file that was merely written anew counts as changed.
    """

    name: str
    source: Dataset | Table
    columns: tuple[str, ...]
    interval: str = ""
    lookback_us: int | None = 0
    lookahead_us: int | None = 0
    where: tuple[tuple[str, str], ...] = ()
    whole_market: bool = False
    in_pieces: bool = False

    def __post_init__(self) -> None:
        known = set(self.tables("")[0].names)
        unknown = {*self.columns, *(column for column, _ in self.where)} - known
        assert not unknown, f"input {self.name}: no columns {sorted(unknown)}"
        assert self.columns, f"input {self.name} reads at least one column"

    def tables(self, interval: str) -> tuple[Table, ...]:
        """The physical tables that it is read from. interval: Of the unit; empty: none."""
        if isinstance(self.source, Table):
            return (self.source,)
        chosen = self.interval or interval
        if self.source.bars and chosen:
            return (self.source.table(chosen),)
        return self.source.tables

    def span(self, period: TimeRange) -> TimeRange:
        """The times of the rows that are read for a period."""
        back, ahead = self.lookback_us, self.lookahead_us
        start = EVER.start_us if back is None else max(EVER.start_us, period.start_us - back)
        end = EVER.end_us if ahead is None else min(EVER.end_us, period.end_us + ahead)
        return TimeRange(start, end)


@dataclass(frozen=True)
class Product:
    """One derived table.

    name: By which `lakehouse build` knows it.
    table: What it is kept in; no other product writes it. Its first sort column is `symbol`, its
        first partition the market.
    inputs: What it reads.
    version: Raised whenever the same input could give other rows: then everything is built anew.
    of: A unit is one symbol, or a whole market (for what must see all symbols at once; its inputs
        are then the small results of other products).
    period: Of a unit: a month or a year by the table's time, or all there is of the symbol.
    intervals: Of bars, for a product that is made of each by itself. Its table is then partitioned
        by `interval`.
    markets: Those it exists for.
    driven_by: Names of the inputs whose rows make units exist: every period from a symbol's first
        row to its last, holes counted in. Empty: the first input.
    parameters: Handed to the function; another value rebuilds, as a new version does.
    """

    name: str
    table: Table
    inputs: tuple[Input, ...]
    version: int
    of: Literal["symbol", "market"] = "symbol"
    period: Period = "month"
    intervals: tuple[str, ...] = ()
    markets: tuple[Market, ...] = MARKETS
    driven_by: tuple[str, ...] = ()
    parameters: tuple[tuple[str, Parameter], ...] = ()

    def __post_init__(self) -> None:
        layout = [(p.transform, p.column) for p in self.table.partitions]
        assert layout[0] == ("identity", "market"), f"{self.name}: partition by market first"
        assert self.table.sort[0] == "symbol", f"{self.name}: sort by symbol first"
        assert self.table.key, f"{self.name}: rows of a product have a key"
        if self.intervals:
            assert ("identity", "interval") in layout, f"{self.name}: partition by interval"
        names = [item.name for item in self.inputs]
        assert len(names) == len(set(names)), f"{self.name}: inputs have names of their own"
        assert set(self.driven_by) <= set(names), f"{self.name}: driven by its own inputs"
        for item in self.drivers:
            assert item.tables("")[0].key, f"{self.name}: driven by no log"

    @property
    def drivers(self) -> tuple[Input, ...]:
        """The inputs whose rows make units exist."""
        names = self.driven_by or (self.inputs[0].name,)
        return tuple(item for item in self.inputs if item.name in names)

    def input(self, name: str) -> Input:
        return next(item for item in self.inputs if item.name == name)


@dataclass(frozen=True, order=True)
class ProductUnit:
    """What a product is built in.

    interval: Empty for a product without intervals.
    symbol: ALL_SYMBOLS for a whole market.
    period: `2024-05`, `2024` or `all`.
    """

    market: Market
    interval: str
    symbol: str
    period: str

    @property
    def span(self) -> TimeRange:
        return span_of(self.period)

    def __str__(self) -> str:
        return " ".join(
            part for part in (self.market, self.interval, self.symbol, self.period) if part
        )


def period_of(time_us: int, period: Period) -> str:
    """Name the period that a time lies in."""
    if period == "history":
        return _WHOLE_HISTORY
    return f"{from_us(time_us):{'%Y' if period == 'year' else '%Y-%m'}}"


def span_of(period: str) -> TimeRange:
    """The times of a period by its name."""
    if period == _WHOLE_HISTORY:
        return EVER
    year, _, month = period.partition("-")
    if month:
        return month_range(int(year), int(month))
    return TimeRange(parse_time(year), parse_time(str(int(year) + 1)))


def periods_between(first_us: int, last_us: int, period: Period) -> list[str]:
    """Name every period from that of the first time to that of the last one, both counted in."""
    found = [period_of(first_us, period)]
    last = period_of(last_us, period)
    while found[-1] != last:
        found.append(period_of(span_of(found[-1]).end_us, period))
    return found
