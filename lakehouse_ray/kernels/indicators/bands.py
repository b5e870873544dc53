"""Ranges, and bands around a price."""

from __future__ import annotations

import numpy as np

from lakehouse_ray.kernels.indicators.averages import period, typical_price
from lakehouse_ray.kernels.indicators.declaration import Indicator, Parameter
from lakehouse_ray.kernels.indicators.rows import Line, Rows

_HLC = ("high", "low", "close")
_WIDTH = Parameter("width", 2, 0, 1_000, whole=False)


def true_range(rows: Rows) -> Line:
    """Range of the bar and the close before it; from the second bar of a segment on."""

    def make(key: str) -> Line:
        before = rows.lag(rows["close"])
        top = np.maximum(rows["high"].values, before.values)
        bottom = np.minimum(rows["low"].values, before.values)
        return Line(key, top - bottom, before.first, before.reach)

    return rows.once("true_range", make)


def _trange(rows: Rows) -> tuple[Line, ...]:
    return (true_range(rows),)


def _atr(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.rma(true_range(rows), period),)


def _natr(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.rma(true_range(rows), period) / rows["close"] * 100,)


def deviation(rows: Rows, period: int) -> Line:
    variance = rows.variance(rows["close"], period)
    return Line(f"sqrt({variance.key})", np.sqrt(variance.values), variance.first, variance.reach)


def _bbands(rows: Rows, period: int, width: float) -> tuple[Line, ...]:
    middle = rows.mean(rows["close"], period)
    apart = deviation(rows, period) * width
    return middle + apart, middle, middle - apart


def _donchian(rows: Rows, period: int) -> tuple[Line, ...]:
    upper, lower = rows.highest(rows["high"], period), rows.lowest(rows["low"], period)
    return upper, (upper + lower) / 2, lower


def _keltner(rows: Rows, period: int, range_period: int, width: float) -> tuple[Line, ...]:
    # The later of the two averages decides where both begin, as in TA-Lib.
    first = max(period - 1, range_period)
    middle = rows.ema(typical_price(rows), period, first)
    apart = rows.rma(true_range(rows), range_period, first) * width
    return middle + apart, middle, middle - apart


_THREE = "upper {0}, middle {1}, lower {2}"

BANDS = (
    Indicator(
        "trange", "True range", _HLC, (), ("trange",), _trange,
        formula="max(high, close before) - min(low, close before)",
        first="1", flat="0", source="TRANGE",
    ),
    Indicator(
        "atr", "Average true range", _HLC, period(14), ("atr",), _atr,
        formula="Wilder's average of the true range",
        seed="mean of the first `period` true ranges", first="period", flat="0", source="ATR",
    ),
    Indicator(
        "natr", "Normalised average true range", _HLC, period(14), ("natr",), _natr,
        formula="100 × atr / close",
        seed="as atr", first="period", flat="0; null where the close is 0", source="NATR",
    ),
    Indicator(
        "bbands", "Bollinger bands", ("close",), (Parameter("period", 20, 2), _WIDTH),
        ("bb_upper", "bb_middle", "bb_lower"), _bbands,
        formula=_THREE.format("m + width × s", "m = sma", "m - width × s")
        + ", s the standard deviation of `period` closes",
        first="period - 1", ddof=0, flat="all three are the price", source="BBANDS",
    ),
    Indicator(
        "donchian", "Donchian channel", ("high", "low"), (Parameter("period", 20, 2),),
        ("dc_upper", "dc_middle", "dc_lower"), _donchian,
        formula=_THREE.format("highest high", "(upper + lower) / 2", "lowest low")
        + " of `period` bars",
        first="period - 1", flat="all three are the price", source="DONCHIAN",
    ),
    Indicator(
        "keltner", "Keltner channel", _HLC,
        (Parameter("period", 20, 2), Parameter("range_period", 10), _WIDTH),
        ("kc_upper", "kc_middle", "kc_lower"), _keltner,
        formula=_THREE.format("m + width × atr", "m = ema of the typical price", "m - width × atr"),
        seed="means of the latest values at the first bar, of both averages",
        first="max(period - 1, range_period)", flat="all three are the price", source="KC",
    ),
)  # fmt: skip
