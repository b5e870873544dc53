"""Price and volume together. Volume is the column `volume`: contracts on COIN-M."""

from __future__ import annotations

import numpy as np

from lakehouse_ray.kernels.indicators.averages import period, typical_price
from lakehouse_ray.kernels.indicators.declaration import Indicator, Parameter
from lakehouse_ray.kernels.indicators.rows import DAY_US, Line, Rows, derived

# Prices no further apart than this part of their sum are the same.
_SAME = 1e-14
_HLCV = ("high", "low", "close", "volume")


def _vwap(rows: Rows, period: int | None) -> tuple[Line, ...]:
    volume = rows["volume"]
    money = typical_price(rows) * volume
    if period is not None:
        return (rows.total(money, period) / rows.total(volume, period),)
    midnights = np.flatnonzero(np.diff(rows.open_time // DAY_US)) + 1
    return (rows.running(money, midnights) / rows.running(volume, midnights),)


def _obv(rows: Rows) -> tuple[Line, ...]:
    change = rows.change(rows["close"])
    signed = np.sign(change.values)
    signed[rows.firsts] = 1.0
    signed *= rows["volume"].values
    return (rows.running(Line("signed_volume", signed, 0, change.reach)),)


def _flow(rows: Rows) -> Line:
    """Volume times where the close stands in the bar's range, -1 to 1."""

    def make(key: str) -> Line:
        high, low, close = (rows[name].values for name in ("high", "low", "close"))
        height = high - low
        place = np.where(height > 0, ((close - low) - (high - close)) / height, 0.0)
        return derived(key, place * rows["volume"].values, rows["close"])

    return rows.once("flow", make)


def _ad(rows: Rows) -> tuple[Line, ...]:
    return (rows.running(_flow(rows)),)


def _adosc(rows: Rows, fast: int, slow: int) -> tuple[Line, ...]:
    line = rows.running(_flow(rows))
    quick, calm = (rows.ema_from_first(line, n) for n in (fast, slow))
    return ((quick - calm).since(slow - 1),)


def _cmf(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.total(_flow(rows), period) / rows.total(rows["volume"], period),)


def _mfi(rows: Rows, period: int) -> tuple[Line, ...]:
    price = typical_price(rows)
    before = rows.lag(price)
    money = (price * rows["volume"]).values
    # Sums that are equal on paper may differ in their last digit; as TA-Lib sees it.
    still = (price.values + before.values) * _SAME
    change = price.values - before.values
    inflow = derived("inflow", money * (change > still), before)
    outflow = derived("outflow", money * (change < -still), before)
    up, down = rows.total(inflow, period), rows.total(outflow, period)
    return (up / (up + down) * 100,)


VOLUME = (
    Indicator(
        "vwap", "Volume-weighted average price", _HLCV, (Parameter("period", None),), ("vwap",),
        _vwap,
        formula="sum of p × volume over sum of volume, p the typical price: of the last `period` "
        "bars, or without it of all bars since midnight UTC or the beginning of the segment",
        first="0 if period is None else period - 1", flat="the price; null while nothing was traded",
        source="VWAP (of one day)",
    ),
    Indicator(
        "obv", "On-balance volume", ("close", "volume"), (), ("obv",), _obv,
        formula="adds the volume of a bar that closes higher than the one before, takes it off "
        "where it closes lower",
        seed="volume of the segment's first bar", first="0", flat="stays", source="OBV",
    ),
    Indicator(
        "ad", "Accumulation/distribution line", _HLCV, (), ("ad",), _ad,
        formula="adds volume × ((close - low) - (high - close)) / (high - low)",
        seed="0 before the segment's first bar", first="0",
        flat="stays: a bar without a range adds nothing", source="AD",
    ),
    Indicator(
        "adosc", "Chaikin oscillator", _HLCV,
        (Parameter("fast", 3, 2), Parameter("slow", 10, 2)), ("adosc",), _adosc,
        formula="ema(ad, fast) - ema(ad, slow)",
        seed="the first value of ad, for both averages", first="slow - 1",
        flat="goes to 0", source="ADOSC", rising=("fast", "slow"),
    ),
    Indicator(
        "cmf", "Chaikin money flow", _HLCV, period(20, 2), ("cmf",), _cmf,
        formula="sum of what ad adds over sum of volume, of the last `period` bars",
        first="period - 1", flat="0; null where nothing was traded in the window", source="CMF",
    ),
    Indicator(
        "mfi", "Money flow index", _HLCV, period(14, 2), ("mfi",), _mfi,
        formula="100 u / (u + d), u and d the sums over `period` bars of p × volume where the "
        "typical price p rose and fell",
        first="period",
        flat="null where the typical price did not move, or nothing was traded, in the window "
        "(TA-Lib: 0)", source="MFI",
    ),
)  # fmt: skip
