"""Longer bars from shorter ones: any interval, any offsets in one pass, every policy explicit.

A bar is labelled by its opening and holds `[open_time, open_time + length)`. Finer bars are first
added up to the coarsest step that all offsets share, then each run of steps is one bar, so twelve
offsets cost little more than one.

Every bar says how many finer bars it was made from and how many there should have been; one with
fewer, or with one that lies off the grid (and so may reach over its edge), is partial. A finer bar
marked `is_filled`, or without all four prices, counts as absent. An unknown volume makes that
column null in the bars it belongs to, and in no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Literal, get_args

import numpy as np
import polars as pl

from lakehouse_ray.errors import BadDataError, InvalidError
from lakehouse_ray.kernels.aggregate import Bars, Floats, by_slot, by_window
from lakehouse_ray.kernels.fill import PRICES, VOLUMES, How, fill_gaps, tick_us
from lakehouse_ray.kernels.grid import (
    Times,
    as_times,
    check_offsets,
    divides,
    ends,
    finer,
    format_offset,
    origin_us,
    slots,
    starts,
    times_of,
)
from lakehouse_ray.model.venue import INTERVALS, parse_interval

PartialPolicy = Literal["keep", "drop"]
EmptyPolicy = Literal["none", "null", "carry"]

FUNDING = ("funding_rate", "funding_events")
_UNKNOWN = "unknown "


@dataclass(frozen=True)
class Resampling:
    """What to make.

    source, target: Intervals, of which the first divides the second.
    offsets_us: Of the calendars wanted; each below one bar and a multiple of the source.
    partial: `keep` bars that lack finer bars, marked, or `drop` them.
    empty: What to do where a bar has no finer bar at all between the first and the last bar: `none`
        leaves it out, `null` and `carry` put one there, marked `is_filled`, without values or with
        the last close.

    Raises InvalidError for what cannot be made, saying what could.
    """

    source: str
    target: str
    offsets_us: tuple[int, ...] = (0,)
    partial: PartialPolicy = "keep"
    empty: EmptyPolicy = "none"

    def __post_init__(self) -> None:
        for interval in (self.source, self.target):
            if parse_interval(interval) != interval:
                raise InvalidError(f"unknown interval {interval!r}", "a month is 1mo")
        if not divides(self.source, self.target):
            could = ", ".join(finer(self.target))
            raise InvalidError(
                f"bars of {self.target} cannot be made from bars of {self.source}",
                f"they can be made from {could}" if could else "it is the shortest there is",
            )
        if not self.offsets_us or len(set(self.offsets_us)) != len(self.offsets_us):
            raise InvalidError("at least one offset, and each once", "0m is no offset")
        check_offsets(self.source, self.target, self.offsets_us)
        for policy, known in ((self.partial, PartialPolicy), (self.empty, EmptyPolicy)):
            if policy not in get_args(known):
                names = ", ".join(get_args(known))
                raise InvalidError(f"unknown policy {policy!r}", f"one of {names}")

    @property
    def source_us(self) -> int:
        length_us = INTERVALS[self.source]
        assert length_us is not None  # a month divides nothing
        return length_us


def resample(bars: pl.DataFrame, plan: Resampling) -> pl.DataFrame:
    """Return the bars of the plan, by offset and then by time.

    bars: One symbol's, ascending by `open_time`, each once: the four prices; the volumes, `trades`,
        `close_time`, `funding_rate` (null: none fell due) as far as there are any. Bars that were
        resampled themselves keep the count of what they were made from.

    Columns: offset, open_time, the prices and sums, close_time, bars, bars_expected, is_partial,
    is_filled, source_interval, partial_policy, empty_policy.

    Raises BadDataError for bars out of order or repeated. Memory: some three times the columns used.
    """
    return finish([aggregate(bars, plan)], plan)


def resample_pieces(pieces: Iterable[pl.DataFrame], plan: Resampling) -> pl.DataFrame:
    """`resample` of a history that comes in pieces, one after the other in time.

    The result is the same wherever it was cut; memory is that of the largest piece and the result.
    Raises BadDataError also where a piece does not begin after the one before it, and InvalidError
    where there is no piece at all.
    """
    parts: list[pl.DataFrame] = []
    last_us: int | None = None
    for piece in pieces:
        opens = times_of(piece)
        if opens.size and last_us is not None and opens[0] <= last_us:
            at = piece["open_time"][0]
            raise BadDataError("NOT_ORDERED", f"a piece begins at {at}, within the one before it")
        last_us = int(opens[-1]) if opens.size else last_us
        parts.append(aggregate(piece, plan))
    if not parts:
        raise InvalidError("no pieces to resample", "an empty history is one empty frame")
    return finish(parts, plan)


def aggregate(bars: pl.DataFrame, plan: Resampling) -> pl.DataFrame:
    """Add up, before any policy: parts of one bar from several pieces are joined by `finish`."""
    opens = times_of(bars)
    usable = _usable(bars)
    if not usable.all():
        bars, opens = bars.filter(usable), opens[usable.to_numpy()]
    base, unit = _arrays(bars, opens, plan)
    if len(plan.offsets_us) > 1 and plan.target != "1mo":
        return _stepped(base, plan, unit)
    return pl.concat([_aligned(base, plan, unit, offset_us) for offset_us in plan.offsets_us])


def finish(parts: Sequence[pl.DataFrame], plan: Resampling) -> pl.DataFrame:
    """Join what `aggregate` made of consecutive pieces, and apply the plan's policies."""
    made = _joined(pl.concat(parts))
    short = pl.col("bars") < pl.col("bars_expected")
    made = made.with_columns(is_partial=short | (pl.col("off_grid") > 0), is_filled=pl.lit(False))
    if plan.empty != "none":
        made = _filled(made, plan, plan.empty)
    if plan.partial == "drop":
        made = made.filter(~pl.col("is_partial") | pl.col("is_filled"))
    names = {offset_us: format_offset(offset_us) for offset_us in plan.offsets_us}
    return made.select(
        pl.col("offset_us").replace_strict(names, return_dtype=pl.String).alias("offset"),
        pl.exclude("offset_us", "off_grid"),
        source_interval=pl.lit(plan.source),
        partial_policy=pl.lit(plan.partial),
        empty_policy=pl.lit(plan.empty),
    )


