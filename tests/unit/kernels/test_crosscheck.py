"""Cross-checks against plain Python, and the reasons they give on cases made by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.anomaly_cross import cross_interval
from lakehouse_ray.kernels.crosscheck import RESULT, compare
from lakehouse_ray.kernels.crosscheck_bars import (
    BAR_VALUES,
    PRICES,
    finer_against_coarser,
    trades_against_bars,
)
from lakehouse_ray.kernels.crosscheck_files import archive_against_rest, daily_against_monthly
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, TimeRange, parse_time

TIME = pl.Datetime("us", "UTC")
START = parse_time("2024-01-05")


def frame(rows: list[dict[str, Any]], *times: str) -> pl.DataFrame:
    return pl.DataFrame(rows).with_columns(pl.col(name).cast(TIME) for name in times)


def bar(time: int, interval: str = "15m", symbol: str = "AUSDT", **values: float) -> dict[str, Any]:
    usual = {
        "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 3.0, "quote_volume": 30.0,
        "taker_buy_volume": 1.0, "taker_buy_quote_volume": 10.0, "trades": 4,
    }  # fmt: skip
    return {
        "symbol": symbol, "interval": interval, "open_time": time, **usual, **values,
        "source_version": "2024-02-01T00:00:00Z ab",
    }  # fmt: skip


def hour_of(bars: list[dict[str, Any]], time: int) -> dict[str, Any]:
    """An hour from its bars, in plain Python."""
    sums = {
        name: math.fsum(b[name] for b in bars)
        for name in BAR_VALUES
        if name not in PRICES and name != "trades"
    }
    return bar(
        time, "1h", bars[0]["symbol"], open=bars[0]["open"], close=bars[-1]["close"],
        high=max(b["high"] for b in bars), low=min(b["low"] for b in bars),
        trades=sum(b["trades"] for b in bars), **sums,
    )  # fmt: skip


def quarters(hours: int, symbols: tuple[str, ...] = ("AUSDT", "BUSDT")) -> list[dict[str, Any]]:
    rng = random.Random(7)
    rows = []
    for symbol in symbols:
        for k in range(4 * hours):
            low, high = sorted((rng.uniform(1, 2), rng.uniform(1, 2)))
            rows.append(
                bar(
                    START + k * 15 * MINUTE_US, symbol=symbol, low=low, high=high,
                    open=rng.uniform(low, high), close=rng.uniform(low, high),
                    volume=rng.random(), quote_volume=rng.random() * 1e6,
                    taker_buy_volume=rng.random(), taker_buy_quote_volume=rng.random(),
                    trades=rng.randrange(1000),
                )
            )  # fmt: skip
    return rows


def hours_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        key = row["symbol"], START + (row["open_time"] - START) // HOUR_US * HOUR_US
        groups.setdefault(key, []).append(row)
    return [hour_of(bars, time) for (_, time), bars in groups.items()]


def test_hours_made_of_their_quarters_agree_but_for_the_last_bits_of_sums() -> None:
    finer = quarters(50)
    every = finer_against_coarser(
        frame(finer, "open_time"), frame(hours_of(finer), "open_time"), "spot", every=True
    )
    assert every.schema == RESULT
    assert every.height == 2 * 50 * len(BAR_VALUES)
    assert set(every["verdict"]) <= {"same", "within_tolerance"}
    assert set(every.filter(verdict="within_tolerance")["column"]) <= {
        "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume",
    }  # fmt: skip
    assert every["relative"].max() < 1e-13  # type: ignore[operator]


def test_a_value_that_differs_is_told_with_both_values() -> None:
    finer = quarters(3)
    hours = hours_of(finer)
    hours[1]["trades"] += 36
    hours[4]["high"] *= 1.01
    found = finer_against_coarser(frame(finer, "open_time"), frame(hours, "open_time"), "spot")
    first, second = found.iter_rows(named=True)
    assert (first["symbol"], first["column"]) == ("AUSDT", "trades")
    assert (first["left"], first["right"], first["difference"]) == (
        hours[1]["trades"] - 36, hours[1]["trades"], -36,
    )  # fmt: skip
    assert first["relative"] == pytest.approx(36 / hours[1]["trades"])
    assert "all 4 15m bars are there; their file is of 2024-02-01" in first["reason"]
    assert (second["symbol"], second["column"]) == ("BUSDT", "high")


def test_bars_that_are_not_there_are_the_reason_or_a_line_of_their_own() -> None:
    finer = quarters(4, ("AUSDT",))
    hours = hours_of(finer)
    del hours[3]
    short = [row for row in finer if row["open_time"] not in (START, START + HOUR_US)]
    short = [
        row for row in short if not START + 2 * HOUR_US <= row["open_time"] < START + 3 * HOUR_US
    ]
    found = finer_against_coarser(frame(short, "open_time"), frame(hours, "open_time"), "spot")
    by_hour = found.with_columns(hour=(pl.col("time").dt.epoch("us") - START) // HOUR_US)
    assert set(by_hour.filter(hour=0, verdict="differs")["reason"]) == {"3 of 4 15m bars are there"}
    assert by_hour.filter(hour=2).select("column", "verdict", "reason").rows() == [
        ("*", "missing_left", "no 15m bars are there")
    ]
    assert by_hour.filter(hour=3).select("column", "verdict").rows() == [("*", "missing_right")]


def test_bars_off_the_grid_are_named_as_such() -> None:
    finer = [bar(START + k * 15 * MINUTE_US + 14_789_000) for k in range(4)]
    found = finer_against_coarser(
        frame(finer, "open_time"), frame([bar(START, "1h")], "open_time"), "spot"
    )
    assert set(found["reason"]) == {"bars lie off the grid"}


def test_prices_carried_through_quarters_without_trades_are_not_those_of_the_hour() -> None:
    quiet = {"open": 20.0, "high": 20.0, "low": 20.0, "close": 20.0, "volume": 0.0, "trades": 0}
    finer = [bar(START + k * 15 * MINUTE_US) for k in range(8)]
    finer[0] |= quiet
    finer[7] |= quiet
    for k in (4, 5, 6):
        finer[k] |= quiet
    hours = [
        bar(START, "1h", volume=9.0, quote_volume=120.0, trades=12),
        # Nothing traded: the flat price is all there is.
        bar(START + HOUR_US, "1h", **quiet),
    ]  # fmt: skip
    quarters_, hours_ = frame(finer, "open_time"), frame(hours, "open_time")
    found = finer_against_coarser(quarters_, hours_, "spot")
    assert not {*PRICES, "volume", "trades"} & set(found["column"])
    assert cross_interval(quarters_, hours_, "15m", "1h").is_empty()


def test_intervals_that_do_not_fit_are_refused() -> None:
    def bars(interval: str) -> pl.DataFrame:
        return frame([bar(START, interval)], "open_time")

    for small, large in (("1h", "15m"), ("15m", "15m"), ("3m", "5m"), ("1w", "1mo")):
        with pytest.raises(InvalidError):
            finer_against_coarser(bars(small), bars(large), "spot")
    with pytest.raises(InvalidError):
        finer_against_coarser(pl.concat([bars("1m"), bars("3m")]), bars("1h"), "spot")


def test_days_are_summed_by_weeks_on_monday_and_by_months_of_any_length() -> None:
    january = parse_time("2024-01-01")  # a Monday
    days = [bar(january + k * DAY_US, "1d", trades=k) for k in range(31 + 29)]
    for length, opens, sums in (
        ("1w", january, sum(range(7))),
        ("1w", january + 7 * DAY_US, sum(range(7, 14))),
        ("1mo", january, sum(range(31))),
        ("1mo", parse_time("2024-02-01"), sum(range(31, 60))),
        # As the exchange has it: a 3d bar opens on 2024-01-01.
        ("3d", january, sum(range(3))),
    ):
        published = frame([bar(opens, length, trades=sums + 1)], "open_time")
        found = finer_against_coarser(frame(days, "open_time"), published, "spot")
        found = found.filter(verdict="differs", column="trades")
        assert found["difference"].to_list() == [-1.0], length
        assert "bars are there; their file" in found["reason"].item()
    short = frame([row for row in days if row["open_time"] != january + 40 * DAY_US], "open_time")
    february = frame([bar(parse_time("2024-02-01"), "1mo")], "open_time")
    found = finer_against_coarser(short, february, "spot").filter(verdict="differs")
    assert set(found["reason"]) == {"28 of 29 1d bars are there"}


def trade(
    number: int, second: float, first: int, last: int, price: float = 10.0, quantity: float = 1.0
) -> dict[str, Any]:
    return {
        "symbol": "AUSDT", "agg_trade_id": number, "price": price, "quantity": quantity,
        "first_trade_id": first, "last_trade_id": last, "is_buyer_maker": number % 2 == 0,
        "transact_time": START + int(second * 1_000_000),
    }  # fmt: skip


def minute(k: int, trades: int, **values: float) -> dict[str, Any]:
    flat = dict.fromkeys(PRICES, 10.0)
    return bar(START + k * MINUTE_US, "1m", trades=trades, **{**flat, **values})


def reasons(trades: list[dict[str, Any]], bars: list[dict[str, Any]]) -> dict[int, str]:
    found = trades_against_bars(frame(trades, "transact_time"), frame(bars, "open_time"), "um")
    counts = found.filter(pl.col("column").is_in(["trades", "*"]))
    return {
        (row["time"].timestamp() * 1_000_000 - START) // MINUTE_US: row["reason"]
        for row in counts.iter_rows(named=True)
    }


def test_a_minute_is_the_sum_of_its_trades() -> None:
    rng = random.Random(3)
    trades, last = [], 100
    for number in range(400):
        count = rng.randrange(1, 5)
        trades.append(
            trade(number, number * 1.5, last + 1, last + count, rng.uniform(9, 11), rng.random())
        )
        last += count
    bars = []
    for k in range(10):
        own = [t for t in trades if (t["transact_time"] - START) // MINUTE_US == k]
        bought = [t for t in own if not t["is_buyer_maker"]]
        bars.append(
            minute(
                k, sum(t["last_trade_id"] - t["first_trade_id"] + 1 for t in own),
                open=own[0]["price"], close=own[-1]["price"],
                high=max(t["price"] for t in own), low=min(t["price"] for t in own),
                volume=math.fsum(t["quantity"] for t in own),
                quote_volume=math.fsum(t["price"] * t["quantity"] for t in own),
                taker_buy_volume=math.fsum(t["quantity"] for t in bought),
                taker_buy_quote_volume=math.fsum(t["price"] * t["quantity"] for t in bought),
            )
        )  # fmt: skip
    bars.append(minute(10, 0, volume=0.0))  # a quiet minute needs no trades
    found = trades_against_bars(
        frame(trades, "transact_time"), frame(bars, "open_time"), "um", every=True
    )
    assert found.height == 10 * len(BAR_VALUES)
    assert set(found["verdict"]) <= {"same", "within_tolerance"}


def test_minutes_that_differ_say_why() -> None:
    trades = [
        trade(1, 10, 1, 1), trade(2, 59, 2, 2), trade(3, 70, 3, 3),  # the bar puts 2 into minute 1
        trade(4, 130, 4, 4), trade(5, 140, 6, 6),  # 5 is in no aggTrade
        trade(6, 190, 7, 10),  # the bar counts three of these four
        trade(7, 250, 11, 11),
    ]  # fmt: skip
    bars = [
        minute(0, 1, volume=1.0), minute(1, 2, volume=2.0), minute(2, 3, volume=3.0),
        minute(3, 3, volume=1.0), minute(4, 3, volume=9.0), minute(5, 1),
    ]  # fmt: skip
    assert reasons(trades, bars) == {
        0: "trades stand in the minute beside it: 1",
        1: "trades stand in the minute beside it: 1",
        2: "1 trade ids of this minute are in no aggTrade",
        3: "1 ids inside aggTrades are not counted by the bar",
        4: "the bar counts more trades: 2",
        5: "no aggTrades of this minute",
    }


def test_on_coin_margined_contracts_volume_in_the_base_asset_is_not_compared() -> None:
    found = trades_against_bars(
        frame([trade(1, 1, 1, 1)], "transact_time"),
        frame([minute(0, 1, quote_volume=99.0, volume=1.0)], "open_time"),
        "cm",
        every=True,
    )
    assert not set(found["column"]) & {"quote_volume", "taker_buy_quote_volume"}


def test_daily_and_monthly_rows_are_held_together_where_both_reach() -> None:
    monthly = [bar(START + k * HOUR_US, "1h") for k in range(5)]
    daily = [bar(START + k * HOUR_US, "1h") for k in range(3, 8)]
    daily[0]["close"] = 11.5
    del monthly[4]
    found = daily_against_monthly(
        frame(daily, "open_time"), frame(monthly, "open_time"), "spot", "open_time"
    )
    assert found.select("check", "interval", "column", "left", "right", "verdict").rows() == [
        ("daily_monthly", "1h", "close", 11.5, 11.0, "differs")
    ]


def test_within_a_given_span_a_row_that_one_file_lacks_at_its_edge_is_told() -> None:
    rows = [bar(START + k * HOUR_US, "1h") for k in range(24)]
    day = TimeRange(START, START + DAY_US)
    whole, short = frame(rows, "open_time"), frame(rows[1:], "open_time")
    assert daily_against_monthly(short, whole, "spot", "open_time").is_empty()
    (line,) = daily_against_monthly(short, whole, "spot", "open_time", span=day).to_dicts()
    assert (line["verdict"], line["column"], line["left"]) == ("missing_left", "*", None)
    (line,) = daily_against_monthly(whole, short, "spot", "open_time", span=day).to_dicts()
    assert line["verdict"] == "missing_right"


Rows = dict[int, tuple[int, float, bool]]
_rows = st.dictionaries(
    st.integers(0, 8),
    # Few times and values, so that rows share them; half a millisecond apart, and a day.
    st.tuples(
        st.sampled_from([START, START + 500, START + 5000, START + DAY_US]),
        st.sampled_from([1.0, 2.0, math.nan]),
        st.booleans(),
    ),
    max_size=6,
)


def numbered(rows: Rows) -> pl.DataFrame:
    columns = {"symbol": pl.String, "id": pl.Int64, "time": pl.Int64, "x": pl.Float64}
    made = [("A", number, *values) for number, values in rows.items()]
    made_frame = pl.DataFrame(made, schema=columns | {"maker": pl.Boolean}, orient="row")
    return made_frame.with_columns(pl.col("time").cast(TIME))


@given(_rows, _rows)
def test_numbered_rows_are_held_together_by_number_and_day_whatever_their_times(
    left: Rows, right: Rows
) -> None:
    span = TimeRange(START, START + 2 * DAY_US)
    wanted: set[tuple[int, str]] = set()
    by_day = [
        {(number, (row[0] - START) // DAY_US): row for number, row in rows.items()}
        for rows in (left, right)
    ]
    for key in by_day[0].keys() | by_day[1].keys():
        ours, theirs = by_day[0].get(key), by_day[1].get(key)
        if ours is None or theirs is None:
            wanted.add((key[0], "*"))
            continue
        if ours[0] // 1000 != theirs[0] // 1000:
            wanted.add((key[0], "time"))
        if ours[1] != theirs[1] and not (math.isnan(ours[1]) and math.isnan(theirs[1])):
            wanted.add((key[0], "x"))
        if ours[2] != theirs[2]:
            wanted.add((key[0], "maker"))
    frames = numbered(left), numbered(right)
    found = daily_against_monthly(*frames, "um", "time", number="id", span=span)
    assert found.schema == RESULT
    assert set(found.select("id", "column").rows()) == wanted
    assert found["time"].null_count() == 0
    every = daily_against_monthly(*frames, "um", "time", number="id", span=span, every=True)
    assert every.filter(~pl.col("verdict").is_in(["same"])).drop("time").equals(found.drop("time"))


def test_rows_of_the_archive_and_of_rest_need_no_interval() -> None:
    def funding(rate: float) -> pl.DataFrame:
        row = {"symbol": "AUSDT", "calc_time": START, "last_funding_rate": rate}
        return frame([row], "calc_time")

    assert archive_against_rest(funding(1e-4), funding(1e-4), "um", "calc_time").is_empty()
    found = archive_against_rest(funding(1e-4), funding(2e-4), "um", "calc_time")
    assert found.schema == RESULT
    assert found.select("check", "interval", "relative").rows() == [("archive_rest", "", 0.5)]
    nothing = archive_against_rest(funding(1e-4).clear(), funding(1e-4), "um", "calc_time")
    assert nothing.is_empty()


def test_nothing_is_the_same_as_nothing_and_never_as_a_number() -> None:
    left = pl.DataFrame(
        {"symbol": ["A"] * 4, "time": [1, 2, 3, 4], "x": [None, None, 1.0, math.nan]}
    )
    right = pl.DataFrame(
        {"symbol": ["A"] * 4, "time": [1, 2, 3, 4], "x": [None, 1.0, math.nan, math.nan]}
    )
    found = compare(left, right, ["x"], {"x": 0.5}, every=True)
    assert found["verdict"].to_list() == ["same", "differs", "differs", "same"]
