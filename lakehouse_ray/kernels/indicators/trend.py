"""Whether there is a trend, and which."""

from __future__ import annotations

import numpy as np

from lakehouse_ray.kernels.indicators import recursions
from lakehouse_ray.kernels.indicators.averages import period
from lakehouse_ray.kernels.indicators.bands import true_range
from lakehouse_ray.kernels.indicators.declaration import Indicator, Parameter
from lakehouse_ray.kernels.indicators.rows import Line, Rows, Whole, derived
from lakehouse_ray.kernels.indicators.windows import Floats

_HLC = ("high", "low", "close")


def _movements(rows: Rows) -> tuple[Line, Line]:
    """What a bar reaches above and below the one before; the larger of the two counts."""
    up = rows.change(rows["high"])
    down = rows.change(rows["low"]) * -1
    plus = np.maximum(up.values, 0.0) * (up.values > down.values)
    minus = np.maximum(down.values, 0.0) * (down.values > up.values)
    return derived("plus_dm", plus, up, down), derived("minus_dm", minus, up, down)


def _directions(rows: Rows, period: int) -> tuple[Line, Line]:
    """Directional indicators, from the bar after the seed on.

    Wilder and TA-Lib begin their averages with sums of one value less than the period.
    """
    plus, minus = (rows.rma_from_sum(line, period) for line in _movements(rows))
    ranges = rows.rma_from_sum(true_range(rows), period)
    return (
        (plus / ranges * 100).since(period),
        (minus / ranges * 100).since(period),
    )


def _plus_di(rows: Rows, period: int) -> tuple[Line, ...]:
    return (_directions(rows, period)[0],)


def _minus_di(rows: Rows, period: int) -> tuple[Line, ...]:
    return (_directions(rows, period)[1],)


def _index(rows: Rows, period: int, *, exact: bool = False) -> Line:
    # What both are divided by to make directional indicators of them falls out.
    plus, minus = (rows.rma_from_sum(line, period, exact=exact) for line in _movements(rows))
    return (abs(plus - minus) / (plus + minus) * 100).since(period)


def _dx(rows: Rows, period: int) -> tuple[Line, ...]:
    return (_index(rows, period, exact=True),)


def _where_defined(line: Line, other: Line) -> Line:
    # 0 where it is: faster than to choose row by row.
    nothing = other.values - other.values
    return derived(line.key, line.values + nothing, line, other)


def _adx(rows: Rows, period: int) -> tuple[Line, ...]:
    index = _index(rows, period)
    return (_where_defined(rows.rma(index, period), index),)


def _adxr(rows: Rows, period: int) -> tuple[Line, ...]:
    index = _index(rows, period)
    average = rows.rma(index, period)
    return (_where_defined((average + rows.lag(average, period - 1)) / 2, index),)


def _vortex(rows: Rows, period: int) -> tuple[Line, ...]:
    up = abs(rows["high"] - rows.lag(rows["low"]))
    down = abs(rows["low"] - rows.lag(rows["high"]))
    ranges = rows.total(true_range(rows), period)
    return rows.total(up, period) / ranges, rows.total(down, period) / ranges


def _supertrend(rows: Rows, period: int, width: float) -> tuple[Line, ...]:
    middle = (rows["high"] + rows["low"]) / 2
    apart = rows.rma(true_range(rows), period, exact=True) * width
    before = rows.lag(rows["close"])
    upper = _ratchet(rows, middle + apart, before)
    lower = _ratchet(rows, (middle - apart) * -1, before * -1) * -1

    def turns(begins: Whole, known: Whole, state: float) -> Floats:
        first = state if known.size else 1.0
        return recursions.trend(rows["close"].values, upper.values, lower.values, begins, first)

    reach = max(upper.reach, lower.reach) + 1
    direction = rows.recursive(f"trend({upper.key},{lower.key})", upper.first, reach, turns)
    shown = np.where(direction.values > 0, lower.values, upper.values)
    return derived("supertrend", shown, direction), direction


def _ratchet(rows: Rows, line: Line, before: Line) -> Line:
    """The line where it falls; what it was while it rises, unless the close before was above that."""

    def work(begins: Whole, known: Whole, state: float) -> Floats:
        values = line.values.copy()
        values[known] = state
        return recursions.ratchet(values, before.values, begins)

    return rows.recursive(f"ratchet({line.key})", line.first, line.reach + 1, work)


_DI_SEED = "sums of the first period - 1 movements and true ranges, of which each next bar takes 1 / period"
_STILL = "null where the average true range is 0 (TA-Lib: 0)"

TREND = (
    Indicator(
        "plus_di", "Plus directional indicator", _HLC, period(14, 2), ("plus_di",), _plus_di,
        formula="100 × Wilder's average of rises of the high over that of true ranges; a rise "
        "counts where it exceeds the fall of the low",
        seed=_DI_SEED, first="period", flat=_STILL, source="PLUS_DI",
    ),
    Indicator(
        "minus_di", "Minus directional indicator", _HLC, period(14, 2), ("minus_di",), _minus_di,
        formula="100 × Wilder's average of falls of the low over that of true ranges; a fall "
        "counts where it exceeds the rise of the high",
        seed=_DI_SEED, first="period", flat=_STILL, source="MINUS_DI",
    ),
    Indicator(
        "dx", "Directional movement index", _HLC, period(14, 2), ("dx",), _dx,
        formula="100 |plus_di - minus_di| / (plus_di + minus_di)",
        seed=_DI_SEED, first="period",
        flat="null where neither moved (TA-Lib: the value before, at first 0)", source="DX",
    ),
    Indicator(
        "adx", "Average directional movement index", _HLC, period(14, 2), ("adx",), _adx,
        formula="Wilder's average of dx",
        seed=_DI_SEED + "; then mean of the first `period` dx, undefined ones 0",
        first="2 * period - 1",
        flat="null where dx is; the average stays meanwhile (TA-Lib shows it)", source="ADX",
    ),
    Indicator(
        "adxr", "Average directional movement rating", _HLC, period(14, 2), ("adxr",), _adxr,
        formula="(adx + adx period - 1 bars before) / 2",
        seed="as adx", first="3 * period - 2", flat="null where dx is", source="ADXR",
    ),
    Indicator(
        "vortex", "Vortex", _HLC, period(14, 2), ("vortex_plus", "vortex_minus"), _vortex,
        formula="sums over `period` bars of |high - low before|, and of |low - high before|, over "
        "the sum of true ranges",
        first="period", flat="null where the sum of true ranges is 0", source="VORTEX",
    ),
    Indicator(
        "supertrend", "Supertrend", _HLC,
        (Parameter("period", 10, 2), Parameter("width", 3, 0, 1_000, whole=False)),
        ("supertrend", "supertrend_direction"), _supertrend,
        formula="bands (high + low) / 2 ± width × atr; a band moves towards the price, and away "
        "only after a close beyond it; the lower one is shown while the trend is up (1), the upper "
        "one while it is down (-1); a close beyond the shown band turns it",
        seed="as atr; the first trend is up", first="period", flat="the price; the trend stays",
        source="SUPERTREND",
    ),
)  # fmt: skip
