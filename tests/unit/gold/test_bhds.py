"""BHDS's rules, against the same rules in plain Python, bar by bar."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from support.made_bars import START_US, TIME, made_bars

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.gold.bhds import bhds_klines, bhds_resampled
from lakehouse_ray.model.timespan import HOUR_US

MINUTE = timedelta(minutes=1)
SUMS = ("volume", "quote_volume", "trade_num", "taker_buy_base_asset_volume",
        "taker_buy_quote_asset_volume")  # fmt: skip
Row = dict[str, Any]


def funding_of(hours: list[int]) -> pl.DataFrame:
    times = [START_US + hour * HOUR_US + 7_000 for hour in hours]
    return pl.DataFrame(
        {
            "calc_time": pl.Series(times, dtype=pl.Int64).cast(TIME),
            "last_funding_rate": [(-1) ** n * n * 1e-4 for n in range(len(hours))],
        }
    )


def plain(bars: pl.DataFrame, rates: dict[datetime, float]) -> list[list[Row]]:
    """Average, funding, filling by minutes, splitting, as written down in reference."""
    known = {row["open_time"]: row for row in bars.iter_rows(named=True)}
    times = sorted(known)
    filled: list[Row] = []
    time = times[0]
    while time <= times[-1]:
        if bar := known.get(time):
            volume, quote = bar["volume"], bar["quote_volume"]
            vwap = bar["open"] if volume == 0 else quote / volume
            row = {
                **{name: bar[name] for name in ("open", "high", "low", "close", "volume")},
                "quote_volume": quote,
                "trade_num": bar["trades"],
                "taker_buy_base_asset_volume": bar["taker_buy_volume"],
                "taker_buy_quote_asset_volume": bar["taker_buy_quote_volume"],
                "funding_rate": rates.get(time, 0.0),
            }
        else:
            close = filled[-1]["close"]
            vwap = close
            row = dict.fromkeys(("open", "high", "low", "close"), close)
            row |= dict.fromkeys((*SUMS, "funding_rate"), 0)
        vwap = min(max(vwap, row["low"]), row["high"])
        filled.append({"candle_begin_time": time, **row, "vwap1m": vwap})
        time += MINUTE
    parts: list[list[Row]] = [[]]
    before: Row | None = None
    for row in filled:
        if row["volume"] > 0:
            if before is not None:
                silent = row["candle_begin_time"] - before["candle_begin_time"]
                moved = abs(row["open"] / before["close"] - 1)
                if (silent > timedelta(days=1) and moved > 0.1) or (
                    silent > timedelta(days=2) and moved > 0
                ):
                    parts.append([])
            before = row
        parts[-1].append(row)
    return parts


def assert_same(frame: pl.DataFrame, rows: list[Row]) -> None:
    truth = pl.DataFrame(rows, schema_overrides=frame.schema).select(frame.columns)
    assert_frame_equal(frame, truth, check_exact=False, rel_tol=1e-12)


runs = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([0, 1, 7, 1439, 1440, 2879, 2881, 4000])),
    min_size=1,
    max_size=5,
)


def in_runs(lengths: list[tuple[int, int]]) -> list[int]:
    slots, at = [], 0
    for length, hole in lengths:
        slots += range(at, at + length)
        at += length + hole
    return slots


@given(runs, st.sampled_from([0.0, 0.4]), st.integers(0, 3), st.booleans())
@settings(max_examples=20, deadline=None)
def test_klines_are_those_of_the_rules_followed_bar_by_bar(
    lengths: list[tuple[int, int]], quiet: float, seed: int, jumps: bool
) -> None:
    bars = made_bars(in_runs(lengths), seed=seed, quiet=quiet)
    if jumps:
        scale = 1 + 0.2 * (pl.col("open_time").dt.day() % 2)
        bars = bars.with_columns(pl.col("open", "high", "low", "close", "quote_volume") * scale)
    funding = funding_of([0, 8, 16, 24, 48])
    rates = {
        time.replace(microsecond=0): rate
        for time, rate in funding.select("calc_time", "last_funding_rate").rows()
    }
    truth = plain(bars, rates)
    made = bhds_klines(bars, funding, market="um", symbol="X", interval="1m")
    assert list(made) == [f"SP{n}_X" for n in range(len(truth) - 1)] + ["X"]
    for part, rows in zip(made.values(), truth, strict=True):
        assert_same(part, rows)


def test_names_and_types_are_those_of_bhds() -> None:
    part = bhds_klines(made_bars([0]), None, market="um", symbol="X", interval="1m")["X"]
    assert part.schema == {
        "candle_begin_time": pl.Datetime("ms", "UTC"), "open": pl.Float64, "high": pl.Float64,
        "low": pl.Float64, "close": pl.Float64, "volume": pl.Float64, "quote_volume": pl.Float64,
        "trade_num": pl.Int64, "taker_buy_base_asset_volume": pl.Float64,
        "taker_buy_quote_asset_volume": pl.Float64, "vwap1m": pl.Float64, "funding_rate": pl.Float64,
    }  # fmt: skip
    spot = bhds_klines(made_bars([0]), None, market="spot", symbol="X", interval="1h")["X"]
    assert "funding_rate" not in spot.columns
    assert "vwap1h" in spot.columns


def test_a_day_of_hours_becomes_1381_bars() -> None:
    bars = made_bars(list(range(24)), length_us=HOUR_US)
    made = bhds_klines(bars, None, market="spot", symbol="X", interval="1h")
    assert made["X"].height == 1381


def test_resampled_bars_are_those_of_whole_hours_at_every_offset() -> None:
    bars = made_bars([n for n in range(1000) if n % 100 < 95], quiet=0.1)
    funding = funding_of([8, 16])
    part = bhds_klines(bars, funding, market="um", symbol="X", interval="1m")["X"]
    made = bhds_resampled(part, "1h", "5m")
    assert list(made) == [f"{n}m" for n in range(0, 60, 5)]
    minutes = part.rows(named=True)
    for n, frame in enumerate(made.values()):
        hours = [minutes[k : k + 60] for k in range(5 * n, len(minutes) - 59, 60)]
        rows = []
        for hour in hours:
            paid = [minute for minute in hour if abs(minute["funding_rate"]) > 1e-6]
            first = paid[0] if paid else dict.fromkeys(hour[0])
            rows.append(
                {
                    "candle_begin_time": hour[0]["candle_begin_time"],
                    "open": hour[0]["open"],
                    "high": max(minute["high"] for minute in hour),
                    "low": min(minute["low"] for minute in hour),
                    "close": hour[-1]["close"],
                    **{name: sum(minute[name] for minute in hour) for name in SUMS},
                    "vwap1m_open": hour[0]["vwap1m"],
                    "funding_rate": first["funding_rate"],
                    "funding_price": first["open"],
                    "funding_time": first["candle_begin_time"],
                }
            )
        assert_same(frame, rows)
    assert list(bhds_resampled(part, "5m", "0m")) == ["0m"]


def test_intervals_that_bhds_does_not_know_are_refused() -> None:
    part = bhds_klines(made_bars([0]), None, market="spot", symbol="X", interval="1m")["X"]
    for target in ("1d", "1w", "1mo"):
        with pytest.raises(InvalidError, match="BHDS"):
            bhds_resampled(part, target, "0m")
