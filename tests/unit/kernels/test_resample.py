"""Longer bars from shorter ones, against DuckDB and pandas, and the laws they obey."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from support.made_bars import START_US, made_bars

from lakehouse_ray.errors import BadDataError, InvalidError
from lakehouse_ray.kernels.grid import TIME, offsets_by, parse_offset
from lakehouse_ray.kernels.resample import Resampling, resample, resample_pieces
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, SECOND_US

HOURS_BY_5M = Resampling("1m", "1h", offsets_by("1h", "5m"))
EXACT = ("offset", "open_time", "open", "high", "low", "close", "trades", "bars")
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")

# Minutes with holes: some thousand slots, in runs and singly.
minutes = st.lists(st.integers(0, 3000), min_size=1, max_size=250, unique=True).map(sorted)


def by_duckdb(bars: pl.DataFrame, width: str, offsets: list[str], origin: str) -> pl.DataFrame:
    """The same by SQL: prices of the bars with volume, of all where there are none."""
    frame = bars.with_columns(pl.col("open_time").dt.replace_time_zone(None))
    connection = duckdb.connect()
    connection.register("bars", frame.to_arrow())
    answer = connection.sql(
        f"""
        WITH told AS (
            SELECT *, time_bucket(INTERVAL '{width}', open_time,
                                  TIMESTAMP '{origin}' + CAST(moved AS INTERVAL)) AS bucket
            FROM bars, (SELECT unnest({offsets}) AS moved)),
        priced AS (
            SELECT *, volume > 0
                   OR NOT bool_or(volume > 0) OVER (PARTITION BY moved, bucket) AS counts
            FROM told)
        SELECT moved AS "offset", bucket AS open_time,
               arg_min(open, open_time) FILTER (counts) AS open,
               max(high) FILTER (counts) AS high, min(low) FILTER (counts) AS low,
               arg_max(close, open_time) FILTER (counts) AS close,
               {", ".join(f"fsum({name}) AS {name}" for name in SUMS)},
               sum(trades)::BIGINT AS trades, count(*)::INTEGER AS bars
        FROM priced GROUP BY moved, bucket ORDER BY moved::INTERVAL, bucket
        """
    )
    made = pl.DataFrame(answer.to_arrow_table())
    return made.with_columns(
        pl.col("open_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    )


def assert_same(made: pl.DataFrame, truth: pl.DataFrame) -> None:
    names = [name for name in EXACT if name in truth.columns]
    assert_frame_equal(made.select(names), truth.select(names))
    assert_frame_equal(
        made.select(SUMS), truth.select(SUMS), check_exact=False, rel_tol=1e-13, abs_tol=1e-300
    )


@pytest.mark.parametrize(
    ("source", "length_us", "target", "width", "offset", "origin"),
    [
        ("1m", MINUTE_US, "5m", "5 minutes", "0m", "2000-01-01"),
        ("1m", MINUTE_US, "1h", "1 hour", "0m", "2000-01-01"),
        ("1m", MINUTE_US, "1h", "1 hour", "35m", "2000-01-01"),
        ("15m", 15 * MINUTE_US, "4h", "4 hours", "45m", "2000-01-01"),
        ("1h", HOUR_US, "1d", "1 day", "0m", "2000-01-01"),
        ("1h", HOUR_US, "1d", "1 day", "8h", "2000-01-01"),
        # The exchange's own: spot's first 3d bar, a Monday, a first of a month.
        ("1h", HOUR_US, "3d", "3 days", "0m", "2017-08-17"),
        ("1h", HOUR_US, "1w", "7 days", "0m", "2022-01-03"),
        ("1h", HOUR_US, "1mo", "1 month", "0m", "2022-01-01"),
    ],
)
def test_bars_equal_those_of_sql(
    source: str, length_us: int, target: str, width: str, offset: str, origin: str
) -> None:
    slots = [n for n in range(4000) if n % 997 > 40 and not 1500 < n < 1800]
    bars = made_bars(slots, seed=1, quiet=0.3, length_us=length_us)
    made = resample(bars, Resampling(source, target, (parse_offset(offset),)))
    assert_same(made, by_duckdb(bars, width, [offset], origin))


@given(minutes, st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=25, deadline=None)
def test_all_offsets_in_one_pass_equal_sql_offset_by_offset(
    slots: list[int], seed: int, quiet: float
) -> None:
    bars = made_bars(slots, seed=seed, quiet=quiet)
    made = resample(bars, HOURS_BY_5M)
    names = [f"{n}m" for n in range(0, 60, 5)]
    assert_same(made, by_duckdb(bars, "1 hour", names, "2000-01-01"))


def test_hours_equal_those_of_pandas() -> None:
    bars = made_bars([n for n in range(3000) if n % 7], seed=3)
    frame = bars.with_columns(pl.col("open_time").dt.replace_time_zone(None)).to_pandas()
    hours = frame.set_index("open_time").resample("1h", label="left", closed="left", offset="10min")
    truth = hours.agg(
        {"open": "first", "high": "max", "low": "min", "close": "last"}
        | dict.fromkeys(SUMS, "sum")
        | {"trades": "sum"}
    )
    made = resample(bars, Resampling("1m", "1h", (10 * MINUTE_US,)))
    assert_same(
        made, pl.from_pandas(truth.reset_index()).with_columns(pl.col("open_time").cast(TIME))
    )


@given(minutes, st.integers(0, 5), st.sampled_from([0.0, 0.5]))
@settings(max_examples=60, deadline=None)
def test_hours_from_minutes_equal_hours_from_five_minutes_from_minutes(
    slots: list[int], seed: int, quiet: float
) -> None:
    bars = made_bars(slots, seed=seed, quiet=quiet)
    steps = resample(bars, Resampling("1m", "5m"))
    twice = resample(steps, Resampling("5m", "1h", HOURS_BY_5M.offsets_us))
    once = resample(bars, HOURS_BY_5M)
    assert_same(twice, once)
    # The count is of minutes still, and so is the judgement.
    marks = ["bars_expected", "is_partial", "close_time"]
    assert_frame_equal(twice.select(marks), once.select(marks))


@given(minutes, st.lists(st.integers(0, 250), max_size=4), st.sampled_from(["1h", "1d", "1mo"]))
@settings(max_examples=30, deadline=None)
def test_a_history_cut_anywhere_gives_the_bars_of_the_whole(
    slots: list[int], cuts: list[int], target: str
) -> None:
    bars = made_bars(slots, quiet=0.4)
    offsets = offsets_by(target, "5m") if target == "1h" else (0, 6 * HOUR_US)
    plan = Resampling("1m", target, offsets, empty="carry")
    edges = [0, *sorted(min(cut, bars.height) for cut in cuts), bars.height]
    pieces = [bars[a:b] for a, b in pairwise(edges)]
    whole, joined = resample(bars, plan), resample_pieces(pieces, plan)
    assert_frame_equal(joined, whole, check_exact=False, rel_tol=1e-12)


@given(minutes, st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_bars_of_two_parts_cut_at_an_edge_are_the_bars_of_both(slots: list[int], hour: int) -> None:
    bars = made_bars(slots, quiet=0.2)
    edge = pl.lit(START_US + hour * HOUR_US).cast(TIME)
    plan = Resampling("1m", "1h")
    parts = [bars.filter(pl.col("open_time") < edge), bars.filter(pl.col("open_time") >= edge)]
    assert_frame_equal(pl.concat([resample(part, plan) for part in parts]), resample(bars, plan))


def test_pieces_that_overlap_are_refused_since_sums_would_count_twice() -> None:
    bars = made_bars(list(range(100)))
    with pytest.raises(BadDataError):
        resample_pieces([bars[:50], bars[49:]], HOURS_BY_5M)
    with pytest.raises(InvalidError):
        resample_pieces([], HOURS_BY_5M)


def test_sums_are_exact_to_a_few_units_in_the_last_place() -> None:
    bars = made_bars(list(range(40_000)), seed=5)
    made = resample(bars, Resampling("1m", "1mo"))
    assert made["volume"][0] == pytest.approx(math.fsum(bars["volume"]), rel=1e-15)
    day = resample(bars, Resampling("1m", "1d", offsets_by("1d", "1h")))
    first = day.filter(offset="1h", is_partial=False)
    minutes_of_it = bars["volume"][60 : 60 + 1440]
    assert first["volume"][0] == pytest.approx(math.fsum(minutes_of_it), rel=1e-15)


def test_each_bar_says_how_complete_it_is() -> None:
    bars = made_bars([*range(60), *range(60, 119), *range(180, 240)])
    made = resample(bars, Resampling("1m", "1h"))
    assert made.select("bars", "bars_expected", "is_partial", "is_filled").rows() == [
        (60, 60, False, False),
        (59, 60, True, False),
        (60, 60, False, False),
    ]
    assert made.select("source_interval", "partial_policy", "empty_policy").unique().rows() == [
        ("1m", "keep", "none")
    ]


def test_months_expect_as_many_bars_as_they_have() -> None:
    bars = made_bars(list(range(90 * 24)), length_us=HOUR_US)
    made = resample(bars, Resampling("1h", "1mo", (0, DAY_US), empty="carry"))
    days = [31, 28, 31, 31, 31, 28, 31]  # January begins before the bars do, moved by a day
    assert (made["bars_expected"] / 24).to_list() == days
    assert made.filter(offset="1d")["open_time"].dt.day().unique().to_list() == [2]


def test_partial_bars_can_be_dropped() -> None:
    bars = made_bars([*range(30, 120), *range(180, 200), *range(240, 300)])
    made = resample(bars, Resampling("1m", "1h", partial="drop"))
    assert made["open_time"].dt.hour().to_list() == [1, 4]
    assert made["partial_policy"].unique().to_list() == ["drop"]


def test_empty_bars_are_left_out_or_put_there_with_a_mark() -> None:
    bars = made_bars([*range(60), *range(180, 240)])
    close = bars["close"][59]
    plans = {empty: Resampling("1m", "1h", empty=empty) for empty in ("none", "null", "carry")}
    made = {empty: resample(bars, plan) for empty, plan in plans.items()}
    assert made["none"].height == 2
    columns = ["open", "high", "low", "close", "volume", "trades", "bars", "bars_expected",
               "is_partial", "is_filled"]  # fmt: skip
    hole = slice(1, 3)
    assert (
        made["carry"][hole].select(columns).rows()
        == [(close, close, close, close, 0.0, 0, 0, 60, True, True)] * 2
    )
    assert (
        made["null"][hole].select(columns).rows()
        == [(None, None, None, None, None, None, 0, 60, True, True)] * 2
    )
    assert made["carry"]["close_time"].dt.minute().to_list() == [59] * 4


def test_dropping_partial_bars_never_makes_up_others_in_their_place() -> None:
    bars = made_bars([*range(60), *range(60, 90), *range(180, 240)])
    made = resample(bars, Resampling("1m", "1h", partial="drop", empty="carry"))
    assert made.select(pl.col("open_time").dt.hour(), "is_filled").rows() == [
        (0, False), (2, True), (3, False),
    ]  # fmt: skip
    # The price that is carried is the last one known, whoever was dropped.
    assert made["close"][1] == bars["close"][89]


def test_an_hour_opens_with_its_first_trade_not_with_a_carried_price() -> None:
    bars = made_bars(list(range(60))).with_columns(
        volume=pl.when(pl.int_range(60) < 5).then(0.0).otherwise("volume"),
        high=pl.when(pl.int_range(60) < 5).then(1e6).otherwise("high"),
    )
    made = resample(bars, Resampling("1m", "1h"))
    assert made["open"][0] == bars["open"][5]
    assert made["high"][0] == bars["high"][5:].max()


def test_an_hour_without_a_trade_keeps_the_flat_price() -> None:
    bars = made_bars(list(range(120)), quiet=0.0).with_columns(
        volume=pl.when(pl.int_range(120) >= 60).then(0.0).otherwise("volume")
    )
    made = resample(bars, HOURS_BY_5M).filter(offset="0m")
    assert made["open"][1] == bars["open"][60]
    assert made["high"][1] == bars["high"][60:].max()


@given(st.integers(0, 399), st.sampled_from([*SUMS, "trades", "open", "high", "low", "close"]),
       st.sampled_from([None, math.nan]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_an_unknown_value_reaches_no_bar_but_its_own(
    row: int, column: str, unknown: float | None
) -> None:
    if column == "trades":
        unknown = None
    bars = made_bars(list(range(400)))
    at = pl.int_range(400) == row
    holed = bars.with_columns(pl.when(at).then(pl.lit(unknown)).otherwise(column).alias(column))
    plan = Resampling("1m", "1h", offsets_by("1h", "15m"))
    made, whole = resample(holed, plan), resample(bars, plan)
    time = bars["open_time"][row]
    hit = pl.lit(time).is_between(
        pl.col("open_time"), pl.col("open_time").dt.offset_by("1h"), closed="left"
    )
    assert_frame_equal(made.filter(~hit), whole.filter(~hit))
    struck = made.filter(hit)
    assert struck.height == 4
    if column in (*SUMS, "trades"):
        # Not less than it was, but unknown; all else is as it was.
        assert struck[column].null_count() == 4
        assert_frame_equal(struck.drop(column), whole.filter(hit).drop(column))
    else:
        assert struck["is_partial"].all()
        assert struck.select(pl.col(pl.Float64).is_nan().any()).row(0) == (False,) * 8


def test_bars_that_were_made_up_count_as_absent() -> None:
    bars = made_bars(list(range(60))).with_columns(is_filled=pl.int_range(60) < 20)
    made = resample(bars, Resampling("1m", "1h"))
    assert made.select("bars", "is_partial").row(0) == (40, True)
    assert made["volume"][0] == pytest.approx(bars["volume"][20:].sum())


def test_a_bar_off_the_grid_makes_its_bar_partial() -> None:
    bars = made_bars(list(range(120))).with_columns(
        open_time=pl.when(pl.int_range(120) == 70)
        .then(pl.col("open_time").dt.offset_by("14s789ms"))
        .otherwise("open_time")
    )
    made = resample(bars, Resampling("1m", "1h"))
    assert made.select("bars", "is_partial").rows() == [(60, False), (60, True)]


def test_funding_is_added_up_and_none_stays_none() -> None:
    rates = [None] * 180
    rates[60], rates[170] = 1e-4, -3e-4  # type: ignore[call-overload]
    bars = made_bars(list(range(180))).with_columns(funding_rate=pl.Series(rates, dtype=pl.Float64))
    made = resample(bars, Resampling("1m", "1h", (0, 30 * MINUTE_US)))
    assert made.filter(offset="0m").select("funding_rate", "funding_events").rows() == [
        (None, 0), (1e-4, 1), (-3e-4, 1),
    ]  # fmt: skip
    again = resample(made.filter(offset="0m"), Resampling("1h", "1d"))
    assert again.select("funding_rate", "funding_events").row(0) == (pytest.approx(-2e-4), 2)


@pytest.mark.parametrize(("column", "end"), [(999_999, 999_999), (999_000, 999_000)])
def test_close_times_keep_the_unit_they_are_written_in(column: int, end: int) -> None:
    bars = made_bars(list(range(60))).with_columns(
        close_time=pl.col("open_time").dt.offset_by("59s") + pl.duration(microseconds=column)
    )
    made = resample(bars, Resampling("1m", "1h"))
    assert made["close_time"][0] == datetime(2022, 1, 1, 0, 59, 59, end, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda bars: bars.reverse(), "NOT_ORDERED"),
        (lambda bars: pl.concat([bars[:5], bars[4:]]), "REPEATED_KEY"),
        (
            lambda bars: bars.with_columns(
                open_time=pl.when(pl.int_range(10) > 3).then("open_time")
            ),
            "TIME_MISSING",
        ),
    ],
)
def test_bars_out_of_order_or_repeated_are_refused(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadDataError) as refused:
        resample(change(made_bars(list(range(10)))), Resampling("1m", "1h"))
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("15m", "1m", "1s"),
        ("5m", "3m", "1s, 1m"),
        ("8h", "12h", "1s, 1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h"),
        ("3d", "1w", "1s, 1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h, 1d"),
        ("1w", "1mo", "1s, 1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h, 1d"),
        ("1h", "1h", "1s, 1m, 3m, 5m, 15m, 30m"),
    ],
)
def test_an_interval_that_does_not_divide_is_refused_with_those_that_do(
    source: str, target: str, says: str
) -> None:
    with pytest.raises(InvalidError) as refused:
        Resampling(source, target)
    assert refused.value.hint == f"they can be made from {says}"


def test_offsets_and_policies_that_cannot_be_are_refused() -> None:
    for offsets in ((90,), (HOUR_US,), (-MINUTE_US,), (), (0, 0)):
        with pytest.raises(InvalidError):
            Resampling("1m", "1h", offsets)
    with pytest.raises(InvalidError):
        Resampling("1m", "1h", partial="fill")  # type: ignore[arg-type]
    with pytest.raises(InvalidError):
        Resampling("1m", "2 hours")
    for target, step, words in (
        ("1h", "7m", "1h is no multiple of 7m"),
        ("1mo", "1d", "1mo bars have no fixed length"),
        ("1h", "0m", "0m is no step"),
    ):
        with pytest.raises(InvalidError, match=words):
            offsets_by(target, step)


def test_no_bars_give_no_bars_with_the_same_columns() -> None:
    bars = made_bars(list(range(10)))
    for plan in (HOURS_BY_5M, Resampling("1m", "1mo"), Resampling("1m", "1d", empty="carry")):
        none = resample(bars[:0], plan)
        assert none.is_empty()
        assert none.schema == resample(bars, plan).schema


def test_a_hole_costs_no_memory_of_its_own() -> None:
    century = 3_000_000_000  # slots of a second; as many numbers would be 24 GB
    bars = made_bars([0, 1, century, century + 61], length_us=SECOND_US)
    made = resample(bars, Resampling("1s", "1h", offsets_by("1h", "1s")))
    assert made["bars"].sum() == 4 * 3600
