"""Differences from BHDS: each is found, counted and given its reason."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.made_bars import START_US, TIME, made_bars
from support.real_klines import (
    CSV,
    SHARED,
    SPOT_DAILY,
    UM_DAILY,
    UM_MONTHLY,
    bars_of_csv,
    bars_of_zips,
    funding_of_zips,
)

from lakehouse_ray.gold.bhds import COLUMNS, bhds_klines
from lakehouse_ray.gold.bhds_compare import compare_klines, compare_resampled
from lakehouse_ray.gold.bhds_reasons import REASONS, summary
from lakehouse_ray.gold.klines import gold_klines
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US

DAY = 1440
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not on this machine")


def funding_of(*paid: tuple[int, float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "calc_time": pl.Series([START_US + t for t, _ in paid], dtype=pl.Int64).cast(TIME),
            "last_funding_rate": pl.Series([rate for _, rate in paid], dtype=pl.Float64),
        }
    )


def reasons(differences: pl.DataFrame) -> dict[tuple[str, str], int]:
    """Bars by column and reason, without the two conventions that are everywhere."""
    told = summary(differences).filter(~pl.col("reason").is_in(["FUNDING_NONE", "MINUTE_CALENDAR"]))
    return {(row["column"], row["reason"]): row["bars"] for row in told.rows(named=True)}


def moving(bars: pl.DataFrame) -> pl.DataFrame:
    """Bars that do not open at the very price of the close before."""
    return bars.with_columns(pl.col("open") * 1.001, pl.col("high") * 1.002)


def compared(bars: pl.DataFrame, funding: pl.DataFrame | None = None, market: str = "um",
             interval: str = "1m") -> pl.DataFrame:  # fmt: skip
    return compare_klines(bars, funding, market=market, symbol="X", interval=interval)  # type: ignore[arg-type]


def test_whole_bars_without_gaps_differ_in_nothing_but_how_no_funding_is_written() -> None:
    bars = made_bars(list(range(500)))
    paid = funding_of((HOUR_US + 3_000, 1e-4), (8 * HOUR_US, 0.0))
    differences = compared(bars, paid)
    assert set(differences["reason"]) == {"FUNDING_NONE"}
    # Three stretches without, between two payments.
    assert differences["bars"].to_list() == [60, 419, 19]
    assert compared(bars, None, market="spot").is_empty()


def test_bars_in_a_row_that_differ_the_same_way_are_one_difference() -> None:
    bars = moving(made_bars([*range(10), *range(10 + 3 * DAY, 20 + 3 * DAY)]))
    found = compared(bars, market="spot")
    assert found.select("column", "bars", "ours", "bhds", "reason").rows() == [
        ("bar", 3 * DAY, "absent", "there", "LONG_GAP_FILLED")
    ]
    assert found["sentence"].to_list() == [REASONS["LONG_GAP_FILLED"]]


def test_hours_show_the_minutes_that_are_made_up_between_them() -> None:
    bars = made_bars(list(range(24)), length_us=HOUR_US)
    found = compared(bars, market="spot", interval="1h")
    assert summary(found).select("reason", "bars").rows() == [("MINUTE_CALENDAR", 1381 - 24)]


def test_a_long_gap_with_an_equal_price_is_split_by_ours_alone() -> None:
    bars = made_bars([*range(10), *range(10 + 5 * DAY, 20 + 5 * DAY)])
    same = bars["close"][9]
    bars = bars.with_columns(
        open=pl.when(pl.int_range(20) == 10).then(same).otherwise("open"),
        high=pl.when(pl.int_range(20) == 10).then(same + 5).otherwise("high"),
    )
    found = reasons(compared(bars, market="spot"))
    assert found == {
        ("bar", "LONG_GAP_FILLED"): 5 * DAY,
        ("segment", "PART_NAMES"): 10,
        ("part", "SPLIT_EQUAL_PRICE"): 1,
    }


def test_days_of_quiet_bars_are_split_by_bhds_alone() -> None:
    bars = made_bars(list(range(3 * DAY + 20)))
    quiet = pl.int_range(bars.height).is_between(10, 3 * DAY)
    bars = bars.with_columns(
        *(pl.when(quiet).then(0).otherwise(pl.col(name)).alias(name)
          for name in ("volume", "quote_volume", "trades")),
        *(pl.when(quiet).then(bars["close"][9]).otherwise(pl.col(name)).alias(name)
          for name in ("open", "high", "low", "close")),
    ).with_columns(
        pl.when(pl.int_range(bars.height) > 3 * DAY).then(bars["close"][9] * 1.05)
        .otherwise(pl.col(name)).alias(name) for name in ("open", "high", "low", "close")
    )  # fmt: skip
    found = reasons(compared(bars, market="spot"))
    assert found[("part", "SPLIT_QUIET")] == 1
    assert found[("vwap", "VWAP_NO_VOLUME")] == 3 * DAY - 9
    assert not any(reason == "UNEXPLAINED" for _, reason in found)


def test_weeks_are_gaps_to_bhds_by_their_length() -> None:
    bars = moving(made_bars(list(range(4)), length_us=7 * DAY_US, start_us=4 * DAY_US))
    found = reasons(compared(bars, market="spot", interval="1w"))
    assert found[("part", "SPLIT_BAR_LENGTH")] == 3
    assert "UNEXPLAINED" not in {reason for _, reason in found}


def test_a_part_begins_with_its_first_bar_or_with_its_first_trade() -> None:
    bars = made_bars([*range(10), *range(10 + 3 * DAY, 20 + 3 * DAY)])
    first = pl.int_range(20) == 10
    bars = bars.with_columns(
        volume=pl.when(first).then(0.0).otherwise("volume"),
        quote_volume=pl.when(first).then(0.0).otherwise("quote_volume"),
    )
    found = compared(bars, market="spot")
    assert reasons(found)[("part", "SPLIT_FIRST_TRADE")] == 2
    assert "UNEXPLAINED" not in set(found["reason"])


def test_bhds_does_not_split_before_the_first_trade_nor_after_the_last() -> None:
    for untraded in (range(10), range(10, 20)):
        none = pl.int_range(20).is_in(list(untraded))
        bars = made_bars([*range(10), *range(10 + 3 * DAY, 20 + 3 * DAY)]).with_columns(
            pl.when(none).then(0.0).otherwise(pl.col(name)).alias(name)
            for name in ("volume", "quote_volume")
        )
        found = reasons(compared(moving(bars), market="spot"))
        assert {key: n for key, n in found.items() if key[0] == "part"} == {
            ("part", "SPLIT_NO_TRADE"): 1
        }


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (0, [(3 * DAY + 10, "begins", "goes on", "SHIFTED_CALENDAR")]),
        (10, [(3 * DAY + 10, "begins", "goes on", "OFF_GRID"),
              (3 * DAY + 11, "goes on", "begins", "OFF_GRID")]),
        (9, []),
    ],
)  # fmt: skip
def test_a_split_at_a_bar_off_bhds_calendar_is_lost_or_comes_later(
    odd: int, told: list[tuple[int, str, str, str]]
) -> None:
    bars = moving(made_bars([*range(10), *range(10 + 3 * DAY, 20 + 3 * DAY)]))
    at_odd = pl.col("open_time").dt.offset_by("14s789ms")
    bars = bars.with_columns(
        open_time=pl.when(pl.int_range(20) == odd).then(at_odd).otherwise("open_time")
    )
    found = compared(bars, market="spot").filter(column="part").with_columns(
        slot=(pl.col("open_time").dt.epoch("us") - START_US) // MINUTE_US
    )  # fmt: skip
    assert found.select("slot", "ours", "bhds", "reason").rows() == told


def test_averages_differ_without_volume_outside_the_bar_and_on_coin_margined() -> None:
    bars = made_bars([0, 1, 2]).with_columns(
        volume=pl.Series([1.0, 0.0, 1.0]), quote_volume=pl.Series([100.0, 0.0, 500.0]),
        low=pl.lit(90.0), high=pl.lit(110.0),
    )  # fmt: skip
    found = compared(bars).filter(column="vwap")
    assert found.select("ours", "bhds", "reason").rows() == [
        (None, str(bars["open"][1]), "VWAP_NO_VOLUME"),
        ("500.0", "110.0", "VWAP_CLIPPED"),
    ]
    coin = compare_klines(bars, None, market="cm", symbol="BTCUSD_PERP", interval="1m")
    assert reasons(coin)[("vwap", "VWAP_COIN_MARGINED")] >= 1


def test_funding_that_bhds_loses_is_told_with_both_values() -> None:
    days = made_bars(list(range(3)), length_us=DAY_US)
    paid = funding_of(*((n * 8 * HOUR_US, 1e-4) for n in range(4)), (44 * HOUR_US, 5e-4))
    found = compared(days, paid, interval="1d").filter(
        (pl.col("column") == "funding_rate") & (pl.col("reason") != "FUNDING_NONE")
    )
    told = [(float(ours), float(bhds), reason)
            for ours, bhds, reason in found.select("ours", "bhds", "reason").rows()]  # fmt: skip
    assert told == [
        (pytest.approx(3e-4), 1e-4, "FUNDING_SEVERAL"),
        (pytest.approx(6e-4), 1e-4, "FUNDING_SEVERAL"),
    ]
    days = compared(days, funding_of((8 * HOUR_US, 1e-4)), interval="1d")
    assert ("1.0000e-4", "0.0", "FUNDING_INSIDE") in {
        (f"{float(ours):.4e}".replace("e-04", "e-4"), bhds, reason)
        for ours, bhds, reason in days.filter(column="funding_rate", reason="FUNDING_INSIDE")
        .select("ours", "bhds", "reason").rows()
    }  # fmt: skip


def test_funding_in_a_gap_or_late_is_told() -> None:
    bars = made_bars([n for n in range(200) if not 50 < n < 70])
    gap = compared(bars, funding_of((HOUR_US, 1e-4)))
    assert reasons(gap)[("funding_rate", "FUNDING_IN_GAP")] == 1
    late = compared(made_bars(list(range(200))), funding_of((HOUR_US + 17 * MINUTE_US, 1e-4)))
    assert reasons(late) == {("funding_rate", "FUNDING_LATE"): 2}


def test_resampled_bars_say_which_made_up_or_untraded_minutes_matter() -> None:
    bars = made_bars([*range(30, 120), *range(300, 420)], seed=2)
    first = pl.int_range(bars.height) == 90
    bars = bars.with_columns(
        *(pl.when(first).then(1.0).otherwise(pl.col(name)).alias(name) for name in ("open", "low")),
        volume=pl.when(first).then(0.0).otherwise("volume"),
    )
    paid = funding_of((2 * HOUR_US, 1e-7), (3 * HOUR_US, 2e-4), (5 * HOUR_US, 9e-7))
    found = compare_resampled(bars, paid, market="um", symbol="X", target="1h", step="0m")
    assert reasons(found) == {
        ("bar", "PARTIAL_EDGE"): 1,
        ("bar", "ONLY_FILLED"): 3,
        ("open", "UNTRADED_PRICE"): 1,
        ("low", "UNTRADED_PRICE"): 1,
        ("funding_rate", "FUNDING_TINY"): 1,
    }
    both = compare_resampled(bars, paid, market="um", symbol="X", target="4h", step="0m")
    assert reasons(both)[("bar", "PARTIAL_EDGE")] == 2


@pytest.mark.parametrize(("odd", "reason"), [(0, "SHIFTED_CALENDAR"), (60, "OFF_GRID")])
def test_funding_due_where_bhds_calendar_has_no_bar_is_told(odd: int, reason: str) -> None:
    at_odd = pl.col("open_time").dt.offset_by("14s789ms")
    bars = made_bars(list(range(180))).with_columns(
        open_time=pl.when(pl.int_range(180) == odd).then(at_odd).otherwise("open_time")
    )
    paid = funding_of((HOUR_US + 3_000, 1e-4))
    found = compare_resampled(bars, paid, market="um", symbol="X", target="1h", step="30m")
    told = found.filter(column="funding_rate")
    assert told.select("offset", "ours", "bhds", "reason").rows() == [
        ("0m", "0.0001", None, reason),
        ("30m", "0.0001", None, reason),
    ]


holes = st.sampled_from([0, 1, 7, 90, DAY - 1, DAY, 2 * DAY + 1, 4000])
runs = st.lists(st.tuples(st.integers(1, 60), holes), min_size=1, max_size=5)


def history(lengths: list[tuple[int, int]], seed: int, quiet: float, jumps: bool, odd: list[int]) -> pl.DataFrame:  # fmt: skip
    slots, at = [], 0
    for length, hole in lengths:
        slots += range(at, at + length)
        at += length + hole
    bars = made_bars(slots, seed=seed, quiet=quiet)
    if jumps:
        scale = 1 + 0.2 * (pl.col("open_time").dt.day() % 2)
        prices = ("open", "high", "low", "close", "quote_volume", "taker_buy_quote_volume")
        bars = bars.with_columns(pl.col(prices) * scale)
    # Some bars off the grid, as after the halt of 2018.
    moved = pl.int_range(bars.height).is_in(odd)
    at_odd = pl.col("open_time").dt.offset_by("14s789ms")
    return bars.with_columns(open_time=pl.when(moved).then(at_odd).otherwise("open_time"))


histories = st.builds(
    history, runs, st.integers(0, 3), st.sampled_from([0.0, 0.4]), st.booleans(),
    st.lists(st.integers(0, 80), max_size=4),
)  # fmt: skip
payments = st.lists(
    st.tuples(st.integers(0, 4000), st.sampled_from([0, 7_000, 20_000_000]),
              st.sampled_from([0.0, 1e-7, 1e-4, -2e-4])), max_size=8, unique_by=lambda paid: paid[0],
).map(lambda paid: funding_of(*((m * MINUTE_US + rest, rate) for m, rest, rate in paid)))  # fmt: skip


# The first bar lies off the grid, and a price jumps after a day's gap between bars that do not.
@example(history([(1, 0), (1, 1440), (1, 0)], 0, 0.0, True, [0]), funding_of())
@given(histories, payments)
@settings(max_examples=12, deadline=None)
def test_every_difference_is_counted_and_explained(bars: pl.DataFrame, paid: pl.DataFrame) -> None:
    found = compared(bars, paid)
    assert found.filter(reason="UNEXPLAINED").is_empty()
    # Counted by another way: cell by cell, in Python.
    ours = {row["open_time"]: row for row in gold_klines(
        bars, paid, market="um", symbol="X", interval="1m").rows(named=True)}  # fmt: skip
    theirs = {}
    for name, part in bhds_klines(bars, paid, market="um", symbol="X", interval="1m").items():
        for row in part.rows(named=True):
            theirs[row["candle_begin_time"]] = row | {"segment": name}
    names = {**COLUMNS, "vwap": "vwap1m", "funding_rate": "funding_rate", "segment": "segment"}
    names.pop("open_time")
    counted = {"bar": len(ours.keys() ^ theirs.keys())}
    for mine, other in names.items():
        pairs = [(ours[time][mine], theirs[time][other]) for time in ours.keys() & theirs.keys()]
        counted[mine] = sum(
            a != b
            if None in (a, b) or isinstance(a, str)
            else a != pytest.approx(b, rel=1e-9, abs=0)
            for a, b in pairs
        )
    told = found.filter(pl.col("column") != "part").group_by("column").agg(pl.col("bars").sum())
    assert dict(told.rows()) == {name: count for name, count in counted.items() if count}


# A late payment, its hour before the bar, in a bar of another offset than the one that opened last.
@example(history([(1, 0), (3, 1), (60, 0)], 0, 0.0, False, []), funding_of((10 * MINUTE_US, 1e-4)),
         ("1h", "5m"))  # fmt: skip
# Minutes without trades come back before the first trade of a new part, within a whole hour.
@example(history([(1, 0), (53, 0), (60, 1439), (15, 0), (60, 0)], 3, 0.4, True, []), funding_of(),
         ("1h", "5m"))  # fmt: skip
@given(histories, payments, st.sampled_from([("1h", "5m"), ("30m", "0m"), ("4h", "30m")]))
@settings(max_examples=12, deadline=None)
def test_every_difference_of_resampled_bars_is_explained(
    bars: pl.DataFrame, paid: pl.DataFrame, what: tuple[str, str]
) -> None:
    found = compare_resampled(bars, paid, market="um", symbol="X", target=what[0], step=what[1])
    assert found.filter(reason="UNEXPLAINED").is_empty()


def um(symbol: str, folder: Path = UM_DAILY) -> pl.DataFrame:
    return bars_of_zips(folder / symbol / "1m")


@real
@pytest.mark.parametrize(
    ("symbol", "folder"),
    [("BTCUSDT", UM_DAILY), ("BSVUSDT", UM_DAILY), ("ETHUSDT", UM_DAILY), ("CLUSDT", UM_DAILY),
     ("KITEUSDT", UM_DAILY), ("ALPINEUSDT", UM_DAILY), ("FILUSDT", UM_MONTHLY),
     ("LINKUSDT", UM_MONTHLY), ("ALGOUSDT", UM_MONTHLY)],
)  # fmt: skip
def test_nothing_is_unexplained_in_real_minutes(symbol: str, folder: Path) -> None:
    bars = um(symbol, folder)
    paid = funding_of_zips(SHARED / "archive/data/futures/um/monthly/fundingRate/BTCUSDT")
    found = compare_klines(bars, paid, market="um", symbol=symbol, interval="1m")
    hours = compare_resampled(bars, paid, market="um", symbol=symbol, target="1h", step="5m")
    assert not {"UNEXPLAINED"} & {*found["reason"], *hours["reason"]}
    assert {"UNTRADED_PRICE"} & set(hours["reason"]) or symbol != "BSVUSDT"


@real
def test_nothing_is_unexplained_in_real_hours_and_days() -> None:
    found = [
        compared(bars_of_csv(CSV / f"spot_klines_1h_year/{name}-01.csv"), None, "spot", "1h")
        for name in ("BTCUSDT-1h-2018", "BTCUSDT-1h-2021", "BTCUSDC-1h-2022")
    ]
    found.append(compared(bars_of_zips(SPOT_DAILY / "ETHUSDT/1d"), None, "spot", "1d"))
    assert pl.concat(found).filter(reason="UNEXPLAINED").is_empty()
    # The off-grid bars of February 2018: ours has the 43, BHDS their 43 slots made up.
    assert reasons(found[0])[("bar", "OFF_GRID")] == 86
