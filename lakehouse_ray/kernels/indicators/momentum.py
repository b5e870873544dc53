"""How far and how fast a price went."""

from __future__ import annotations

import numpy as np

from lakehouse_ray.kernels.indicators.averages import period
from lakehouse_ray.kernels.indicators.declaration import Indicator, Parameter
from lakehouse_ray.kernels.indicators.rows import Line, Rows, derived

_CLOSE = ("close",)
_FAST_SLOW = (Parameter("fast", 12, 2), Parameter("slow", 26, 2))


def ups_and_downs(rows: Rows) -> tuple[Line, Line]:
    """What the close rose and fell by, each 0 where it did not."""
    change = rows.change(rows["close"])
    rise = derived("rise", np.maximum(change.values, 0.0), change)
    return rise, derived("fall", rise.values - change.values, change)


def rsi(rows: Rows, period: int, *, exact: bool = False) -> Line:
    rise, fall = (rows.rma(line, period, exact=exact) for line in ups_and_downs(rows))
    return rise / (rise + fall) * 100


def _rsi(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rsi(rows, period),)


def _cmo(rows: Rows, period: int) -> tuple[Line, ...]:
    rise, fall = (rows.rma(line, period, exact=True) for line in ups_and_downs(rows))
    return ((rise - fall) / (rise + fall) * 100,)


def _macd(rows: Rows, fast: int, slow: int, signal: int) -> tuple[Line, ...]:
    close = rows["close"]
    # TA-Lib lets both averages begin at the same bar.
    line = rows.ema(close, fast, slow - 1) - rows.ema(close, slow)
    smooth = rows.ema(line, signal)
    return line.since(smooth.first), smooth, line - smooth


def _apo(rows: Rows, fast: int, slow: int) -> tuple[Line, ...]:
    return (rows.ema(rows["close"], fast) - rows.ema(rows["close"], slow),)


def _ppo(rows: Rows, fast: int, slow: int) -> tuple[Line, ...]:
    slower = rows.ema(rows["close"], slow)
    return ((rows.ema(rows["close"], fast) - slower) / slower * 100,)


def _trix(rows: Rows, period: int) -> tuple[Line, ...]:
    line = rows["close"]
    for _ in range(3):
        line = rows.ema(line, period)
    before = rows.lag(line)
    return ((line - before) / before * 100,)


def _mom(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.change(rows["close"], period),)


def _rocp(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.change(rows["close"], period) / rows.lag(rows["close"], period),)


def _roc(rows: Rows, period: int) -> tuple[Line, ...]:
    return (_rocp(rows, period)[0] * 100,)


def _rocr(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows["close"] / rows.lag(rows["close"], period),)


def _bop(rows: Rows) -> tuple[Line, ...]:
    return ((rows["close"] - rows["open"]) / (rows["high"] - rows["low"]),)


_WILDER_SEED = "means of the first `period` rises and falls"
_NEVER_MOVED = "null while the close has not moved since the segment began (TA-Lib: 0)"

MOMENTUM = (
    Indicator(
        "rsi", "Relative strength index", _CLOSE, period(14, 2), ("rsi",), _rsi,
        formula="100 u / (u + d), u and d Wilder's averages of rises and falls of the close",
        seed=_WILDER_SEED, first="period", flat=_NEVER_MOVED, source="RSI",
    ),
    Indicator(
        "cmo", "Chande momentum oscillator", _CLOSE, period(14, 2), ("cmo",), _cmo,
        formula="100 (u - d) / (u + d), u and d as in rsi",
        seed=_WILDER_SEED, first="period", flat=_NEVER_MOVED, source="CMO",
    ),
    Indicator(
        "macd", "Moving average convergence divergence", _CLOSE,
        (*_FAST_SLOW, Parameter("signal", 9)), ("macd", "macd_signal", "macd_hist"), _macd,
        formula="macd = ema(close, fast) - ema(close, slow); signal = ema(macd, signal); "
        "hist = macd - signal",
        seed="means of the latest `fast` and `slow` closes, both at bar slow - 1; mean of the "
        "first `signal` values",
        first="slow + signal - 2", flat="0", source="MACD", rising=("fast", "slow"),
    ),
    Indicator(
        "apo", "Absolute price oscillator", _CLOSE, _FAST_SLOW, ("apo",), _apo,
        formula="ema(close, fast) - ema(close, slow)",
        seed="mean of the first values of each ema", first="slow - 1", flat="0",
        source="APO", rising=("fast", "slow"),
    ),
    Indicator(
        "ppo", "Percentage price oscillator", _CLOSE, _FAST_SLOW, ("ppo",), _ppo,
        formula="100 (ema(close, fast) - ema(close, slow)) / ema(close, slow)",
        seed="mean of the first values of each ema", first="slow - 1", flat="0",
        source="PPO", rising=("fast", "slow"),
    ),
    Indicator(
        "trix", "Change of a triple exponential average", _CLOSE, period(30), ("trix",), _trix,
        formula="change in % of the ema of the ema of the ema",
        seed="mean of the first `period` values, of each ema", first="3 * period - 2", flat="0",
        source="TRIX",
    ),
    Indicator(
        "mom", "Momentum", _CLOSE, period(10), ("mom",), _mom,
        formula="close - close `period` bars before", first="period", flat="0", source="MOM",
    ),
    Indicator(
        "roc", "Rate of change in %", _CLOSE, period(10), ("roc",), _roc,
        formula="100 (close / close `period` bars before - 1)",
        first="period", flat="0; null where the earlier close is 0", source="ROC",
    ),
    Indicator(
        "rocp", "Rate of change", _CLOSE, period(10), ("rocp",), _rocp,
        formula="close / close `period` bars before - 1",
        first="period", flat="0; null where the earlier close is 0", source="ROCP",
    ),
    Indicator(
        "rocr", "Ratio of change", _CLOSE, period(10), ("rocr",), _rocr,
        formula="close / close `period` bars before",
        first="period", flat="1; null where the earlier close is 0", source="ROCR",
    ),
    Indicator(
        "bop", "Balance of power", ("open", "high", "low", "close"), (), ("bop",), _bop,
        formula="(close - open) / (high - low)",
        first="0", flat="null where high equals low (TA-Lib: 0)", source="BOP",
    ),
)  # fmt: skip
