"""Histories cut at long gaps."""

from __future__ import annotations

import polars as pl
import pytest
from support.made_bars import made_bars

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.kernels.split import SplitRule, part_names, split_rows, with_segment
from lakehouse_ray.model.timespan import DAY_US, HOUR_US

DAY = 1440


def gap(minutes: int, change: float, *, quiet: bool = False) -> pl.DataFrame:
    """Ten bars, then `minutes` without (or, `quiet`, with flat bars), then ten at another price."""
    after = 10 + minutes
    slots = [*range(10), *(range(10, after) if quiet else ()), *range(after, after + 10)]
    flat = pl.int_range(len(slots)).is_between(10, len(slots) - 11)
    moved = pl.int_range(len(slots)) >= len(slots) - 10
    bars = made_bars(slots).with_columns(
        pl.lit(100.0).alias(name) for name in ("open", "high", "low", "close")
    )
    return bars.with_columns(
        pl.when(moved).then(100.0 * (1 + change)).otherwise("open").alias("open"),
        volume=pl.when(flat).then(0.0).otherwise("volume"),
    )


@pytest.mark.parametrize(
    ("minutes", "change", "splits"),
    [
        (DAY - 1, 0.5, False),
        (DAY, 0.11, True),
        (DAY, -0.11, True),
        (DAY, 0.09, False),
        (2 * DAY - 1, 0.09, False),
        (2 * DAY, 0.01, True),
        (2 * DAY, 0.0, True),  # equal prices too
        (5 * DAY, 0.0, True),
    ],
)
def test_a_gap_splits_by_its_length_and_the_change_of_price(
    minutes: int, change: float, splits: bool
) -> None:
    rows = split_rows(gap(minutes, change), "1m")
    assert rows.tolist() == ([10] if splits else [])


@pytest.mark.parametrize(
    ("minutes", "change", "splits"),
    [(DAY, 0.11, True), (DAY, 0.09, False), (5 * DAY, 0.09, False), (5 * DAY, 0.11, True)],
)
def test_flat_bars_without_volume_hide_no_change_and_make_no_gap(
    minutes: int, change: float, splits: bool
) -> None:
    bars = gap(minutes, change, quiet=True)
    rows = split_rows(bars, "1m")
    # The flat bars are real, and belong to what was before.
    assert rows.tolist() == ([10 + minutes] if splits else [])


@pytest.mark.parametrize(
    ("interval", "length_us"), [("1h", HOUR_US), ("1d", DAY_US), ("1w", 7 * DAY_US)]
)
def test_the_length_of_the_bars_themselves_is_no_gap(interval: str, length_us: int) -> None:
    bars = made_bars(list(range(50)), length_us=length_us).with_columns(open=pl.col("open") * 2)
    assert split_rows(bars, interval).tolist() == []
    per_day = max(1, DAY_US // length_us)
    holed = bars[[*range(20), *range(20 + per_day, 50)]]
    assert split_rows(holed, interval).tolist() == [20]


def test_parts_are_numbered_in_time_and_the_last_keeps_the_name() -> None:
    slots = [*range(5), *range(3 * DAY, 3 * DAY + 5), *range(9 * DAY, 9 * DAY + 5)]
    bars = with_segment(made_bars(slots), "LITUSDT", "1m")
    assert bars["segment"].to_list() == (
        ["SP0_LITUSDT"] * 5 + ["SP1_LITUSDT"] * 5 + ["LITUSDT"] * 5
    )
    assert part_names("X", 1) == ["X"]


def test_an_unknown_price_is_no_change_and_an_unknown_volume_no_silence() -> None:
    nan = float("nan")
    bars = gap(DAY, 0.5).with_columns(
        close=pl.when(pl.int_range(20) == 9).then(nan).otherwise("close")
    )
    assert split_rows(bars, "1m").tolist() == []
    bars = gap(DAY, 0.5, quiet=True).with_columns(
        volume=pl.when(pl.col("volume") == 0).then(nan).otherwise("volume")
    )
    assert split_rows(bars, "1m").tolist() == []


def test_the_rule_is_a_value() -> None:
    bars = gap(60, 0.03)
    strict = SplitRule(gap_us_min=HOUR_US, change_min=0.02, long_gap_us_min=DAY_US)
    assert split_rows(bars, "1m", strict).tolist() == [10]
    assert split_rows(bars, "1m").tolist() == []


def test_no_bars_and_one_bar_are_one_part_and_disorder_is_refused() -> None:
    assert split_rows(made_bars([]), "1m").tolist() == []
    assert with_segment(made_bars([4]), "X", "1m")["segment"].to_list() == ["X"]
    with pytest.raises(BadDataError):
        split_rows(made_bars([0, 1]).reverse(), "1m")
