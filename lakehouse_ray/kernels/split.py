"""Cut a symbol's history where it stopped for long: what follows may be another asset.

Two rules, each on the time without bars, from the end of one to the opening of the next:

- change: at least a day without a *traded* bar, and the price moved by more than a tenth meanwhile.
  Flat bars without volume, which the exchange keeps writing after a halt, are no trading.
- long: at least two days without *any* bar, whatever the price did.

Parts are named as their users know them: `SP0_<symbol>`, `SP1_<symbol>` …, the last keeps the name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from lakehouse_ray.kernels.grid import Times, ends, times_of
from lakehouse_ray.model.timespan import DAY_US


@dataclass(frozen=True)
class SplitRule:
    """gap_us_min, change_min: Of the first rule; the change is that of the next open against the
    close before, as a fraction. long_gap_us_min: Of the second."""

    gap_us_min: int = DAY_US
    change_min: float = 0.10
    long_gap_us_min: int = 2 * DAY_US


SPLIT = SplitRule()


def split_rows(bars: pl.DataFrame, interval: str, rule: SplitRule = SPLIT) -> Times:
    """Rows with which a new part begins, ascending; never the first.

    bars: One symbol's real ones, in order. Raises BadDataError for bars out of order.
    """
    opens = times_of(bars)
    silent = opens[1:] - ends(opens, interval)[:-1]
    long = np.flatnonzero(silent >= rule.long_gap_us_min) + 1
    volume = bars["volume"].to_numpy()
    traded = np.flatnonzero(~(volume == 0))  # a volume that is unknown is not known to be none
    silent = opens[traded[1:]] - ends(opens[traded], interval)[:-1]
    before = bars["close"].to_numpy()[traded[:-1]]
    after = bars["open"].to_numpy()[traded[1:]]
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.abs(after / before - 1) > rule.change_min  # false where a price is unknown
    change = traded[1:][(silent >= rule.gap_us_min) & moved]
    return np.union1d(long, change).astype(np.int64)


def part_names(symbol: str, parts: int) -> list[str]:
    """Names of the parts of a symbol, in time."""
    return [f"SP{n}_{symbol}" for n in range(parts - 1)] + [symbol]


def with_segment(
    bars: pl.DataFrame, symbol: str, interval: str, rule: SplitRule = SPLIT
) -> pl.DataFrame:
    """Return the bars with `segment`, the name of the part each belongs to."""
    rows = split_rows(bars, interval, rule)
    names = pl.Series(part_names(symbol, rows.size + 1), dtype=pl.String)
    part = np.searchsorted(rows, np.arange(bars.height), side="right")
    return bars.with_columns(names[part].alias("segment"))
