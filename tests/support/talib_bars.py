"""Bars to compute on, and what TA-Lib makes of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import polars as pl
import talib
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MINUTE_US = 60_000_000
MIDNIGHT = datetime(2024, 1, 5, tzinfo=UTC)


def bars(
    close: Floats | list[float],
    seed: int = 0,
    *,
    spread: float = 0.002,
    start: datetime = MIDNIGHT,
    step_us: int = MINUTE_US,
) -> pl.DataFrame:
    """Bars with these closes: opens where the one before closed, and reaches beyond both."""
    rng = np.random.default_rng(seed)
    close = np.asarray(close, dtype=np.float64)
    size = close.size
    opened = np.concatenate([close[:1], close[:-1]])
    high = np.maximum(opened, close) * (1 + spread * np.abs(rng.normal(size=size)))
    low = np.minimum(opened, close) * (1 - spread * np.abs(rng.normal(size=size)))
    first_us = int(start.timestamp()) * 1_000_000
    times = first_us + step_us * np.arange(size)
    return pl.DataFrame(
        {
            "open_time": pl.Series(times, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            "open": opened,
            "high": high,
            "low": low,
            "close": close,
            "volume": rng.lognormal(3, 1, size),
        }
    )


def walk(size: int, seed: int, *, price: float = 100.0, volatility: float = 0.01) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(rng.normal(0, volatility, size)))
    return bars(close, seed, spread=volatility / 5)


Reference = Callable[[Floats, Floats, Floats, Floats, Floats], tuple[Floats, ...]]


def _one(work: Callable[..., Floats]) -> Reference:
    return lambda o, h, lo, c, v: (work(o, h, lo, c, v),)


# What the same name means in TA-Lib, given open, high, low, close and volume; the order of outputs
# is ours.
REFERENCES: dict[str, Reference] = {
    "sma_20": _one(lambda o, h, lo, c, v: talib.SMA(c, 20)),
    "sma_1": _one(lambda o, h, lo, c, v: talib.SMA(c, 1)),
    "ema_20": _one(lambda o, h, lo, c, v: talib.EMA(c, 20)),
    "ema_3": _one(lambda o, h, lo, c, v: talib.EMA(c, 3)),
    "rma_14": _one(lambda o, h, lo, c, v: talib.RMA(c, 14)),
    "wma_20": _one(lambda o, h, lo, c, v: talib.WMA(c, 20)),
    "wma_9": _one(lambda o, h, lo, c, v: talib.WMA(c, 9)),
    "dema_20": _one(lambda o, h, lo, c, v: talib.DEMA(c, 20)),
    "tema_20": _one(lambda o, h, lo, c, v: talib.TEMA(c, 20)),
    "t3_5_0.7": _one(lambda o, h, lo, c, v: talib.T3(c, 5, 0.7)),
    "trima_20": _one(lambda o, h, lo, c, v: talib.TRIMA(c, 20)),
    "trima_21": _one(lambda o, h, lo, c, v: talib.TRIMA(c, 21)),
    "hma_20": _one(lambda o, h, lo, c, v: talib.HMA(c, 20)),
    "hma_7": _one(lambda o, h, lo, c, v: talib.HMA(c, 7)),
    "vwma_20": _one(lambda o, h, lo, c, v: talib.VWMA(c, v, 20)),
    "kama_30": _one(lambda o, h, lo, c, v: talib.KAMA(c, 30)),
    "kama_5": _one(lambda o, h, lo, c, v: talib.KAMA(c, 5)),
    "midpoint_14": _one(lambda o, h, lo, c, v: talib.MIDPOINT(c, 14)),
    "midprice_14": _one(lambda o, h, lo, c, v: talib.MIDPRICE(h, lo, 14)),
    "avgprice": _one(lambda o, h, lo, c, v: talib.AVGPRICE(o, h, lo, c)),
    "medprice": _one(lambda o, h, lo, c, v: talib.MEDPRICE(h, lo)),
    "typprice": _one(lambda o, h, lo, c, v: talib.TYPPRICE(h, lo, c)),
    "wclprice": _one(lambda o, h, lo, c, v: talib.WCLPRICE(h, lo, c)),
    "trange": _one(lambda o, h, lo, c, v: talib.TRANGE(h, lo, c)),
    "atr_14": _one(lambda o, h, lo, c, v: talib.ATR(h, lo, c, 14)),
    "atr_1": _one(lambda o, h, lo, c, v: talib.ATR(h, lo, c, 1)),
    "natr_14": _one(lambda o, h, lo, c, v: talib.NATR(h, lo, c, 14)),
    "bbands_20_2": lambda o, h, lo, c, v: talib.BBANDS(c, 20, 2, 2),
    "bbands_10_1.5": lambda o, h, lo, c, v: talib.BBANDS(c, 10, 1.5, 1.5),
    "donchian_20": lambda o, h, lo, c, v: talib.DONCHIAN(h, lo, 20),
    "keltner_20_10_2": lambda o, h, lo, c, v: talib.KC(h, lo, c, 20, 10, 2),
    "keltner_5_10_2": lambda o, h, lo, c, v: talib.KC(h, lo, c, 5, 10, 2),
    "stddev_20": _one(lambda o, h, lo, c, v: talib.STDDEV(c, 20)),
    "var_20": _one(lambda o, h, lo, c, v: talib.VAR(c, 20)),
    "linreg_14": _one(lambda o, h, lo, c, v: talib.LINEARREG(c, 14)),
    "linreg_slope_14": _one(lambda o, h, lo, c, v: talib.LINEARREG_SLOPE(c, 14)),
    "linreg_intercept_14": _one(lambda o, h, lo, c, v: talib.LINEARREG_INTERCEPT(c, 14)),
    "linreg_angle_14": _one(lambda o, h, lo, c, v: talib.LINEARREG_ANGLE(c, 14)),
    "tsf_14": _one(lambda o, h, lo, c, v: talib.TSF(c, 14)),
    "rsi_14": _one(lambda o, h, lo, c, v: talib.RSI(c, 14)),
    "rsi_2": _one(lambda o, h, lo, c, v: talib.RSI(c, 2)),
    "cmo_14": _one(lambda o, h, lo, c, v: talib.CMO(c, 14)),
    "macd_12_26_9": lambda o, h, lo, c, v: talib.MACD(c, 12, 26, 9),
    "macd_3_10_16": lambda o, h, lo, c, v: talib.MACD(c, 3, 10, 16),
    "apo_12_26": _one(lambda o, h, lo, c, v: talib.APO(c, 12, 26)),
    "ppo_12_26": _one(lambda o, h, lo, c, v: talib.PPO(c, 12, 26)),
    "trix_10": _one(lambda o, h, lo, c, v: talib.TRIX(c, 10)),
    "mom_10": _one(lambda o, h, lo, c, v: talib.MOM(c, 10)),
    "roc_10": _one(lambda o, h, lo, c, v: talib.ROC(c, 10)),
    "rocp_10": _one(lambda o, h, lo, c, v: talib.ROCP(c, 10)),
    "rocr_10": _one(lambda o, h, lo, c, v: talib.ROCR(c, 10)),
    "bop": _one(lambda o, h, lo, c, v: talib.BOP(o, h, lo, c)),
    "stoch_14_3_3": lambda o, h, lo, c, v: talib.STOCH(h, lo, c, 14, 3, 0, 3, 0),
    "stochf_14_3": lambda o, h, lo, c, v: talib.STOCHF(h, lo, c, 14, 3, 0),
    "stochrsi_14_5_3": lambda o, h, lo, c, v: talib.STOCHRSI(c, 14, 5, 3, 0),
    "willr_14": _one(lambda o, h, lo, c, v: talib.WILLR(h, lo, c, 14)),
    "cci_20": _one(lambda o, h, lo, c, v: talib.CCI(h, lo, c, 20)),
    "aroon_14": lambda o, h, lo, c, v: talib.AROON(h, lo, 14),
    "aroonosc_14": _one(lambda o, h, lo, c, v: talib.AROONOSC(h, lo, 14)),
    "ultosc_7_14_28": _one(lambda o, h, lo, c, v: talib.ULTOSC(h, lo, c, 7, 14, 28)),
    "plus_di_14": _one(lambda o, h, lo, c, v: talib.PLUS_DI(h, lo, c, 14)),
    "minus_di_14": _one(lambda o, h, lo, c, v: talib.MINUS_DI(h, lo, c, 14)),
    "dx_14": _one(lambda o, h, lo, c, v: talib.DX(h, lo, c, 14)),
    "adx_14": _one(lambda o, h, lo, c, v: talib.ADX(h, lo, c, 14)),
    "adx_2": _one(lambda o, h, lo, c, v: talib.ADX(h, lo, c, 2)),
    "adxr_14": _one(lambda o, h, lo, c, v: talib.ADXR(h, lo, c, 14)),
    "vortex_14": lambda o, h, lo, c, v: talib.VORTEX(h, lo, c, 14),
    "supertrend_10_3": lambda o, h, lo, c, v: _supertrend(h, lo, c),
    "vwap": _one(lambda o, h, lo, c, v: talib.VWAP(h, lo, c, v)),
    "vwap_20": _one(lambda o, h, lo, c, v: talib.VWMA(talib.TYPPRICE(h, lo, c), v, 20)),
    "obv": _one(lambda o, h, lo, c, v: talib.OBV(c, v)),
    "ad": _one(lambda o, h, lo, c, v: talib.AD(h, lo, c, v)),
    "adosc_3_10": _one(lambda o, h, lo, c, v: talib.ADOSC(h, lo, c, v, 3, 10)),
    "cmf_20": _one(lambda o, h, lo, c, v: talib.CMF(h, lo, c, v, 20)),
    "mfi_14": _one(lambda o, h, lo, c, v: talib.MFI(h, lo, c, v, 14)),
}  # fmt: skip


def _supertrend(high: Floats, low: Floats, close: Floats) -> tuple[Floats, Floats]:
    line, trend = talib.SUPERTREND(high, low, close, 10, 3)
    # Whole numbers have no NaN: TA-Lib's warm-up is 0 there.
    return line, np.where(np.isnan(line), np.nan, trend.astype(np.float64))


def reference(name: str, frame: pl.DataFrame) -> tuple[Floats, ...]:
    """TA-Lib's outputs for a contiguous frame, NaN where it has none."""
    columns = [frame[n].to_numpy() for n in ("open", "high", "low", "close", "volume")]
    if frame.is_empty():
        return tuple(np.empty(0) for _ in range(3))
    return REFERENCES[name](*columns)


def difference(found: Floats, expected: Floats) -> float:
    """Largest difference, relative to the larger of the value and 1e-3 of the series' largest."""
    both = ~np.isnan(found) & ~np.isnan(expected)
    if not both.any():
        return 0.0
    found, expected = found[both], expected[both]
    size = np.maximum(np.abs(expected), 1e-3 * np.abs(expected).max())
    apart = np.abs(found - expected)
    return float(np.divide(apart, size, out=np.zeros_like(apart), where=apart > 0).max())
