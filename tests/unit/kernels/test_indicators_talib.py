"""Every indicator against TA-Lib, from its first value on."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from support.real_bars import DATA, SERIES, real_bars
from support.talib_bars import REFERENCES, bars, difference, reference, walk

from lakehouse_ray.kernels.indicators.compute import compute
from lakehouse_ray.kernels.indicators.registry import INDICATORS, parse_name

TOLERANCE = 1e-9
# TA-Lib takes these from sums of squares of row numbers and prices, and loses digits where prices
# are high and move little; test_indicators_windows compares ours with exact arithmetic.
TALIB_LOSES_DIGITS = {"linreg_slope", "linreg_angle"}

WALKS = {
    "short steps": walk(900, 1),
    "long": walk(20_000, 2),
    "high prices that move little": walk(3_000, 3, price=50_000, volatility=5e-4),
    "tiny prices": walk(1_000, 4, price=1e-7),
    "wild": walk(1_000, 5, volatility=0.2),
    "in ticks": bars(
        100 + 0.01 * np.cumsum(np.random.default_rng(6).choice([-2, -1, 1, 2], 2_000)), 6
    ),
}


def tolerance(name: str) -> float:
    return 1e-5 if parse_name(name).indicator.name in TALIB_LOSES_DIGITS else TOLERANCE


def test_every_indicator_has_a_reference() -> None:
    assert {parse_name(name).indicator.name for name in REFERENCES} == set(INDICATORS)
    assert len(INDICATORS) >= 34


@pytest.mark.parametrize("series", WALKS)
@pytest.mark.parametrize("name", REFERENCES)
def test_a_walk_gives_what_talib_gives_from_the_first_value_on(name: str, series: str) -> None:
    frame = WALKS[series]
    if name == "vwap":
        frame = frame.head(1_440)  # TA-Lib knows no days
    found, _ = compute(frame, name, "1m")
    for column, expected in zip(parse_name(name).outputs, reference(name, frame), strict=True):
        ours = found[column].to_numpy()
        assert found[column].null_count() == np.isnan(expected).sum(), column
        assert (np.isnan(ours) == np.isnan(expected)).all(), column
        assert difference(ours, expected) < tolerance(name), column


@pytest.mark.parametrize("size", [0, 1, 2, 13, 14, 15, 20, 26, 27, 28, 34, 41, 60])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_series_of_any_length_has_as_many_values_as_talib(name: str, size: int) -> None:
    frame = walk(size, size)
    found, carry = compute(frame, name, "1m")
    assert (carry is None) == (size == 0)
    for column, expected in zip(parse_name(name).outputs, reference(name, frame), strict=False):
        ours = found[column].to_numpy()
        assert (np.isnan(ours) == np.isnan(expected)).all(), column
        assert difference(ours, expected) < tolerance(name), column


@pytest.mark.parametrize("name", REFERENCES)
def test_the_first_value_is_where_the_declaration_says(name: str) -> None:
    request = parse_name(name)
    values = {p.name: v for p, v in zip(request.indicator.parameters, request.values, strict=True)}
    first = eval(request.indicator.first, {"int": int, "max": max}, values)
    found, _ = compute(walk(200, 7), name, "1m")
    for column in request.outputs:
        assert found[column].is_not_null().arg_max() == first, column


@pytest.mark.skipif(not DATA.is_dir(), reason="the real files are not on this machine")
@pytest.mark.parametrize("series", SERIES)
def test_real_bars_give_what_talib_gives_in_each_of_their_segments(series: str) -> None:
    frame = real_bars(series)
    interval = series.split()[-1]
    found, _ = compute(frame, list(REFERENCES), interval)
    # Independent of the kernel: Polars' own calendar.
    late = pl.col("open_time") > pl.col("open_time").shift(1).dt.offset_by(interval)
    starts = frame.select(late.fill_null(True).arg_true()).to_series().to_list()
    for name in REFERENCES:
        if name == "vwap":
            continue
        columns = parse_name(name).outputs
        expected = [np.full(frame.height, np.nan) for _ in columns]
        for start, end in zip(starts, [*starts[1:], frame.height], strict=True):
            values = reference(name, frame[start:end])
            for whole, part in zip(expected, values, strict=True):
                whole[start:end] = part
        for column, theirs in zip(columns, expected, strict=True):
            ours = found[column].to_numpy()
            assert not (np.isnan(theirs) & ~np.isnan(ours)).any(), column
            assert difference(ours, theirs) < tolerance(name), column
            flat = np.isnan(ours) & ~np.isnan(theirs)
            if flat.any():
                assert column in NULL_WHERE_FLAT
            if flat.any() and not column.endswith("_d_14_5_3"):
                assert set(theirs[flat]) == {0.0}, column  # TA-Lib's convention


# What real bars have: bars without a range, and a close that stands still for some bars.
NULL_WHERE_FLAT = {"bop", "stochrsi_k_14_5_3", "stochrsi_d_14_5_3"}
