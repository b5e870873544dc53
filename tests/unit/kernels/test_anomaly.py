"""Methods that find what looks wrong: against scipy, on series that must not crash or flood, in pieces."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.real_rows import ARCHIVE, RECORDED, archive_rows, recorded_bars

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.anomaly import (
    FINDINGS_SCHEMA,
    AnomalyLimits,
    Carry,
    find_anomalies,
    join_findings,
)
from lakehouse_ray.kernels.anomaly_cross import cross_interval
from lakehouse_ray.kernels.anomaly_forest import (
    ForestLimits,
    Sample,
    fit_forest,
    forest_findings,
    odd_bars,
)
from lakehouse_ray.kernels.robust import MAD_TO_SIGMA, OUTLIERS_SCHEMA, Window, outliers

T0 = datetime(2024, 5, 6, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
_TIME = pl.Datetime("us", "UTC")


def market(rows: int, seed: int = 0, tick: float = 0.01, move: float = 3e-4) -> pl.DataFrame:
    """1m bars of a calm random walk in ticks."""
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, move, rows))) / tick) * tick
    opened = np.concatenate([[100.0], close])[:rows]
    volume = np.exp(rng.normal(3, 0.7, rows))
    return pl.DataFrame(
        {
            "open_time": pl.Series([T0 + i * MINUTE for i in range(rows)], dtype=_TIME),
            "open": opened,
            "high": np.maximum(opened, close),
            "low": np.minimum(opened, close),
            "close": close,
            "volume": volume,
            "trades": rng.integers(20, 60, rows),
            "taker_buy_volume": volume * rng.uniform(0.35, 0.65, rows),
        }
    )


def at(bars: pl.DataFrame, row: int, **values: pl.Expr | float | None) -> pl.DataFrame:
    """The bars with other values in one row."""
    here = pl.int_range(bars.height) == row
    return bars.with_columns(
        pl.when(here).then(value if isinstance(value, pl.Expr) else pl.lit(value)).otherwise(name).alias(name)
        for name, value in values.items()
    )  # fmt: skip


def found(bars: pl.DataFrame, **limits: Any) -> dict[str, list[int]]:
    """Rows by method."""
    findings, _ = find_anomalies(bars, "1m", AnomalyLimits(**limits))
    assert findings.schema == FINDINGS_SCHEMA
    assert findings["score"].is_finite().all()
    rows = {time: i for i, time in enumerate(bars["open_time"])}
    result: dict[str, list[int]] = {}
    for time, method in findings.select("time", "method").rows():
        result.setdefault(method, []).append(rows[time])
    return result


def brute_outliers(
    x: np.ndarray[Any, Any], window: Window, limit: float, floor: float
) -> dict[int, float]:
    from scipy.stats import median_abs_deviation

    result = {}
    for i, value in enumerate(x):
        if window.after:
            part = x[max(0, i - window.before) : i + window.after + 1]
        else:
            part = x[max(0, i - window.before) : i]
        part = part[~np.isnan(part)]
        if len(part) < window.least or math.isnan(value):
            continue
        sigma = median_abs_deviation(part, scale="normal")
        scale = max(float(sigma), floor)
        z = value - np.median(part)
        if scale > 0 and abs(z) > limit * scale:
            result[i] = float(z / scale)
    return result


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 1.0, 1.5, 2.0, -3.0, 10.0, math.nan]) | st.integers(-9000, 9000).map(lambda n: n / 1000), max_size=60),
    st.sampled_from([Window(5), Window(8, least=3), Window(2, 2), Window(3, 3, 4), Window(1)]),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([1.0, 2.5]),
)  # fmt: skip
def test_outliers_are_those_of_scipy_s_mad(
    values: list[float], window: Window, floor: float, limit: float
) -> None:
    series = pl.Series(values, dtype=pl.Float64)
    out = outliers(series, window, limit, pl.repeat(floor, len(values), eager=True))
    assert out.schema == OUTLIERS_SCHEMA
    expected = brute_outliers(np.array(values), window, limit, floor)
    assert dict(out.select("row", "z").rows()) == pytest.approx(expected, rel=1e-9)


def test_the_scale_is_one_standard_deviation_of_normal_data() -> None:
    from scipy.stats import norm

    assert pytest.approx(1 / norm.ppf(0.75), rel=1e-15) == MAD_TO_SIGMA


def test_a_calm_market_has_no_findings() -> None:
    assert found(market(5000)) == {}


def test_a_spike_that_comes_back_is_found_by_hampel_with_what_was_expected() -> None:
    bars = market(1000)
    spiked = at(bars, 500, close=pl.col("close") * 1.04)
    findings, _ = find_anomalies(spiked, "1m")
    hampel = findings.filter(pl.col("method") == "hampel").row(0, named=True)
    around = bars["close"][493:508]
    assert hampel["time"] == T0 + 500 * MINUTE
    assert hampel["value"] == spiked["close"][500]
    assert hampel["expected"] == pytest.approx(around.median(), rel=1e-3)
    assert hampel["score"] > 1
    assert "the median of 15 bars around it" in hampel["reason"]
    assert found(spiked)["return_z"] == [500, 501]


def test_a_move_that_stays_is_no_spike() -> None:
    bars = market(1000)
    moved = bars.with_columns(
        close=pl.when(pl.int_range(1000) >= 500).then(pl.col("close") * 1.06).otherwise("close")
    )
    assert found(moved) == {"return_z": [500], "return_jump": [500]}


def test_a_burst_of_volume_is_found() -> None:
    bars = at(market(1000), 500, volume=pl.col("volume") * 500)
    assert found(bars) == {"volume_z": [500], "volume_jump": [500]}


def test_a_price_that_stands_still_is_found_once_where_it_has_become_too_long() -> None:
    bars = market(1000)
    still = bars.with_columns(
        pl.when(pl.int_range(1000).is_between(500, 600))
        .then(bars["close"][499])
        .otherwise(name)
        .alias(name)
        for name in ("high", "low", "close")
    )
    (row,) = found(still)["stale_price"]
    assert 499 + 15 <= row <= 520
    without = still.with_columns(
        volume=pl.when(pl.int_range(1000).is_between(500, 600)).then(0.0).otherwise("volume")
    )
    assert "stale_price" not in found(without)


def test_a_coarse_price_that_often_stands_still_is_not_stale() -> None:
    coarse = market(5000, tick=0.1, move=2e-4)
    unchanged = (coarse["close"].diff() == 0).mean()
    assert unchanged is not None
    assert unchanged > 0.7
    assert found(coarse) == {}


def test_single_ticks_of_a_coarse_price_are_no_outliers() -> None:
    bars = market(2000, tick=0.2, move=1e-4)
    assert bars["close"].n_unique() > 3
    assert found(bars).get("return_z", []) == []


def test_no_return_is_taken_across_a_gap_but_a_jump_over_it_is_seen() -> None:
    bars = market(1000)
    moved = bars.with_columns(
        close=pl.when(pl.int_range(1000) >= 500).then(pl.col("close") * 1.2).otherwise("close")
    )
    gapped = pl.concat([moved.head(500), moved.tail(470)])  # half an hour is missing
    assert found(gapped) == {"return_jump": [500]}
    days = gapped.with_columns(
        pl.when(pl.int_range(970) >= 500)
        .then(pl.col("open_time") + timedelta(days=2))
        .otherwise("open_time")
        .alias("open_time")
    )
    # A fifth in two days is nothing to this market.
    assert found(days) == {}


def test_a_gap_in_time_is_no_return_of_any_size() -> None:
    bars = market(1000, move=1e-4)
    gapped = pl.concat([bars.head(500), bars.tail(400)])
    assert found(gapped) == {}


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 8, 59, 61])
def test_short_series_find_nothing_and_do_not_crash(rows: int) -> None:
    assert found(market(rows)) == {}


def test_a_flat_series_finds_nothing_and_its_first_jump_once() -> None:
    flat = market(1000).with_columns(close=pl.lit(5.0), volume=pl.lit(0.0))
    assert found(flat) == {}
    jump = flat.with_columns(close=pl.when(pl.int_range(1000) >= 500).then(5.5).otherwise(5.0))
    assert found(jump) == {"return_jump": [500]}
    traded = flat.with_columns(volume=pl.lit(3.0))
    assert "stale_price" not in found(traded)  # it never moved: too coarse to tell


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_value_that_is_none_poisons_nothing(value: float | None) -> None:
    bars = at(market(1000), 400, close=value, volume=value, high=value)
    assert found(bars) == {}
    spiked = at(bars, 500, close=pl.col("close") * 1.04)
    assert found(spiked)["hampel"] == [500]


def test_all_values_missing_find_nothing() -> None:
    none = pl.lit(None, dtype=pl.Float64)
    assert found(market(500).with_columns(close=none, high=none, low=none, volume=none)) == {}


def test_bars_out_of_order_are_refused() -> None:
    bars = market(10)
    for wrong in (bars.reverse(), pl.concat([bars, bars.tail(1)])):
        with pytest.raises(InvalidError, match="order"):
            find_anomalies(wrong, "1m")


def eventful(seed: int) -> pl.DataFrame:
    """A market with spikes, bursts, quiet bars, a stale run, holes and values that are none."""
    rng = np.random.default_rng(seed)
    bars = market(1500, seed)
    for row in rng.integers(0, 1500, 12):
        bars = at(bars, int(row), close=pl.col("close") * float(rng.choice([0.9, 0.97, 1.05])))
    for row in rng.integers(0, 1500, 8):
        bars = at(bars, int(row), volume=pl.col("volume") * float(rng.choice([0, 200, math.nan])))
    start = int(rng.integers(200, 1300))
    bars = bars.with_columns(
        pl.when(pl.int_range(1500).is_between(start, start + 60))
        .then(bars["close"][start])
        .otherwise(name)
        .alias(name)
        for name in ("high", "low", "close")
    )
    return bars.filter(~pl.Series(rng.random(1500) < 0.01))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 50), st.lists(st.integers(0, 1500), max_size=6))
def test_pieces_find_what_one_run_finds(seed: int, cuts: list[int]) -> None:
    bars = eventful(seed)
    # Small enough that pieces are longer than what is carried.
    limits = AnomalyLimits(window=60, window_least=20, stale_most=30)
    whole, _ = find_anomalies(bars, "1m", limits)
    edges = [0, *sorted(min(cut, bars.height) for cut in cuts), bars.height]
    carry: Carry | None = None
    parts = []
    for i, (start, end) in enumerate(pairwise(edges)):
        last = i == len(edges) - 2
        piece = bars.slice(start, end - start)
        findings, carry = find_anomalies(piece, "1m", limits, carry, last=last)
        assert carry.rows.height <= limits.rows_carried
        parts.append(findings)
    assert whole["method"].n_unique() >= 4
    assert join_findings(parts).equals(join_findings([whole]))


def test_the_same_bars_give_the_same_findings() -> None:
    bars = eventful(3)
    assert find_anomalies(bars, "1m")[0].equals(find_anomalies(bars, "1m")[0])


def coarse_of(bars: pl.DataFrame, every: str) -> pl.DataFrame:
    """Bars of bars, by DuckDB's truth of first and last."""
    return (
        bars.group_by_dynamic("open_time", every=every)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
        )
        .select("open_time", "open", "high", "low", "close", "volume")
    )


