"""Gold bars: average price, funding, gaps filled and marked, long gaps as splits.

Each function takes the frames of one symbol and returns the rows of one table of `model/gold.py`.
Memory: a few times the result; a history of any length can be had in pieces only where neither
splits nor fills reach over the cut, so give whole symbols at one interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.asof import funding_events, join_funding, join_funding_by_offset
from lakehouse_ray.kernels.fill import PRICES, fill_gaps
from lakehouse_ray.kernels.grid import TIME, Times, times_of
from lakehouse_ray.kernels.resample import Resampling, resample
from lakehouse_ray.kernels.split import SPLIT, SplitRule, part_names, split_rows
from lakehouse_ray.kernels.vwap import vwap
from lakehouse_ray.model.datasets.klines import BAR_COLUMNS
from lakehouse_ray.model.gold import klines_table, resampled_table
from lakehouse_ray.model.instrument import contract_size_usd
from lakehouse_ray.model.table import ColumnType, Table
from lakehouse_ray.model.venue import Market

_BARS = tuple(column.name for column in BAR_COLUMNS)

_TYPES: dict[ColumnType, pl.DataType] = {
    "string": pl.String(),
    "long": pl.Int64(),
    "int": pl.Int32(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
    "timestamp": TIME,
}


@dataclass(frozen=True)
class GoldRule:
    """fill: Put a marked bar into every empty slot within a segment. split: None keeps one."""

    fill: bool = True
    split: SplitRule | None = SPLIT


GOLD = GoldRule()


def gold_klines(
    klines: pl.DataFrame,
    funding: pl.DataFrame | None,
    *,
    market: Market,
    symbol: str,
    interval: str,
    rule: GoldRule = GOLD,
) -> pl.DataFrame:
    """Return the rows of `gold.klines` for one symbol and interval, in time.

    klines: Rows of `silver.klines`, ascending by `open_time`, each once. A price that is not a
        number becomes null.
    funding: Rows of `silver.funding_rates`; None on markets without.
    Raises BadDataError for bars out of order or repeated, InvalidError for bars of another symbol.
    """
    check_identity(klines, market, symbol, interval)
    bars = klines.select(_BARS).with_columns(pl.col(pl.Float64).fill_nan(None))
    begins = _part_begins(bars, interval, rule)
    edges = [0, *begins.tolist(), bars.height]
    parts = []
    for n, name in enumerate(part_names(symbol, begins.size + 1)):
        part = bars[edges[n] : edges[n + 1]]
        part = fill_gaps(part, interval) if rule.fill else part.with_columns(is_filled=False)
        parts.append(part.with_columns(segment=pl.lit(name)))
    made = pl.concat(parts).with_columns(vwap=_vwap(market, symbol))
    if funding is None:
        made = _without_funding(made)
    else:
        made = join_funding(made, funding_events(funding), interval)
    return conform(made, klines_table(interval), market=market, symbol=symbol, interval=interval)


def gold_resampled(
    klines: pl.DataFrame,
    funding: pl.DataFrame | None,
    plan: Resampling,
    *,
    market: Market,
    symbol: str,
    rule: GoldRule = GOLD,
) -> pl.DataFrame:
    """Return the rows of `gold.resampled_klines` for one symbol, by offset and time.

    klines: Rows of `silver.klines` at the plan's source interval; not gold's filled ones.
    A bar within which a segment begins is partial, whatever finer bars are there, and belongs to
    the segment it ends in: long ones may hold trades of both.
    Raises as `gold_klines`.
    """
    check_identity(klines, market, symbol, plan.source)
    bars = klines.select(_BARS).with_columns(pl.col(pl.Float64).fill_nan(None))
    made = resample(bars, plan)
    begins = times_of(bars)[_part_begins(bars, plan.source, rule)]
    names = pl.Series(part_names(symbol, begins.size + 1), dtype=pl.String)
    first, last = (made[name].to_physical().to_numpy() for name in ("open_time", "close_time"))
    part = np.searchsorted(begins, last, side="right")
    torn = pl.Series(part > np.searchsorted(begins, first, side="right"), dtype=pl.Boolean)
    made = made.with_columns(
        names[part].alias("segment"),
        is_partial=pl.col("is_partial") | torn,
        vwap=_vwap(market, symbol),
    )
    if plan.partial == "drop":
        made = made.filter(~torn)
    if funding is None:
        made = _without_funding(made)
    else:
        made = join_funding_by_offset(made, funding_events(funding), plan.target)
    table = resampled_table(plan.target)
    return conform(made, table, market=market, symbol=symbol, interval=plan.target)


def conform(frame: pl.DataFrame, table: Table, **constants: str) -> pl.DataFrame:
    """The table's columns in its order and types; `constants` are those with one value."""
    frame = frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
    return frame.select(pl.col(column.name).cast(_TYPES[column.type]) for column in table.columns)


def check_identity(klines: pl.DataFrame, market: str, symbol: str, interval: str) -> None:
    """Raise InvalidError where the bars say that they are of something else."""
    for name, value in (("market", market), ("symbol", symbol), ("interval", interval)):
        if name in klines.columns and (other := klines.filter(pl.col(name) != value)).height:
            raise InvalidError(
                f"bars of {name} {other[name][0]!r} were given as those of {value!r}",
                "give the rows of one symbol and interval",
            )


def _part_begins(bars: pl.DataFrame, interval: str, rule: GoldRule) -> Times:
    """Rows with which a part after the first begins."""
    if rule.split is None:
        return np.empty(0, np.int64)
    known = bars.with_columns(pl.col(PRICES).forward_fill())
    return split_rows(known, interval, rule.split)


def _vwap(market: Market, symbol: str) -> pl.Expr:
    return vwap(market, contract_size_usd(symbol) if market == "cm" else None)


def _without_funding(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.with_columns(
        funding_rate=pl.lit(None, dtype=pl.Float64), funding_events=pl.lit(0, dtype=pl.Int32)
    )
