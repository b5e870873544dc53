"""How often each data set should have a row: what a gap is measured against."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.timespan import MINUTE_US, SECOND_US
from lakehouse_ray.model.venue import INTERVALS


@dataclass(frozen=True)
class Grid:
    """A row in each slot `[anchor + k * step, anchor + (k + 1) * step)`.

    A row counts for the slot in which its time lies, so the bars that ran 14.789 s past the hour in
    February 2018 leave no false gaps, nor do metrics taken a second or two late.

    anchor_us: None: the first row of the series.
    """

    step_us: int
    anchor_us: int | None = 0


@dataclass(frozen=True)
class Months:
    """A row in each calendar month."""


@dataclass(frozen=True)
class OwnHours:
    """Each row says how many hours lie between it and the one before; times jitter past the hour.

    Where two neighbours say different numbers, the larger counts: a change of rhythm is no gap.
    """

    column: str


@dataclass(frozen=True)
class About:
    """A row about every `step_us`. Only a distance of more than `step_us + tolerance_us` is a gap:
    a single late or missing one is not, since nothing says when it was due."""

    step_us: int
    tolerance_us: int


@dataclass(frozen=True)
class Ids:
    """No rhythm in time: rows are numbered one by one within a day, and a gap is a jump of ids."""

    column: str


Rhythm = Grid | Months | OwnHours | About | Ids

# Monday, 5 January 1970: weeks begin there.
_MONDAY_US = 4 * 24 * 60 * MINUTE_US

_BY_DATASET: dict[str, Rhythm] = {
    "metrics": Grid(5 * MINUTE_US),
    "fundingRate": OwnHours("funding_interval_hours"),
    "bookDepth": About(30 * SECOND_US, 30 * SECOND_US),
    # Numbers of joined trades have no holes in any of the files looked at (23 symbol-days, three
    # markets' worth of symbols); those of single trades do (6,991 of SOLUSDT in a day), on futures
    # at least, where a hole tells nothing.
    "aggTrades": Ids("agg_trade_id"),
}
_SPOT_TRADES = Ids("id")


def rhythm_of(dataset: Dataset, market: str, interval: str | None) -> Rhythm | None:
    """Return what a data set's rows are spaced by; None where they come when something happens.

    interval: Of bars.
    """
    if dataset.bars:
        assert interval is not None
        step = INTERVALS[interval]
        if step is None:
            return Months()
        if interval == "1w":
            return Grid(step, _MONDAY_US)
        # The exchange counts its 3d bars from a day of its own.
        return Grid(step, None if interval == "3d" else 0)
    if dataset.name == "trades":
        return _SPOT_TRADES if market == "spot" else None
    return _BY_DATASET.get(dataset.name)