@pytest.mark.parametrize(
    ("fine", "minutes", "coarse", "every", "rows"),
    [
        ("1m", 1, "1h", "1h", 600),
        ("1h", 60, "1d", "1d", 24 * 9),
        ("1d", 1440, "1w", "1w", 30),
        ("1d", 1440, "1mo", "1mo", 120),
        ("1h", 60, "1mo", "1mo", 24 * 70),
    ],
)
def test_bars_made_of_finer_bars_agree_and_one_that_does_not_is_found(
    fine: str, minutes: int, coarse: str, every: str, rows: int
) -> None:
    bars = market(rows).with_columns(
        open_time=pl.lit(T0).cast(_TIME) + pl.int_range(rows) * timedelta(minutes=minutes)
    )
    long = coarse_of(bars, every)
    assert cross_interval(bars, long, fine, coarse).is_empty()
    whole = 1 if coarse == "1mo" else 2  # May began before the bars did
    wrong = at(long, whole, high=pl.col("high") * 1.01, volume=pl.col("volume") * 1.0001)
    (finding,) = cross_interval(bars, wrong, fine, coarse).to_dicts()
    assert finding["time"] == long["open_time"][whole]
    assert (finding["value"], finding["expected"]) == (wrong["high"][whole], long["high"][whole])
    assert "high" in finding["reason"]
    assert "volume" in finding["reason"]
    # With a finer bar missing there is nothing to compare it with.
    holed = bars.filter(pl.col("open_time") != long["open_time"][whole])
    assert cross_interval(holed, wrong, fine, coarse).is_empty()


