"""Bars made from finer ones against the coarser bars that the exchange itself published."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from support.real_klines import (
    CSV,
    SHARED,
    SPOT_DAILY,
    SPOT_MONTHLY,
    bars_of_csv,
    bars_of_rest,
    bars_of_zips,
)

from lakehouse_ray.kernels.resample import Resampling, resample

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real files are not on this machine"
)

VALUES = (
    "open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume",
    "taker_buy_quote_volume",
)  # fmt: skip
Read = Callable[[], pl.DataFrame]


def hours(name: str) -> Read:
    return lambda: bars_of_csv(CSV / "spot_klines_1h_year" / f"{name}-01.csv")


def days(name: str) -> Read:
    return lambda: bars_of_csv(CSV / "spot_klines_1d_year" / f"{name}-01.csv")


def rest(name: str) -> Read:
    return lambda: bars_of_rest(SHARED / "recorded/rest_json/klines_rows" / f"{name}.json")


def zips(name: str, monthly: bool = False) -> Read:
    return lambda: bars_of_zips((SPOT_MONTHLY if monthly else SPOT_DAILY) / name)


# Finer bars, coarser bars as published, and where they disagree although no finer bar is missing or
# off the grid: the files are of different ages (trades of the sum, trades as published).
PAIRS: dict[str, tuple[str, Read, str, Read, dict[str, tuple[int, int]]]] = {
    "BTCUSDT 15m of 2022 to the year's hours": (
        "15m", zips("BTCUSDT/15m"), "1h", hours("BTCUSDT-1h-2022"),
        {"2022-04-13T05:00": (22_852, 22_816)}),
    "BTCUSDT 15m to hours that REST gave": (
        "15m", zips("BTCUSDT/15m"), "1h", rest("BTCUSDT-1h-2022-01-01"), {}),
    "BTCUSDT minutes of 2020 to hours": (
        "1m", zips("BTCUSDT/1m"), "1h", hours("BTCUSDT-1h-2020"), {}),
    "BTCUSDT minutes of 2020 to days that REST gave": (
        "1m", zips("BTCUSDT/1m"), "1d", rest("BTCUSDT-1d-2020-01-01"), {}),
    "BTCUSDC 5m of 2018, many without a trade, to hours": (
        "5m", lambda: bars_of_csv(CSV / "spot_klines_5m/BTCUSDC-5m-2018-12.csv"),
        "1h", lambda: bars_of_csv(CSV / "spot_klines_1h_year/BTCUSDC-1h-2018-12.csv"), {}),
    "ETHUSDT 5m of November 2022 to days": (
        "5m", zips("ETHUSDT/5m"), "1d", zips("ETHUSDT/1d"), {}),
    "BTCUSDT hours of 2018 to days": (
        "1h", hours("BTCUSDT-1h-2018"), "1d", days("BTCUSDT-1d-2018"), {}),
    "BTCUSDT hours of 2019 to days that REST gave": (
        "1h", hours("BTCUSDT-1h-2019"), "1d", rest("BTCUSDT-1d-2018-01-01"),
        {"2019-05-08T00:00": (190_966, 190_969), "2019-10-01T00:00": (387_653, 387_712),
         "2019-12-04T00:00": (516_158, 516_250)}),
    "BTCUSDT hours of 2020 to days that REST gave": (
        "1h", hours("BTCUSDT-1h-2020"), "1d", rest("BTCUSDT-1d-2020-01-01"),
        {"2020-10-27T00:00": (1_003_550, 1_003_615)}),
    "BTCUSDT hours of 2021 to days": (
        "1h", hours("BTCUSDT-1h-2021"), "1d", days("BTCUSDT-1d-2021"),
        {"2021-01-21T00:00": (2_881_505, 2_820_752), "2021-04-23T00:00": (2_885_236, 2_888_237),
         "2021-12-24T00:00": (1_074_408, 1_074_410)}),
    "BTCUSDT hours of 2024 to days": (
        "1h", hours("BTCUSDT-1h-2024"), "1d", days("BTCUSDT-1d-2024"), {}),
    "BTCUSDT hours of 2025, in microseconds, to days": (
        "1h", hours("BTCUSDT-1h-2025"), "1d", days("BTCUSDT-1d-2025"), {}),
    "BTCUSDT monthly files over the change to microseconds, to days": (
        "1h", zips("BTCUSDT/1h", monthly=True), "1d", days("BTCUSDT-1d-2025"), {}),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_complete_bars_equal_the_published_ones_but_for_the_known_differences(pair: str) -> None:
    source, finer, target, coarser, known = PAIRS[pair]
    made = resample(finer(), Resampling(source, target)).filter(~pl.col("is_partial"))
    both = made.join(coarser(), on="open_time", suffix="_published")
    assert both.height > 1
    differs = [
        (pl.col(name) - pl.col(f"{name}_published")).abs() > 1e-9 * pl.col(name).abs()
        for name in VALUES
    ]
    found = both.filter(pl.any_horizontal(differs))
    spelled = found.with_columns(at=pl.col("open_time").dt.strftime("%Y-%m-%dT%H:%M"))
    trades = spelled.select("at", "trades", "trades_published").rows()
    assert {at: (ours, theirs) for at, ours, theirs in trades} == known
    assert both.filter(pl.col("close_time") != pl.col("close_time_published")).height == 0


def test_prices_of_quiet_minutes_are_left_out_as_the_exchange_does() -> None:
    finer = bars_of_csv(CSV / "spot_klines_5m/BTCUSDC-5m-2018-12.csv")
    published = bars_of_csv(CSV / "spot_klines_1h_year/BTCUSDC-1h-2018-12.csv")
    hour = pl.col("open_time").dt.truncate("1h")
    naive = finer.group_by(hour.alias("open_time")).agg(pl.col("open").first(), pl.len())
    both = naive.filter(pl.col("len") == 12).join(published, on="open_time", suffix="_published")
    # What the test above would not hold without the rule: eleven hours open at a carried price.
    assert both.filter(pl.col("open") != pl.col("open_published")).height == 11


def test_days_that_the_off_grid_bars_of_2018_touch_are_partial() -> None:
    made = resample(hours("BTCUSDT-1h-2018")(), Resampling("1h", "1d"))
    partial = made.filter("is_partial")
    found = dict(
        zip(
            partial["open_time"].dt.strftime("%m-%d"),
            zip(partial["bars"], partial["bars_expected"], strict=True),
            strict=True,
        )
    )
    # 02-10 and 02-11 have 24 bars each, but not of those days.
    assert {day: found[day] for day in ("02-08", "02-09", "02-10", "02-11")} == {
        "02-08": (1, 24), "02-09": (15, 24), "02-10": (24, 24), "02-11": (24, 24),
    }  # fmt: skip
    assert {"06-26", "07-04"} < set(found)