def _usable(bars: pl.DataFrame) -> pl.Series:
    known = pl.all_horizontal(
        pl.col(name).cast(pl.Float64).fill_nan(None).is_not_null() for name in PRICES
    )
    if "is_filled" in bars.columns:
        known = known & ~pl.col("is_filled")
    return bars.select(known.alias("usable")).to_series()


def _arrays(bars: pl.DataFrame, opens: Times, plan: Resampling) -> tuple[Bars, int]:
    """The columns as arrays, and how many bars a bar of the source should have been made from."""
    present, off_grid, unit = _made_of(bars, opens, plan)
    counts = {"bars": present, "off_grid": off_grid}
    sums: dict[str, Floats] = {}
    for name in (*VOLUMES, "trades"):
        if name not in bars.columns:
            continue
        known = bars[name]
        unknown = known.cast(pl.Float64).fill_nan(None).is_null()
        if unknown.any():
            counts[_UNKNOWN + name] = unknown.to_numpy().astype(np.int64)
            known = known.set(unknown, 0)
        if name == "trades":
            counts[name] = known.cast(pl.Int64).to_numpy()
        else:
            sums[name] = known.cast(pl.Float64).to_numpy()
    traded = np.ones(opens.size, np.bool_)
    if "volume" in sums:  # unknown is not known to be none
        traded = (sums["volume"] != 0) | (counts.get(_UNKNOWN + "volume", 0) != 0)
    if "funding_rate" in bars.columns:
        rate = bars["funding_rate"].fill_nan(None)
        sums["funding_rate"] = rate.fill_null(0.0).to_numpy()
        events = bars["funding_events"] if "funding_events" in bars.columns else rate.is_not_null()
        counts["funding_events"] = events.fill_null(0).cast(pl.Int64).to_numpy()
    ticks = np.full(opens.size, 1000)
    if "close_time" in bars.columns:
        ticks = tick_us(bars["close_time"])
    open_, high, low, close = (bars[name].cast(pl.Float64).to_numpy() for name in PRICES)
    return Bars(opens, open_, high, low, close, traded, sums, counts, ticks), unit


def _made_of(bars: pl.DataFrame, opens: Times, plan: Resampling) -> tuple[Times, Times, int]:
    """How many bars each counts as, whether it lies off the grid, and what it should count as."""
    off_grid = ((opens - origin_us(plan.source)) % plan.source_us != 0).astype(np.int64)
    if not bars.height or not {"bars", "bars_expected"} <= set(bars.columns):
        return np.ones(opens.size, np.int64), off_grid, 1
    units = bars["bars_expected"].unique().sort()
    if units.len() != 1:
        raise InvalidError(
            "bars made from different numbers of bars cannot be added up",
            f"bars_expected is {', '.join(map(str, units))}",
        )
    unit, present = int(units[0]), bars["bars"].cast(pl.Int64).to_numpy()
    if (
        "is_partial" in bars.columns
    ):  # partial with nothing missing: one of its bars lay off the grid
        off_grid |= bars["is_partial"].to_numpy() & (present >= unit)
    return present, off_grid, unit


def _aligned(base: Bars, plan: Resampling, unit: int, offset_us: int) -> pl.DataFrame:
    """Bars of one offset, straight from the finer ones."""
    made = by_slot(replace(base, slot=slots(base.slot, plan.target, offset_us)))
    opens = starts(made.slot, plan.target, offset_us)
    return _frame(made, opens, np.full(opens.size, offset_us), plan, unit)


