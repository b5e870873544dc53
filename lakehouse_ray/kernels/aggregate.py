"""Bars added up to longer bars, as arithmetic on arrays.

Prices are those of the bars that traded: where some of a longer bar's bars have volume, those
without are left out of its open, high, low and close, since theirs is a price of before. That is
how the exchange's own longer bars are made (an hour whose first five minutes had no trade opens at
its first trade, not at the price carried into it). Where none traded, the flat price stays.

Both steps are associative, so bars may be added up in any number of steps with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lakehouse_ray.kernels.grid import Times

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Bars:
    """Bars in time, one value per bar in each array.

    slot: Number of the bar on some calendar, ascending; several bars of one slot are one later.
    traded: Whether it has volume, as far as is known.
    sums, counts: Columns that are added up.
    tick_us: The unit its close time is written in.
    """

    slot: Times
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    traded: Flags
    sums: dict[str, Floats]
    counts: dict[str, Times]
    tick_us: Times

    def take(self, rows: npt.NDArray[np.intp] | Flags | slice) -> Bars:
        return Bars(
            self.slot[rows],
            self.open[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.traded[rows],
            {name: column[rows] for name, column in self.sums.items()},
            {name: column[rows] for name, column in self.counts.items()},
            self.tick_us[rows],
        )


def by_slot(bars: Bars) -> Bars:
    """One bar per slot."""
    size = bars.slot.size
    if size == 0:
        return bars
    first = np.flatnonzero(np.concatenate(([True], bars.slot[1:] != bars.slot[:-1])))
    if first.size == size:
        return bars
    last = np.append(first[1:], size) - 1
    traded = np.logical_or.reduceat(bars.traded, first)
    priced, begin, end = bars, first, last
    if not bars.traded.all():
        used = bars.traded | ~np.repeat(traded, last - first + 1)
        priced = bars.take(used)
        end = np.cumsum(np.add.reduceat(used.astype(np.int64), first)) - 1
        begin = np.append(0, end[:-1] + 1)
    return Bars(
        slot=bars.slot[first],
        open=priced.open[begin],
        high=np.maximum.reduceat(priced.high, begin),
        low=np.minimum.reduceat(priced.low, begin),
        close=priced.close[end],
        traded=traded,
        sums={name: np.add.reduceat(column, first) for name, column in bars.sums.items()},
        counts={name: np.add.reduceat(column, first) for name, column in bars.counts.items()},
        tick_us=bars.tick_us[last],
    )


def by_window(bars: Bars, width: int, begins: Callable[[Times], Flags]) -> Bars:
    """One bar for each run of `width` slots that has a bar in it; its slot is the run's first.

    bars: One per slot.
    begins: Which slots a run may begin with.

    Sums are of pairs of pairs, so that their error grows with the logarithm of the width. Memory:
    a few arrays as long as all possible runs; holes longer than a run take no more than one.
    """
    if width == 1 or bars.slot.size == 0:
        return bars.take(begins(bars.slot))
    place: Times = np.append(0, np.cumsum(np.minimum(np.diff(bars.slot), width))) + (width - 1)
    size = int(place[-1]) + 1
    before = np.zeros(size + width, np.int64)
    before[place + 1] = 1
    np.cumsum(before, out=before)  # bars in the places below
    first, stop = before[:size], before[width:]
    run = np.flatnonzero(stop > first)
    slot: Times = bars.slot[first[run]] - (place[first[run]] - run)
    wanted = begins(slot)
    run, slot = run[wanted], slot[wanted]
    first, stop = first[run], stop[run]

    def summed(column: Floats) -> Floats:
        return _sliding_sum(_spread(column, place, size + width - 1, 0.0), width)[run]

    def counted(column: Times) -> Times:
        below = np.zeros(column.size + 1, np.int64)
        np.cumsum(column, out=below[1:])
        counts: Times = below[stop] - below[first]
        return counts

    wide = Bars(
        slot=slot,
        open=bars.open[first],
        high=_sliding_max(_spread(bars.high, place, size + width - 1, -np.inf), width)[run],
        low=-_sliding_max(_spread(-bars.low, place, size + width - 1, -np.inf), width)[run],
        close=bars.close[stop - 1],
        traded=counted(bars.traded.astype(np.int64)) > 0,
        sums={name: summed(column) for name, column in bars.sums.items()},
        counts={name: counted(column) for name, column in bars.counts.items()},
        tick_us=bars.tick_us[stop - 1],
    )
    return wide if bars.traded.all() else _with_traded_prices(wide, bars, place, run, width)


def _with_traded_prices(
    wide: Bars, bars: Bars, place: Times, run: npt.NDArray[np.intp], width: int
) -> Bars:
    """Put the prices of the bars that traded into the runs that have such."""
    priced, at = bars.take(bars.traded), place[bars.traded]
    some = wide.traded
    first = np.searchsorted(at, run[some])
    last = np.searchsorted(at, run[some] + width) - 1
    length = int(place[-1]) + width
    high = _sliding_max(_spread(priced.high, at, length, -np.inf), width)[run[some]]
    low = -_sliding_max(_spread(-priced.low, at, length, -np.inf), width)[run[some]]
    prices = {"open": priced.open[first], "high": high, "low": low, "close": priced.close[last]}
    columns = {name: getattr(wide, name).copy() for name in prices}
    for name, values in prices.items():
        columns[name][some] = values
    return replace(wide, **columns)


def _spread(column: Floats, place: Times, length: int, empty: float) -> Floats:
    spread = np.full(length, empty)
    spread[place] = column
    return spread


def _sliding_sum(values: Floats, width: int) -> Floats:
    """Sums of each run of `width` values, from sums of runs whose widths are powers of two."""
    parts: list[Floats] = []
    covered, block, block_width = 0, values, 1
    while covered < width:
        if width & block_width:
            parts.append(block[covered:])
            covered += block_width
        block = block[:-block_width] + block[block_width:]
        block_width *= 2
    size = values.size - width + 1
    total = parts[0][:size].copy()
    for part in parts[1:]:
        total += part[:size]
    return total


def _sliding_max(values: Floats, width: int) -> Floats:
    block, block_width = values, 1
    while block_width * 2 <= width:
        block = np.maximum(block[:-block_width], block[block_width:])
        block_width *= 2
    rest = block[width - block_width :]
    return np.maximum(block[: rest.size], rest)
