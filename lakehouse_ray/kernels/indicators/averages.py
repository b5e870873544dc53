"""Moving averages."""

from __future__ import annotations

import numpy as np

from lakehouse_ray.kernels.indicators.declaration import Indicator, Parameter
from lakehouse_ray.kernels.indicators.rows import Line, Rows, derived

_LEVEL = "the price itself"
_CLOSE = ("close",)
_EMA_SEED = "mean of the first `period` values"


def period(default: int, least: int = 1) -> tuple[Parameter]:
    return (Parameter("period", default, least),)


def typical_price(rows: Rows) -> Line:
    """(high + low + close) / 3, added in this order: equal prices are compared."""
    return rows.once(
        "typical",
        lambda key: derived(key, ((rows["high"] + rows["low"] + rows["close"]) / 3).values, rows["close"]),
    )  # fmt: skip


def _sma(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.mean(rows["close"], period),)


def _ema(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.ema(rows["close"], period),)


def _rma(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.rma(rows["close"], period),)


def _wma(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.weighted(rows["close"], period),)


def _dema(rows: Rows, period: int) -> tuple[Line, ...]:
    once = rows.ema(rows["close"], period)
    return (once * 2 - rows.ema(once, period),)


def _tema(rows: Rows, period: int) -> tuple[Line, ...]:
    once = rows.ema(rows["close"], period)
    twice = rows.ema(once, period)
    return (once * 3 - twice * 3 + rows.ema(twice, period),)


def _t3(rows: Rows, period: int, factor: float) -> tuple[Line, ...]:
    lines = [rows["close"]]
    for _ in range(6):
        lines.append(rows.ema(lines[-1], period))
    v = factor
    return (
        lines[6] * -(v**3)
        + lines[5] * (3 * v**2 + 3 * v**3)
        + lines[4] * (-6 * v**2 - 3 * v - 3 * v**3)
        + lines[3] * (1 + 3 * v + v**3 + 3 * v**2),
    )


def _trima(rows: Rows, period: int) -> tuple[Line, ...]:
    inner = (period + 1) // 2
    return (rows.mean(rows.mean(rows["close"], inner), period + 1 - inner),)