def _stepped(base: Bars, plan: Resampling, unit: int) -> pl.DataFrame:
    """Bars of a fixed length at all offsets: first the steps they share, then runs of steps."""
    length_us = INTERVALS[plan.target]
    assert length_us is not None
    step_us = gcd(length_us, *plan.offsets_us)
    width = length_us // step_us
    origin = origin_us(plan.target)
    wanted = np.zeros(width, np.bool_)
    wanted[[offset_us // step_us for offset_us in plan.offsets_us]] = True
    steps = by_slot(replace(base, slot=(base.slot - origin) // step_us))
    made = by_window(steps, width, lambda slot: wanted[slot % width])
    offset_us = made.slot % width * step_us
    order = np.argsort(offset_us, kind="stable")
    made = made.take(order)
    return _frame(made, made.slot * step_us + origin, offset_us[order], plan, unit)


def _frame(made: Bars, opens: Times, offsets: Times, plan: Resampling, unit: int) -> pl.DataFrame:
    offset_us = int(offsets[0]) if offsets.size and plan.target == "1mo" else 0
    end = ends(opens, plan.target, offset_us)
    columns: dict[str, pl.Series] = {
        "offset_us": pl.Series(offsets, dtype=pl.Int64),
        "open_time": as_times(opens),
        **{name: pl.Series(getattr(made, name), dtype=pl.Float64) for name in PRICES},
    }
    for name in (*VOLUMES, "trades"):
        if name in made.sums or name in made.counts:
            column = pl.Series(made.sums[name] if name in made.sums else made.counts[name])
            if (unknown := made.counts.get(_UNKNOWN + name)) is not None:
                column = column.set(pl.Series(unknown > 0), None)
            columns[name] = column
    columns["close_time"] = as_times(end - made.tick_us)
    if "funding_rate" in made.sums:
        events = made.counts["funding_events"]
        columns["funding_rate"] = pl.Series(made.sums["funding_rate"]).set(
            pl.Series(events == 0), None
        )
        columns["funding_events"] = pl.Series(events, dtype=pl.Int32)
    columns["bars"] = pl.Series(made.counts["bars"]).cast(pl.Int32)
    columns["bars_expected"] = pl.Series((end - opens) // plan.source_us * unit).cast(pl.Int32)
    columns["off_grid"] = pl.Series(made.counts["off_grid"]).cast(pl.Int32)
    return pl.DataFrame(columns)


def _joined(parts: pl.DataFrame) -> pl.DataFrame:
    """One row per bar, from rows that may each be a part of one; in time within an offset."""
    key = ["offset_us", "open_time"]
    cut = parts.select(pl.struct(key).is_duplicated()).to_series()
    if not cut.any():
        return parts.sort(key) if parts.height else parts
    some = pl.col("volume").fill_null(1.0) != 0 if "volume" in parts.columns else pl.lit(True)
    # The prices of the parts that traded; of all of them where none did.
    told = some | ~some.any()
    sums = [name for name in parts.columns if name in (*VOLUMES, "trades")]
    whole = (
        parts.filter(cut)
        .group_by(key, maintain_order=True)
        .agg(
            pl.col("open").filter(told).first(),
            pl.col("high").filter(told).max(),
            pl.col("low").filter(told).min(),
            pl.col("close").filter(told).last(),
            # Null, not less, where a part is unknown.
            *(pl.when(pl.col(name).is_not_null().all()).then(pl.col(name).sum()) for name in sums),
            pl.col("close_time").last(),
            *(
                pl.when(pl.col(name).is_not_null().any())
                .then(pl.col(name).sum())
                .cast(parts.schema[name])
                for name in FUNDING
                if name in parts.columns
            ),
            pl.col("bars").sum().cast(pl.Int32),
            pl.col("bars_expected").first(),
            pl.col("off_grid").sum().cast(pl.Int32),
        )
    )
    return pl.concat([parts.filter(~cut), whole.select(parts.columns)]).sort(key)


def _filled(made: pl.DataFrame, plan: Resampling, how: How) -> pl.DataFrame:
    parts = [
        fill_gaps(part, plan.target, offset_us=part["offset_us"][0], how=how).with_columns(
            pl.col("bars", "off_grid").fill_null(0),
            pl.col("is_partial").fill_null(value=True),
            bars_expected=_expected(part, plan),
        )
        for part in made.partition_by("offset_us", maintain_order=True)
    ]
    return pl.concat(parts) if parts else made


def _expected(part: pl.DataFrame, plan: Resampling) -> pl.Expr:
    """`bars_expected` where it is null: what a bar of that length has, as the part's first tells."""
    if INTERVALS[plan.target] is not None:
        return pl.col("bars_expected").fill_null(strategy="forward")
    month = pl.col("open_time").dt.offset_by("1mo") - pl.col("open_time")
    length_us = month.dt.total_microseconds()
    first_us = int(part.head(1).select(length_us).item())
    unit = int(part["bars_expected"][0]) * plan.source_us // first_us
    return (length_us // plan.source_us * unit).cast(pl.Int32)