def test_three_day_bars_are_made_of_days_where_the_exchange_begins_them() -> None:
    bars = market(30).with_columns(
        open_time=pl.lit(T0).cast(_TIME) + pl.int_range(30) * timedelta(days=1)
    )
    # 2024-01-01 opens one: its number since 1970 leaves 1 when divided by 3.
    number = bars["open_time"].dt.epoch("d") % 3
    bars = bars.filter((number == 1).cum_max())
    long = bars.with_columns(third=pl.int_range(pl.len()) // 3).group_by(
        "third", maintain_order=True
    ).agg(
        pl.col("open_time", "open").first(), pl.col("high").max(), pl.col("low").min(),
        pl.col("close").last(), pl.col("volume").sum(),
    )  # fmt: skip
    assert cross_interval(bars, long, "1d", "3d").is_empty()
    wrong = at(long, 4, close=pl.col("close") * 1.01)
    assert cross_interval(bars, wrong, "1d", "3d")["time"].to_list() == [long["open_time"][4]]


@pytest.mark.parametrize(
    ("fine", "coarse"), [("2h", "3m"), ("1h", "1h"), ("3m", "5m"), ("1mo", "1w"), ("1w", "1mo"), ("3d", "1mo")]
)  # fmt: skip
def test_intervals_that_do_not_divide_are_refused(fine: str, coarse: str) -> None:
    with pytest.raises(InvalidError, match="do not make up"):
        cross_interval(market(5), market(5), fine, coarse)


