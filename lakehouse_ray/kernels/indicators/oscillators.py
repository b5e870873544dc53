"""Where a price stands within its recent range."""

from __future__ import annotations

import numpy as np

from lakehouse_ray.kernels.indicators.averages import period, typical_price
from lakehouse_ray.kernels.indicators.bands import true_range
from lakehouse_ray.kernels.indicators.declaration import Indicator, Parameter
from lakehouse_ray.kernels.indicators.momentum import rsi
from lakehouse_ray.kernels.indicators.rows import Line, Rows, derived

_HLC = ("high", "low", "close")
_RSI_STILL = 1e-8


def _place(value: Line, top: Line, bottom: Line) -> Line:
    """Place of a value between two others, in %."""
    return (value - bottom) / (top - bottom) * 100


def _fast(rows: Rows, period: int) -> Line:
    top, bottom = rows.highest(rows["high"], period), rows.lowest(rows["low"], period)
    return _place(rows["close"], top, bottom)


def _stoch(rows: Rows, period: int, smooth: int, signal: int) -> tuple[Line, ...]:
    k = rows.mean(_fast(rows, period), smooth)
    d = rows.mean(k, signal)
    return k.since(d.first), d


def _stochf(rows: Rows, period: int, signal: int) -> tuple[Line, ...]:
    k = _fast(rows, period)
    d = rows.mean(k, signal)
    return k.since(d.first), d


def _stochrsi(rows: Rows, rsi_period: int, period: int, signal: int) -> tuple[Line, ...]:
    strength = rsi(rows, rsi_period, exact=True)
    top, bottom = rows.highest(strength, period), rows.lowest(strength, period)
    # While a price stands still its rsi moves by what rounding leaves of it.
    still = top.values - bottom.values < _RSI_STILL
    top = derived(f"{top.key}>", np.where(still, np.nan, top.values), top)
    k = _place(strength, top, bottom)
    d = rows.mean(k, signal)
    return k.since(d.first), d


def _willr(rows: Rows, period: int) -> tuple[Line, ...]:
    top = rows.highest(rows["high"], period)
    bottom = rows.lowest(rows["low"], period)
    return ((rows["close"] - top) / (top - bottom) * 100,)


def _cci(rows: Rows, period: int) -> tuple[Line, ...]:
    price = typical_price(rows)
    middle, deviation = rows.mean(price, period), rows.deviation(price, period)
    index = (price - middle) / (deviation * 0.015)
    # The mean of equal values may differ from them in its last digit.
    if (deviation.values <= np.abs(middle.values) * 1e-12).any():
        flat = rows.highest(price, period).values == rows.lowest(price, period).values
        index = derived(index.key, np.where(flat, np.nan, index.values), index)
    return (index,)


def _aroon(rows: Rows, period: int) -> tuple[Line, Line]:
    up = rows.since_highest(rows["high"], period + 1) * (-100 / period) + 100
    down = rows.since_lowest(rows["low"], period + 1) * (-100 / period) + 100
    return down, up


def _aroonosc(rows: Rows, period: int) -> tuple[Line, ...]:
    down, up = _aroon(rows, period)
    return (up - down,)


def _ultosc(rows: Rows, short: int, medium: int, long: int) -> tuple[Line, ...]:
    before = rows.lag(rows["close"])
    bottom = derived("bottom", np.minimum(rows["low"].values, before.values), before)
    pressure = rows["close"] - bottom
    ranges = true_range(rows)
    a, b, c = (rows.total(pressure, n) / rows.total(ranges, n) for n in (short, medium, long))
    return ((a * 4 + b * 2 + c) * (100 / 7),)


_FLAT = "null where highest equals lowest in the window (TA-Lib: 0)"
_SMOOTHED = _FLAT + ", and where an average of `signal` or `smooth` values meets such a bar"

OSCILLATORS = (
    Indicator(
        "stoch", "Stochastic oscillator", _HLC,
        (Parameter("period", 14), Parameter("smooth", 3), Parameter("signal", 3)),
        ("stoch_k", "stoch_d"), _stoch,
        formula="k = sma over `smooth` of 100 (close - lowest low) / (highest high - lowest low) "
        "of `period` bars; d = sma(k, signal)",
        first="period + smooth + signal - 3", flat=_SMOOTHED, source="STOCH",
    ),
    Indicator(
        "stochf", "Fast stochastic oscillator", _HLC,
        (Parameter("period", 14), Parameter("signal", 3)), ("stochf_k", "stochf_d"), _stochf,
        formula="k = 100 (close - lowest low) / (highest high - lowest low) of `period` bars; "
        "d = sma(k, signal)",
        first="period + signal - 2", flat=_SMOOTHED, source="STOCHF",
    ),
    Indicator(
        "stochrsi", "Stochastic of the relative strength index", ("close",),
        (Parameter("rsi_period", 14, 2), Parameter("period", 5), Parameter("signal", 3)),
        ("stochrsi_k", "stochrsi_d"), _stochrsi,
        formula="k = 100 (rsi - lowest) / (highest - lowest) of `period` values of rsi; "
        "d = sma(k, signal)",
        seed="as rsi", first="rsi_period + period + signal - 2",
        flat=f"null where rsi moves less than {_RSI_STILL:g} in the window (TA-Lib: 0, or what "
        "rounding leaves), and where an average of `signal` values meets such a bar",
        source="STOCHRSI",
    ),
    Indicator(
        "willr", "Williams %R", _HLC, period(14, 2), ("willr",), _willr,
        formula="-100 (highest high - close) / (highest high - lowest low) of `period` bars",
        first="period - 1", flat=_FLAT, source="WILLR",
    ),
    Indicator(
        "cci", "Commodity channel index", _HLC, (Parameter("period", 20, 2, 5_000),), ("cci",),
        _cci,
        formula="(p - m) / (0.015 × mean of |p - m|), p the typical price and m its sma",
        first="period - 1", flat="null where the typical price is the same in the whole window "
        "(TA-Lib: 0, or what rounding leaves)", source="CCI",
    ),
    Indicator(
        "aroon", "Aroon", ("high", "low"), period(14, 2), ("aroon_down", "aroon_up"), _aroon,
        formula="100 (period - bars since the lowest low, or highest high, of period + 1 bars) / "
        "period; of equal ones the latest",
        first="period", flat="100: the latest bar is the highest and the lowest", source="AROON",
    ),
    Indicator(
        "aroonosc", "Aroon oscillator", ("high", "low"), period(14, 2), ("aroonosc",), _aroonosc,
        formula="aroon_up - aroon_down", first="period", flat="0", source="AROONOSC",
    ),
    Indicator(
        "ultosc", "Ultimate oscillator", _HLC,
        (Parameter("short", 7), Parameter("medium", 14), Parameter("long", 28)), ("ultosc",),
        _ultosc,
        formula="100 (4 a + 2 b + c) / 7, each the sum of close - min(low, close before) over the "
        "sum of true ranges, of `short`, `medium` and `long` bars",
        first="long", flat="null where a sum of true ranges is 0 (TA-Lib: that part is 0)",
        source="ULTOSC", rising=("short", "medium", "long"),
    ),
)  # fmt: skip