def _hma(rows: Rows, period: int) -> tuple[Line, ...]:
    close = rows["close"]
    fast = rows.weighted(close, max(period // 2, 1)) * 2 - rows.weighted(close, period)
    return (rows.weighted(fast, int(period**0.5)),)


def _vwma(rows: Rows, period: int) -> tuple[Line, ...]:
    money = rows["close"] * rows["volume"]
    return (rows.total(money, period) / rows.total(rows["volume"], period),)


def _kama(rows: Rows, period: int) -> tuple[Line, ...]:
    close = rows["close"]
    way = rows.total(abs(rows.change(close)), period)
    moved = abs(rows.change(close, period))
    fastest, slowest = 2 / 3, 2 / 31
    # Where nothing moved there is no ratio; as in TA-Lib it is 1 there.
    ratio = np.where(way.values > moved.values, moved.values / way.values, 1.0)
    share = (ratio * (fastest - slowest) + slowest) ** 2
    return (rows.adaptive(close, derived(f"kama({close.key},{period})", share, way, moved)),)


def _midpoint(rows: Rows, period: int) -> tuple[Line, ...]:
    close = rows["close"]
    return ((rows.highest(close, period) + rows.lowest(close, period)) / 2,)


def _midprice(rows: Rows, period: int) -> tuple[Line, ...]:
    return ((rows.highest(rows["high"], period) + rows.lowest(rows["low"], period)) / 2,)


def _average_price(rows: Rows) -> tuple[Line, ...]:
    return ((rows["open"] + rows["high"] + rows["low"] + rows["close"]) / 4,)


def _median_price(rows: Rows) -> tuple[Line, ...]:
    return ((rows["high"] + rows["low"]) / 2,)


def _typical_price(rows: Rows) -> tuple[Line, ...]:
    return (typical_price(rows),)


def _weighted_close(rows: Rows) -> tuple[Line, ...]:
    return ((rows["high"] + rows["low"] + rows["close"] * 2) / 4,)


AVERAGES = (
    Indicator(
        "sma", "Simple moving average", _CLOSE, period(20), ("sma",), _sma,
        formula="mean of the last `period` closes",
        first="period - 1", flat=_LEVEL, source="SMA",
    ),
    Indicator(
        "ema", "Exponential moving average", _CLOSE, period(20), ("ema",), _ema,
        formula="ema += (close - ema) × 2 / (period + 1)",
        seed=_EMA_SEED, first="period - 1", flat=_LEVEL, source="EMA",
    ),
    Indicator(
        "rma", "Wilder's moving average", _CLOSE, period(14), ("rma",), _rma,
        formula="rma += (close - rma) / period",
        seed=_EMA_SEED, first="period - 1", flat=_LEVEL, source="RMA",
    ),
    Indicator(
        "wma", "Weighted moving average", _CLOSE, period(20), ("wma",), _wma,
        formula="mean of the last `period` closes with weights 1, 2, … period",
        first="period - 1", flat=_LEVEL, source="WMA",
    ),
    Indicator(
        "dema", "Double exponential moving average", _CLOSE, period(20), ("dema",), _dema,
        formula="2 e1 - e2, with e1 = ema(close), e2 = ema(e1)",
        seed=_EMA_SEED + ", of each ema", first="2 * period - 2", flat=_LEVEL, source="DEMA",
    ),
    Indicator(
        "tema", "Triple exponential moving average", _CLOSE, period(20), ("tema",), _tema,
        formula="3 e1 - 3 e2 + e3, each the ema of the one before",
        seed=_EMA_SEED + ", of each ema", first="3 * period - 3", flat=_LEVEL, source="TEMA",
    ),
    Indicator(
        "t3", "Tillson's T3", _CLOSE,
        (Parameter("period", 5), Parameter("factor", 0.7, 0, 1, whole=False)), ("t3",), _t3,
        formula="-v³ e6 + (3v² + 3v³) e5 - (6v² + 3v + 3v³) e4 + (1 + 3v + 3v² + v³) e3, "
        "with v = factor and each e the ema of the one before",
        seed=_EMA_SEED + ", of each ema", first="6 * period - 6", flat=_LEVEL, source="T3",
    ),
    Indicator(
        "trima", "Triangular moving average", _CLOSE, period(20), ("trima",), _trima,
        formula="mean over period + 1 - m values of the mean of m closes, m = (period + 1) // 2",
        first="period - 1", flat=_LEVEL, source="TRIMA",
    ),
    Indicator(
        "hma", "Hull moving average", _CLOSE, period(20), ("hma",), _hma,
        formula="wma over ⌊√period⌋ of 2 wma(close, period // 2) - wma(close, period)",
        first="period - 2 + int(period ** 0.5)", flat=_LEVEL, source="HMA",
    ),
    Indicator(
        "vwma", "Volume-weighted moving average", ("close", "volume"), period(20), ("vwma",), _vwma,
        formula="sum of close × volume over sum of volume, of the last `period` bars",
        first="period - 1",
        flat=_LEVEL + "; null where nothing was traded in the window", source="VWMA",
    ),
    Indicator(
        "kama", "Kaufman's adaptive moving average", _CLOSE, period(30, 2), ("kama",), _kama,
        formula="kama += (close - kama) × (r (2/3 - 2/31) + 2/31)², r = |change over period| / "
        "sum of |changes|",
        seed="the close before the first value", first="period",
        flat=_LEVEL + "; r is 1 in a window without any change, as in TA-Lib", source="KAMA",
    ),
    Indicator(
        "midpoint", "Midpoint of closes", _CLOSE, period(14), ("midpoint",), _midpoint,
        formula="(highest + lowest close of `period` bars) / 2",
        first="period - 1", flat=_LEVEL, source="MIDPOINT",
    ),
    Indicator(
        "midprice", "Midpoint of the range", ("high", "low"), period(14), ("midprice",), _midprice,
        formula="(highest high + lowest low of `period` bars) / 2",
        first="period - 1", flat=_LEVEL, source="MIDPRICE",
    ),
    Indicator(
        "avgprice", "Average price", ("open", "high", "low", "close"), (), ("avgprice",),
        _average_price, formula="(open + high + low + close) / 4",
        first="0", flat=_LEVEL, source="AVGPRICE",
    ),
    Indicator(
        "medprice", "Median price", ("high", "low"), (), ("medprice",), _median_price,
        formula="(high + low) / 2", first="0", flat=_LEVEL, source="MEDPRICE",
    ),
    Indicator(
        "typprice", "Typical price", ("high", "low", "close"), (), ("typprice",), _typical_price,
        formula="(high + low + close) / 3", first="0", flat=_LEVEL, source="TYPPRICE",
    ),
    Indicator(
        "wclprice", "Weighted close", ("high", "low", "close"), (), ("wclprice",), _weighted_close,
        formula="(high + low + 2 close) / 4", first="0", flat=_LEVEL, source="WCLPRICE",
    ),
)  # fmt: skip
