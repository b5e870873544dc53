"""Flat prices, gaps, bars without a number, and what cannot be computed."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal
from support.talib_bars import MIDNIGHT, MINUTE_US, REFERENCES, bars, difference, reference, walk

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.compute import compute
from lakehouse_ray.kernels.indicators.registry import INDICATORS, parse_name
from lakehouse_ray.model.venue import INTERVALS

NAMES = list(REFERENCES)
# Null in a series that never moves, and what TA-Lib says there.
NULL_WHEN_NOTHING_MOVES = {
    "rsi_14": 0, "rsi_2": 0, "cmo_14": 0, "bop": 0, "stoch_14_3_3": 0, "stochf_14_3": 0,
    "stochrsi_14_5_3": 0, "willr_14": 0, "cci_20": 0, "ultosc_7_14_28": 0, "plus_di_14": 0,
    "minus_di_14": 0, "dx_14": 0, "adx_14": 0, "adx_2": 0, "adxr_14": 0, "mfi_14": 0,
}  # fmt: skip
# TA-Lib says NaN, or what rounding leaves.
NULL_WITHOUT_CONVENTION = {"vortex_14"}


def flat(size: int, price: float) -> pl.DataFrame:
    return bars(np.full(size, price), spread=0)


def outputs(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    return frame.select(parse_name(name).outputs)


def at(frame: pl.DataFrame, row: int, column: str, value: float | None) -> pl.DataFrame:
    """The frame with one value replaced."""
    values = frame[column].to_list()
    values[row] = value
    return frame.with_columns(pl.Series(column, values, dtype=pl.Float64))


@pytest.mark.parametrize("price", [7.3, 0.1, 1e-6, 41_234.56])
@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_moves_a_convention_of_talib_is_null_and_the_rest_is_equal(
    name: str, price: float
) -> None:
    frame = flat(120, price)
    found, _ = compute(frame, name, "1m")
    for column, expected in zip(parse_name(name).outputs, reference(name, frame), strict=True):
        ours = found[column]
        if name in NULL_WITHOUT_CONVENTION or name in NULL_WHEN_NOTHING_MOVES:
            assert ours.null_count() == frame.height, column
        else:
            # Differences of averages of equal prices are rounding, of the price's size.
            apart = np.abs(ours.to_numpy() - expected)
            assert np.nanmax(apart) <= 1e-12 * max(price, np.nanmax(np.abs(expected))), column
            assert ours.null_count() == np.isnan(expected).sum(), column


@pytest.mark.parametrize("name", NAMES)
def test_after_a_flat_stretch_values_are_talibs_again(name: str) -> None:
    moving = walk(150, 3)["close"].to_numpy()
    close = np.concatenate([moving, np.full(60, moving[-1]), moving[-1] * moving / moving[0]])
    frame = bars(close, 3)
    still = slice(151, 210)
    frame = frame.with_columns(
        pl.Series(n, np.where(np.isin(np.arange(360), np.r_[still]), close, frame[n].to_numpy()))
        for n in ("high", "low")
    )
    found, _ = compute(frame, name, "1m")
    for column, expected in zip(parse_name(name).outputs, reference(name, frame), strict=True):
        ours = found[column].to_numpy()
        defined = ~np.isnan(ours)
        # Rounding is of the size of prices where these cancel.
        slack = 1e-5 if name.startswith(("linreg", "trix", "macd", "apo", "ppo")) else 1e-9
        if name.startswith(("stddev", "var", "bbands")):
            slack = 1e-5  # TA-Lib's flat window keeps a trace of what has left it
        assert difference(ours, expected) < slack, column
        assert not (np.isnan(expected) & defined).any(), column
        assert defined[240:].all(), column
        if name not in NULL_WHEN_NOTHING_MOVES and name not in NULL_WITHOUT_CONVENTION:
            assert (np.isnan(expected) == ~defined).all(), column


def test_a_wilder_average_remembers_what_moved_before_a_flat_stretch() -> None:
    frame = bars([100, *(100 + np.arange(30.0)), *np.full(500, 129.0)], spread=0)
    found, _ = compute(frame, "rsi_14", "1m")
    assert found["rsi_14"][-1] == pytest.approx(100)


def test_bollinger_bands_of_a_flat_price_are_the_price() -> None:
    found, _ = compute(flat(30, 0.1), "bbands_20_2", "1m")
    last = found.select("bb_upper_20_2", "bb_middle_20_2", "bb_lower_20_2").row(-1)
    assert last == pytest.approx((0.1, 0.1, 0.1), rel=1e-15)


def test_bars_without_volume_leave_the_average_price_of_nothing_undefined() -> None:
    frame = walk(40, 1).with_columns(volume=pl.lit(0.0))
    found, _ = compute(frame, ["vwap", "vwap_20", "vwma_20", "mfi_14", "cmf_20", "obv"], "1m")
    for column in ("vwap", "vwap_20", "vwma_20", "mfi_14", "cmf_20"):
        assert found[column].null_count() == 40
    assert found["obv"].to_list() == [0.0] * 40


def test_a_bar_without_volume_is_no_gap() -> None:
    frame = at(walk(60, 1), 30, "volume", 0.0)
    found, _ = compute(frame, ["sma_20", "mfi_14"], "1m")
    assert found["sma_20"].null_count() == 19
    assert found["mfi_14"].null_count() == 14


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", [1, 3])
def test_each_side_of_a_gap_is_what_it_is_alone(name: str, missing: int) -> None:
    frame = walk(400, 8)
    one, two = frame[:170], frame[170 + missing :]
    together, _ = compute(pl.concat([one, two]), name, "1m")
    alone = pl.concat([compute(part, name, "1m")[0] for part in (one, two)])
    assert_frame_equal(together, alone, check_exact=name.partition("_")[0] != "kama", rel_tol=1e-13)


@pytest.mark.parametrize("hole", [None, float("nan"), float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_a_bar_without_a_number_ends_a_segment_and_poisons_nothing(
    name: str, hole: float | None
) -> None:
    column = INDICATORS[parse_name(name).indicator.name].columns[-1]
    frame = at(walk(400, 9), 170, column, hole)
    found, _ = compute(frame, name, "1m")
    one, two = compute(frame[:170], name, "1m")[0], compute(frame[171:], name, "1m")[0]
    for output in parse_name(name).outputs:
        assert found[output][170] is None
        alone = pl.concat([one[output], pl.Series([None], dtype=pl.Float64), two[output]])
        assert_series_equal(found[output], alone, check_names=False, rel_tol=1e-13)


def test_a_hole_in_a_column_that_an_indicator_does_not_read_does_not_concern_it() -> None:
    frame = at(walk(60, 1), 30, "volume", None)
    found, _ = compute(frame, ["sma_20", "mfi_14"], "1m")
    assert found["sma_20"].null_count() == 19
    assert found["mfi_14"].null_count() == 14 + 1 + 14


def test_a_column_without_any_number_gives_nulls() -> None:
    frame = walk(60, 1).with_columns(close=pl.lit(None, dtype=pl.Float64))
    found, carry = compute(frame, ["sma_20", "atr_14", "obv"], "1m")
    assert found.select("sma_20", "atr_14", "obv").null_count().row(0) == (60, 60, 60)
    again, _ = compute(walk(120, 1)[60:], ["sma_20", "atr_14", "obv"], "1m", carry)
    assert again["sma_20"].null_count() == 19


def test_thousands_of_segments_are_each_computed_alone() -> None:
    frame = walk(12_000, 4).with_row_index("row")
    frame = frame.filter(pl.col("row") % 61 != 7).drop("row")
    names = ["ema_5", "rsi_14", "kama_5", "adx_14", "obv", "vwap", "supertrend_10_3"]
    found, _ = compute(frame, names, "1m")
    times = frame["open_time"].dt.timestamp("us").to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(times) > MINUTE_US) + 1).tolist()]
    assert len(starts) == 198
    for start, end in list(zip(starts, [*starts[1:], frame.height], strict=True))[::13]:
        alone, _ = compute(frame[start:end], names, "1m")
        assert_frame_equal(found[start:end], alone, rel_tol=1e-12)


@pytest.mark.parametrize("interval", INTERVALS)
def test_bars_of_every_interval_hang_together(interval: str) -> None:
    times = pl.datetime_range(
        datetime(2023, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), interval, eager=True
    ).cast(pl.Datetime("us", "UTC"))[:36]
    frame = walk(times.len(), 1).with_columns(open_time=times)
    whole, _ = compute(frame, "sma_3", interval)
    assert whole["sma_3"].null_count() == 2
    broken, _ = compute(pl.concat([frame[:10], frame[11:]]), "sma_3", interval)
    assert broken["sma_3"].is_null().arg_true().to_list() == [0, 1, 10, 11]


def test_a_bar_that_comes_early_is_no_gap() -> None:
    frame = walk(40, 1)
    early = frame["open_time"].to_list()
    early[20] = early[20].replace(second=0, microsecond=0) - (early[1] - early[0]) / 2
    frame = frame.with_columns(open_time=pl.Series(early).cast(pl.Datetime("us", "UTC")))
    # Half a minute early, and so the next one is a minute and a half away: that is a gap.
    found, _ = compute(frame, "sma_3", "1m")
    assert found["sma_3"].is_null().arg_true().to_list() == [0, 1, 21, 22]


def test_the_average_price_of_a_day_begins_anew_at_midnight() -> None:
    frame = walk(3_000, 2)
    found, _ = compute(frame, "vwap", "1m")
    for start in (0, 1_440, 2_880):
        day = frame[start : start + 1_440]
        assert (
            difference(found["vwap"][start : start + 1_440].to_numpy(), reference("vwap", day)[0])
            < 1e-12
        )


def test_names_that_share_a_line_are_computed_once_and_keep_their_order() -> None:
    frame = walk(60, 1)
    found, _ = compute(frame, "rsi_14, sma_20,RSI,macd", "1m")
    assert found.columns[6:] == [
        "rsi_14", "sma_20", "macd_12_26_9", "macd_signal_12_26_9", "macd_hist_12_26_9",
    ]  # fmt: skip
    assert found.select(frame.columns).equals(frame)
    assert set(found.dtypes[6:]) == {pl.Float64}


def test_whole_numbers_and_other_units_of_time_are_read() -> None:
    frame = walk(40, 1).with_columns(pl.col("close").round().cast(pl.Int64))
    expected, _ = compute(frame, "sma_20", "1m")
    coarse = frame.with_columns(pl.col("open_time").dt.cast_time_unit("ms"))
    found, _ = compute(coarse, "sma_20", "1m")
    assert found["sma_20"].equals(expected["sma_20"])


@pytest.mark.parametrize(
    ("change", "names", "interval", "message", "hint"),
    [
        (pl.col("close"), "smaa_20", "1m", "unknown indicator 'smaa_20'", "did you mean .*sma_20"),
        (pl.col("close"), "bb_upper_20_2", "1m", "unknown", "did you mean bbands_20_2"),
        (pl.col("close"), "qqq", "1m", "unknown", "adx, adxr"),
        (pl.col("close"), "", "1m", "no indicator", "sma_20"),
        (pl.col("close"), "sma_0", "1m", "cannot be 0", "1 to 100,000"),
        (pl.col("close"), "sma_-5", "1m", "cannot be -5", "1 to"),
        (pl.col("close"), "sma_2.5", "1m", "whole number", ""),
        (pl.col("close"), "sma_x", "1m", "whole number, not 'x'", ""),
        (pl.col("close"), "bbands_20_nan", "1m", "cannot be nan", "0 to"),
        (pl.col("close"), "sma_20_3", "1m", "takes period", "such as sma_20"),
        (pl.col("close"), "obv_3", "1m", "takes none", "such as obv"),
        (pl.col("close"), "macd_26_12_9", "1m", "fast must be smaller than slow", "macd_12_26_9"),
        (pl.col("close"), "sma_20", "7m", "unknown interval", "1m"),
        (pl.col("close").alias("sma_20"), "sma_20", "1m", "a column sma_20 already", "rename"),
        (pl.lit("x").alias("close"), "sma_20", "1m", "close must be a number", ""),
        (pl.lit(1).alias("open_time"), "sma_20", "1m", "open_time must be a time", ""),
        (pl.col("open_time").reverse(), "sma_20", "1m", "not in the order of time", "sort"),
        (pl.lit(MIDNIGHT).alias("open_time"), "sma_20", "1m", "not in the order", "sort"),
    ],
)
def test_what_cannot_be_computed_is_said(
    change: pl.Expr, names: str, interval: str, message: str, hint: str
) -> None:
    frame = walk(30, 1).with_columns(change)
    with pytest.raises(InvalidError, match=message) as raised:
        compute(frame, names, interval)
    assert re.search(hint, raised.value.hint)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InvalidError, match="no column volume"):
        compute(walk(30, 1).drop("volume"), ["sma_20", "obv"], "1m")
    found, _ = compute(walk(30, 1).drop("volume"), "sma_20", "1m")
    assert found["sma_20"].null_count() == 19


@pytest.mark.parametrize("indicator", INDICATORS)
def test_a_bare_name_has_default_parameters_and_its_own_spelling_reads_back(indicator: str) -> None:
    request = parse_name(indicator)
    assert request == INDICATORS[indicator].default
    assert parse_name(request.name) == request
    assert len(request.outputs) == len(set(request.outputs))


def test_parameters_left_away_at_the_end_have_their_defaults() -> None:
    assert parse_name("macd_8").name == "macd_8_26_9"
    assert parse_name("bbands_20_2.0").outputs[0] == "bb_upper_20_2"
    assert parse_name("bbands_20_2.125").outputs[0] == "bb_upper_20_2.125"
    assert parse_name("linreg_slope_14").indicator.name == "linreg_slope"


def test_no_two_indicators_share_a_column() -> None:
    columns = [output for i in INDICATORS.values() for output in i.outputs]
    assert len(columns) == len(set(columns))
