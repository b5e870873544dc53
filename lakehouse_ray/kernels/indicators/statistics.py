"""Dispersion and straight lines."""

from __future__ import annotations

import numpy as np

from lakehouse_ray.kernels.indicators.averages import period
from lakehouse_ray.kernels.indicators.bands import deviation
from lakehouse_ray.kernels.indicators.declaration import Indicator
from lakehouse_ray.kernels.indicators.rows import Line, Rows

_CLOSE = ("close",)


def _stddev(rows: Rows, period: int) -> tuple[Line, ...]:
    return (deviation(rows, period),)


def _var(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.variance(rows["close"], period),)


def _on_line(rows: Rows, period: int, place: float) -> Line:
    """Value of the least-squares line of the window, `place` bars after its first."""
    slope = rows.slope(rows["close"], period)
    return rows.mean(rows["close"], period) + slope * (place - (period - 1) / 2)


def _linreg(rows: Rows, period: int) -> tuple[Line, ...]:
    return (_on_line(rows, period, period - 1),)


def _linreg_intercept(rows: Rows, period: int) -> tuple[Line, ...]:
    return (_on_line(rows, period, 0),)


def _tsf(rows: Rows, period: int) -> tuple[Line, ...]:
    return (_on_line(rows, period, period),)


def _linreg_slope(rows: Rows, period: int) -> tuple[Line, ...]:
    return (rows.slope(rows["close"], period),)


def _linreg_angle(rows: Rows, period: int) -> tuple[Line, ...]:
    slope = rows.slope(rows["close"], period)
    degrees = np.degrees(np.arctan(slope.values))
    return (Line(f"angle({slope.key})", degrees, slope.first, slope.reach),)


_LINE = "the least-squares line through the last `period` closes"

STATISTICS = (
    Indicator(
        "stddev", "Standard deviation", _CLOSE, period(20, 2), ("stddev",), _stddev,
        formula="standard deviation of the last `period` closes",
        first="period - 1", ddof=0, flat="0", source="STDDEV",
    ),
    Indicator(
        "var", "Variance", _CLOSE, period(20, 2), ("var",), _var,
        formula="variance of the last `period` closes",
        first="period - 1", ddof=0, flat="0", source="VAR",
    ),
    Indicator(
        "linreg", "Linear regression", _CLOSE, period(14, 2), ("linreg",), _linreg,
        formula=f"{_LINE}, at the last bar",
        first="period - 1", flat="the price itself", source="LINEARREG",
    ),
    Indicator(
        "linreg_slope", "Slope of the linear regression", _CLOSE, period(14, 2), ("linreg_slope",),
        _linreg_slope, formula=f"slope per bar of {_LINE}",
        first="period - 1", flat="0", source="LINEARREG_SLOPE",
    ),
    Indicator(
        "linreg_intercept", "Beginning of the linear regression", _CLOSE, period(14, 2),
        ("linreg_intercept",), _linreg_intercept, formula=f"{_LINE}, at its first bar",
        first="period - 1", flat="the price itself", source="LINEARREG_INTERCEPT",
    ),
    Indicator(
        "linreg_angle", "Angle of the linear regression", _CLOSE, period(14, 2), ("linreg_angle",),
        _linreg_angle, formula="arctangent of linreg_slope, in degrees",
        first="period - 1", flat="0", source="LINEARREG_ANGLE",
    ),
    Indicator(
        "tsf", "Time series forecast", _CLOSE, period(14, 2), ("tsf",), _tsf,
        formula=f"{_LINE}, one bar after the last",
        first="period - 1", flat="the price itself", source="TSF",
    ),
)  # fmt: skip