def test_an_isolation_forest_finds_an_odd_bar_and_the_same_one_each_time() -> None:
    bars = market(3000)
    odd = at(bars, 2000, taker_buy_volume=pl.col("volume"), trades=1.0, volume=pl.col("volume") * 9)
    odd = at(odd, 2000, close=pl.col("close") * 1.01, high=pl.col("close") * 1.02)
    forest = fit_forest(bars, "1m")
    assert forest is not None
    findings, _ = forest_findings(forest, odd)
    assert findings.schema == FINDINGS_SCHEMA
    assert findings["time"].to_list() == [T0 + 2000 * MINUTE]
    assert findings["score"].item() > 1
    again = fit_forest(bars, "1m")
    assert again is not None
    assert forest_findings(again, odd)[0].equals(findings)


def test_a_forest_finds_in_pieces_what_it_finds_in_one_run() -> None:
    bars = eventful(7).with_columns(trades=pl.col("trades").cast(pl.Int64))
    limits = ForestLimits(score=0.6, window=60, window_least=20, trees=20)
    forest = fit_forest(bars, "1m", limits)
    assert forest is not None
    whole, _ = forest_findings(forest, bars)
    carry, parts = None, []
    for piece in bars.iter_slices(333):
        findings, carry = forest_findings(forest, piece, carry)
        parts.append(findings)
    assert whole.height > 3
    assert join_findings(parts).equals(join_findings([whole]))


@pytest.mark.parametrize("piece", [97, 700, 2999])
def test_a_forest_learns_from_pieces_what_it_learns_from_one_run(piece: int) -> None:
    bars = market(3000)
    # Fewer than there are, so that steps over edges of pieces are taken too.
    limits = ForestLimits(score=0.6, fit_rows=700)
    sample = Sample("1m", bars.height, limits)
    for part in bars.iter_slices(piece):
        sample.take(part)
    forest = sample.fit()
    assert forest is not None
    found, _ = forest_findings(forest, bars)
    assert found.height > 0
    assert found.equals(odd_bars(bars, "1m", limits))


def test_a_forest_says_nothing_of_few_or_flat_bars() -> None:
    assert fit_forest(market(200), "1m") is None
    assert fit_forest(market(0), "1m") is None
    flat = market(3000).with_columns(volume=pl.lit(0.0))
    assert fit_forest(flat, "1m") is None


def test_without_scikit_learn_the_forest_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(InvalidError) as caught:
        fit_forest(market(10), "1m")
    assert "lakehouse-ray[ml]" in caught.value.hint


@pytest.mark.skipif(not ARCHIVE.exists(), reason="no real files at ../shared/data/archive")
def test_real_bars_do_not_flood() -> None:
    for (dataset, market_name, symbol, interval), bars in archive_rows().items():
        if dataset == "klines" and interval is not None:
            findings, _ = find_anomalies(bars, interval)
            share = findings["time"].n_unique() / bars.height
            assert share < 0.005, (market_name, symbol, interval)


@pytest.mark.skipif(not RECORDED.exists(), reason="no recorded files at ../shared/data/recorded")
def test_the_one_hour_of_2022_that_its_quarters_contradict_is_found() -> None:
    quarters = archive_rows()["klines", "spot", "BTCUSDT", "15m"]
    hours = recorded_bars("spot_klines_1h_year/BTCUSDT-1h-2022-01.csv")
    (finding,) = cross_interval(quarters, hours, "15m", "1h").to_dicts()
    assert finding["time"] == datetime(2022, 4, 13, 5, tzinfo=UTC)
    assert (finding["value"], finding["expected"]) == pytest.approx((762.56117, 763.44194))
    assert finding["reason"].startswith("volume ")
