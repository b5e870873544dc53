"""Bars that look wrong, by statistics of their own symbol.

Each method says what it expected and how far the bar is from it. Baselines look back (what comes is
held against what was), but for Hampel's filter, which looks at both sides of a bar and so tells a
spike that comes back from a move. A return exists only between bars that follow each other: nothing
is computed across a gap but the jump over it, whose limit grows with the time that passed.

A series may be handed in in pieces; `Carry` holds what the next piece needs, so that pieces find
what one run finds. Memory: a piece, `limits.rows_carried` rows (some 500), and a few columns of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.robust import Window, medians_and_mads, outliers
from lakehouse_ray.kernels.sentence import sentence
from lakehouse_ray.model.timespan import HOUR_US
from lakehouse_ray.model.venue import INTERVALS

FINDINGS_SCHEMA = pl.Schema(
    {
        "time": pl.Datetime("us", "UTC"),
        "method": pl.String(),
        # How far beyond the limit: 1 is at it.
        "score": pl.Float64(),
        "value": pl.Float64(),
        "expected": pl.Float64(),
        "reason": pl.String(),
    }
)

_BARS = ("open_time", "high", "low", "close", "volume")


@dataclass(frozen=True)
class AnomalyLimits:
    """What is too far. Defaults were set on real bars: docs/anomalies.md has what they find.

    window: Bars that a baseline looks back on, `window_least` of them at least.
    return_z, volume_z: Deviations of log returns and log volume, in scales of 1.4826 MAD.
    move_floor: Scale below which no return's goes; nor does it go below the smallest price step seen
        in the window, so that single ticks of a coarse price are no outliers. Where the price did
        not move in the whole window, its scale is not known and only `jump` speaks.
    volume_floor: The same for the log of volume.
    hampel_side: Bars on each side of the one that Hampel's filter looks at.
    hampel_z: Deviation of the close from their median.
    hampel_move: And as a fraction of the price.
    hampel_steps: And in smallest price steps of the window before; the same holds as for returns.
    jump: Return, as a fraction, over an hour; grows with the square root of time, never below
        `jump_least`.
    volume_jump: Volume in medians of the window; and at least `volume_jump_top` times its largest.
    stale_least: Bars with volume in which the price stood still (high, low and close are the close
        before) that are too many where it moves often. The more it stood still before, the more
        are needed: as many as come by chance once in 1 / stale_chance. Beyond `stale_most` nothing
        is said: the price is too coarse to tell.
    """

    window: int = 240
    window_least: int = 60
    return_z: float = 12.0
    volume_z: float = 6.0
    move_floor: float = 1e-4
    volume_floor: float = 0.25
    hampel_side: int = 7
    hampel_z: float = 12.0
    hampel_move: float = 0.005
    hampel_steps: float = 4.0
    jump: float = 0.15
    jump_least: float = 0.05
    volume_jump: float = 30.0
    volume_jump_top: float = 2.0
    stale_least: int = 15
    stale_most: int = 240
    stale_chance: float = 1e-6

    @property
    def rows_carried(self) -> int:
        """A run of `stale_most`, the window before its start, and the bar before that."""
        return self.window + self.stale_most + self.hampel_side + 2


@dataclass(frozen=True)
class Carry:
    """What the next piece of the series needs.

    rows: The last bars of the pieces so far.
    unsaid: How many of them wait for bars after them.
    """

    rows: pl.DataFrame
    unsaid: int


def find_anomalies(
    bars: pl.DataFrame,
    interval: str,
    limits: AnomalyLimits | None = None,
    carry: Carry | None = None,
    *,
    last: bool = True,
) -> tuple[pl.DataFrame, Carry]:
    """Return findings in FINDINGS_SCHEMA, by time, and what the next piece needs.

    bars: Of one symbol, in strict order of open_time; open_time, high, low, close, volume are read.
    last: No piece follows; else the last `hampel_side` bars wait for the next one.
    Raises InvalidError where bars are out of order. The same input gives the same findings.
    """
    limits = limits or AnomalyLimits()
    piece = bars.select(_BARS)
    rows = piece if carry is None else pl.concat([carry.rows, piece])
    if not rows["open_time"].is_sorted() or rows["open_time"].is_duplicated().any():
        raise InvalidError("bars must be in strict order of open_time", "sort them; one per time")
    start = 0 if carry is None else carry.rows.height - carry.unsaid
    end = rows.height if last else max(start, rows.height - limits.hampel_side)
    kept = rows.tail(limits.rows_carried)
    next_carry = Carry(kept, min(rows.height - end, kept.height))
    if start >= end:
        return pl.DataFrame(schema=FINDINGS_SCHEMA), next_carry
    series = with_series(rows, interval)
    found = [
        _return_z(series, limits),
        _hampel(series, limits),
        _volume_z(series, limits),
        _return_jump(series, limits),
        _volume_jump(series, limits),
        _stale(series, limits),
    ]
    findings = pl.concat(found).filter(pl.col("row").is_between(start, end - 1))
    return _by_time(findings, series), next_carry


def with_series(rows: pl.DataFrame, interval: str) -> pl.DataFrame:
    """Bars as methods see them: impossible numbers as null, and the return to each from the last.

    ret: log(close / close of the bar before), null across a gap. moved: over a gap too.
    """
    numbers = ("high", "low", "close", "volume")
    finite = rows.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name).cast(pl.Float64)).alias(name)
        for name in numbers
    )
    elapsed = pl.col("open_time").diff().dt.total_microseconds()
    length = INTERVALS[interval]
    adjacent = elapsed == length if length else elapsed <= 31 * 24 * HOUR_US
    price = pl.when(pl.col("close") > 0).then(pl.col("close"))
    moved = (price / price.shift(1)).log()
    return finite.with_columns(
        elapsed=elapsed,
        adjacent=adjacent.fill_null(False),
        price=price,
        moved=moved,
        ret=pl.when(adjacent).then(moved),
        traded=pl.when(pl.col("volume") > 0).then(pl.col("volume")),
    )


def _found(
    row: pl.Expr, method: str, score: pl.Expr, value: pl.Expr, expected: pl.Expr, reason: pl.Expr
) -> list[pl.Expr]:
    return [
        row.cast(pl.Int64).alias("row"),
        pl.lit(method).alias("method"),
        score.cast(pl.Float64).alias("score"),
        value.cast(pl.Float64).alias("value"),
        expected.cast(pl.Float64).alias("expected"),
        reason.alias("reason"),
    ]


def _beyond(value: pl.Expr, limit: float) -> pl.Expr:
    """value / limit, to the last digit whatever the number of rows.

    Polars divides a column of one row by a number otherwise than a longer one, and pieces must give
    what one run gives.
    """
    return value * (1 / limit)


def _step(moves: pl.Expr, limits: AnomalyLimits) -> pl.Expr:
    """The smallest move in the window before: about a tick, and nothing smaller is a scale."""
    moved = pl.when(moves != 0).then(moves.abs())
    return moved.shift(1).rolling_min(limits.window, min_samples=1)


def _percent(fraction: pl.Expr) -> pl.Expr:
    return (fraction * 100).round(3)


def _significant(number: pl.Expr) -> pl.Expr:
    return number.round_sig_figs(6)


def _return_z(series: pl.DataFrame, limits: AnomalyLimits) -> pl.DataFrame:
    window = Window(limits.window, least=limits.window_least)
    step = _step(pl.col("ret"), limits)
    floor = series.select(
        pl.when(step.is_null()).then(math.inf).otherwise(pl.max_horizontal(step, limits.move_floor))
    ).to_series()
    out = outliers(series["ret"], window, limits.return_z, floor)
    return out.select(
        _found(
            pl.col("row"),
            "return_z",
            _beyond(pl.col("z").abs(), limits.return_z),
            pl.col("value").exp() - 1,
            pl.col("median").exp() - 1,
            sentence(
                "moved {} %, {} scales of {} % from the median of {} bars before",
                _percent(pl.col("value").exp() - 1),
                pl.col("z").round(1),
                _percent(pl.col("scale")),
                pl.lit(limits.window),
            ),
        )
    )


def _volume_z(series: pl.DataFrame, limits: AnomalyLimits) -> pl.DataFrame:
    window = Window(limits.window, least=limits.window_least)
    floor = pl.repeat(limits.volume_floor, series.height, eager=True)
    out = outliers(series["traded"].log(), window, limits.volume_z, floor)
    return out.select(
        _found(
            pl.col("row"),
            "volume_z",
            _beyond(pl.col("z").abs(), limits.volume_z),
            pl.col("value").exp(),
            pl.col("median").exp(),
            sentence(
                "volume {}, {} scales of the log from {}, the median of {} bars before",
                _significant(pl.col("value").exp()),
                pl.col("z").round(1),
                _significant(pl.col("median").exp()),
                pl.lit(limits.window),
            ),
        )
    )


def _hampel(series: pl.DataFrame, limits: AnomalyLimits) -> pl.DataFrame:
    side = limits.hampel_side
    step = _step(pl.col("price").diff(), limits)
    least = pl.max_horizontal(limits.hampel_move * pl.col("price"), limits.hampel_steps * step)
    floor = series.select(
        pl.when(step.is_null()).then(math.inf).otherwise(_beyond(least, limits.hampel_z))
    ).to_series()
    window = Window(side, side, least=side + 1)
    out = outliers(series["price"], window, limits.hampel_z, floor)
    return out.select(
        _found(
            pl.col("row"),
            "hampel",
            _beyond(pl.col("z").abs(), limits.hampel_z),
            pl.col("value"),
            pl.col("median"),
            sentence(
                "close {} is {} % and {} scales from {}, the median of {} bars around it",
                pl.col("value"),
                _percent(pl.col("value") / pl.col("median") - 1),
                pl.col("z").round(1),
                pl.col("median"),
                pl.lit(2 * side + 1),
            ),
        )
    )


def _return_jump(series: pl.DataFrame, limits: AnomalyLimits) -> pl.DataFrame:
    hours = _beyond(pl.col("elapsed"), HOUR_US)
    limit = pl.max_horizontal(limits.jump * hours.sqrt(), limits.jump_least)
    change = pl.col("moved").exp() - 1
    # A fall to a half and a rise to the double are one size.
    size = pl.col("moved").abs().exp() - 1
    return (
        series.with_row_index("row")
        .with_columns(before=pl.col("price").shift(1))
        .filter(size > limit)
        .select(
            _found(
                pl.col("row"),
                "return_jump",
                size / limit,
                pl.col("close"),
                pl.col("before"),
                sentence(
                    "close {} after {}: {} % in {} hours, more than {} %",
                    "close",
                    "before",
                    _percent(change),
                    hours.round(3),
                    _percent(limit),
                ),
            )
        )
    )


def _volume_jump(series: pl.DataFrame, limits: AnomalyLimits) -> pl.DataFrame:
    # The largest volume of a window is cheap and few bars exceed it; medians are found for these.
    size = limits.window
    before = pl.col("traded").shift(1)
    larger = (
        series.with_row_index("row")
        .select(
            pl.col("row").cast(pl.Int64),
            "traded",
            top=before.rolling_max(size, min_samples=limits.window_least),
        )
        .filter(pl.col("traded") > limits.volume_jump_top * pl.col("top"))
    )
    window = Window(size, least=limits.window_least)
    medians, _ = medians_and_mads(series["traded"], larger["row"].to_numpy(), window)
    times = pl.col("traded") / pl.col("median")
    return (
        larger.with_columns(median=pl.Series(medians, dtype=pl.Float64))
        .filter(times > limits.volume_jump)
        .select(
            _found(
                pl.col("row"),
                "volume_jump",
                _beyond(times, limits.volume_jump),
                pl.col("traded"),
                pl.col("median"),
                sentence(
                    "volume {} is {} times the median and {} times the largest of {} bars before",
                    _significant(pl.col("traded")),
                    times.round(1),
                    (pl.col("traded") / pl.col("top")).round(1),
                    pl.lit(size),
                ),
            )
        )
    )


def _stale(series: pl.DataFrame, limits: AnomalyLimits) -> pl.DataFrame:
    """One finding per run, at the bar at which it has become too long."""
    counted = pl.col("adjacent") & pl.col("traded").is_not_null()
    still = (pl.col("price") == pl.col("price").shift(1)) & (pl.col("high") == pl.col("low"))
    same = (counted & still).fill_null(False)
    row = pl.col("row").cast(pl.Int64)
    frame = (
        series.with_row_index("row")
        .with_columns(counted=counted, same=same)
        .with_columns(
            # Sums of whole numbers: the same whatever bar the piece begins with.
            n=pl.col("counted").cast(pl.Int64).rolling_sum(limits.window, min_samples=1),
            unchanged=pl.col("same").cast(pl.Int64).rolling_sum(limits.window, min_samples=1),
            broken=pl.when(~pl.col("same")).then(row).forward_fill(),
        )
        .with_columns(run=row - pl.col("broken"))
    )
    # The share of bars in which the price stood still, before the run began.
    chance = pl.when(pl.col("n") >= limits.window_least).then(
        (pl.col("unchanged") + 1) / (pl.col("n") + 2)
    )
    at_start = pl.when(~pl.col("same")).then(chance.fill_null(float("nan"))).forward_fill()
    needed = (math.log(limits.stale_chance) / at_start.log()).ceil().fill_nan(None)
    needed = pl.max_horizontal(pl.when(needed.is_not_null()).then(limits.stale_least), needed)
    return (
        frame.with_columns(chance=at_start, needed=needed)
        .filter((pl.col("run") == pl.col("needed")) & (pl.col("run") <= limits.stale_most))
        .select(
            _found(
                pl.col("row"),
                "stale_price",
                pl.lit(1.0),
                pl.col("close"),
                pl.lit(None),
                sentence(
                    "price {} stood still for {} bars with volume; before, it did in {} % of bars",
                    "close",
                    "run",
                    _percent(pl.col("chance")),
                ),
            )
        )
    )


def _by_time(findings: pl.DataFrame, series: pl.DataFrame) -> pl.DataFrame:
    times = series.select(time="open_time").with_row_index("row").cast({"row": pl.Int64})
    return (
        findings.join(times, on="row", how="inner")
        .sort("row", "method")
        .select(FINDINGS_SCHEMA.names())
        .cast(FINDINGS_SCHEMA)
    )


def join_findings(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Findings of several methods or pieces, by time and method."""
    return pl.concat([pl.DataFrame(schema=FINDINGS_SCHEMA), *parts]).sort("time", "method")
