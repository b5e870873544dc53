"""Rows held against their rules: against plain Python, against DuckDB, and against the real files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.check_rows import (
    BROKEN,
    GOOD,
    INF,
    MINUTE,
    MS,
    NAN,
    SEQUENCES,
    T0,
    TYPES,
    frame_of,
    interval_of,
)
from support.real_rows import ARCHIVE, RECORDED, archive_rows, recorded_bars

from lakehouse_ray.kernels.check import count_violations, flag_rows, flag_sequence, join_flags
from lakehouse_ray.kernels.day_counts import day_counts
from lakehouse_ray.model.checks.registry import free_names, rules_of, sequence_rules_of
from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import from_us, to_us


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_good_row_breaks_no_rule(dataset: str) -> None:
    for market in DATASETS[dataset].archive:
        good = dict(GOOD[dataset])
        if (dataset, market) == ("trades", "cm"):
            good |= {"quote_qty": None, "base_qty": 1.0}
        rules = rules_of(dataset, market, interval_of(dataset))
        assert flag_rows(rules, frame_of(dataset, [good])) is None
        assert set(count_violations(rules, frame_of(dataset, [good])).values()) == {0}


@pytest.mark.parametrize(("dataset", "market", "change", "names"), BROKEN)
def test_a_broken_row_is_marked_with_what_it_breaks(
    dataset: str, market: str, change: dict[str, Any], names: str
) -> None:
    good = GOOD[dataset]
    frame = frame_of(dataset, [good, {**good, **change}, good])
    rules = rules_of(dataset, market, interval_of(dataset))
    flags = flag_rows(rules, frame)
    assert (flags.to_list() if flags is not None else [None] * 3) == [None, names or None, None]
    counts = {name: n for name, n in count_violations(rules, frame).items() if n}
    assert counts == Counter(names.split(",") if names else [])


def test_every_rule_on_rows_is_broken_by_some_example() -> None:
    # What the kinds of bars have in common is shown on one of them.
    def kind(dataset: str) -> str:
        return "bars" if DATASETS[dataset].bars else dataset

    shown = {(kind(dataset), name) for dataset, _, _, names in BROKEN for name in names.split(",")}
    numbers = {"NOT_FINITE"}
    for dataset, declared in DATASETS.items():
        for market in declared.markets:
            for rule in rules_of(dataset, market, interval_of(dataset)):
                assert rule.name in numbers or (kind(dataset), rule.name) in shown


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_number_must_be_finite(dataset: str) -> None:
    market = DATASETS[dataset].markets[0]
    rules = rules_of(dataset, market, interval_of(dataset))
    for column in DATASETS[dataset].columns:
        if column.type == "double":
            for value in (NAN, INF, -INF):
                frame = frame_of(dataset, [{**GOOD[dataset], column.name: value}])
                assert count_violations(rules, frame)["NOT_FINITE"] == 1


# The rules of klines once more, in plain Python, on rows that may hold anything.
def python_flags(row: dict[str, Any]) -> str | None:
    def above(a: float, b: float) -> bool:
        """NaN is above every number and equal to itself."""
        return (math.isnan(a) and not math.isnan(b)) or a > b

    prices = [row[name] for name in ("open", "high", "low", "close")]
    _, high, low, _ = prices
    volume, quote, buys, buys_quote = (
        row[name]
        for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    )
    trades = row["trades"]
    span = (row["close_time"] - row["open_time"]) // timedelta(microseconds=1)
    exact = span in (59_999_000, 59_999_999)
    short = 0 <= span < 59_000_000
    found = {
        "NOT_FINITE": not all(map(math.isfinite, [*prices, volume, quote, buys, buys_quote])),
        "ZERO_PRICE": any(not above(price, 0) for price in prices),
        "OHLC": any(above(price, high) or above(low, price) for price in prices),
        "NEGATIVE_VOLUME": any(above(0, v) for v in (volume, quote, buys, buys_quote, trades)),
        "TAKER_OVER_TOTAL": above(buys, volume) or above(buys_quote, quote),
        "TRADES_WITHOUT_VOLUME": trades > 0 and volume == 0,
        "VOLUME_WITHOUT_TRADES": trades == 0 and above(volume, 0),
        "MOVE_WITHOUT_TRADES": trades == 0 and volume == 0 and above(high, low),
        "AVERAGE_OUTSIDE": above(quote, volume * high * 1.000001 + 1e-5)
        or above(volume * low * 0.999999 - 1e-5, quote),
        "OFF_GRID": to_us(row["open_time"]) % 60_000_000 != 0,
        "CUT_SHORT": short,
        "CLOSE_TIME": not (exact or short),
    }
    return ",".join(name for name, broken in found.items() if broken) or None


numbers = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, NAN, INF, -INF])
bars = st.builds(
    lambda at, span, trades, values: dict(
        zip(
            (
                "open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume",
                "taker_buy_quote_volume",
            ),
            values,
            strict=True,
        ),
        open_time=from_us(to_us(T0) + at),
        close_time=from_us(to_us(T0) + at + span),
        trades=trades,
    ),
    st.sampled_from([0, 60_000_000, 1, 59_999_999]),
    st.sampled_from(
        [59_999_000, 59_999_999, 60_000_000, 59_000_000, 58_999_999, 0, -1, 59_998_000]
    ),
    st.integers(-1, 2),
    st.lists(numbers, min_size=8, max_size=8),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(bars, min_size=1, max_size=20))
def test_rules_of_bars_are_those_of_plain_python(rows: list[dict[str, Any]]) -> None:
    expected = [python_flags(row) for row in rows]
    rules = rules_of("klines", "spot", "1m")
    flags = flag_rows(rules, frame_of("klines", rows))
    assert (flags is None) == (set(expected) == {None})
    if flags is not None:
        assert flags.to_list() == expected
    counts = Counter(name for text in expected if text for name in text.split(","))
    assert count_violations(rules, frame_of("klines", rows)) == {
        rule.name: counts[rule.name] for rule in rules
    }


def duckdb_rows(frame: pl.DataFrame, rules: Sequence[Rule], order: str = "") -> list[list[int]]:
    """For each rule, the rows that DuckDB finds with its SQL."""
    numbered = frame.with_row_index("_row")
    conditions = ", ".join(f"coalesce({rule.sql(order)}, false)" for rule in rules)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("numbered", numbered.to_arrow())
        found = connection.execute(f"SELECT {conditions} FROM numbered ORDER BY _row").fetchall()
    return [[i for i, row in enumerate(found) if row[j]] for j in range(len(rules))]


def kernel_rows(frame: pl.DataFrame, rules: Sequence[Rule]) -> list[list[int]]:
    flags = [flag_rows([rule], frame) for rule in rules]
    return [[] if one is None else one.is_not_null().arg_true().to_list() for one in flags]


@settings(deadline=None, max_examples=30)
@given(st.lists(bars, min_size=1, max_size=10))
def test_duckdb_finds_the_rows_that_the_kernel_finds(rows: list[dict[str, Any]]) -> None:
    frame = frame_of("klines", rows)
    rules = rules_of("klines", "spot", "1m")
    assert duckdb_rows(frame, rules) == kernel_rows(frame, rules)


@pytest.mark.parametrize("dataset", DATASETS)
def test_duckdb_agrees_on_every_example(dataset: str) -> None:
    market = DATASETS[dataset].markets[0]
    changes = [change for name, _, change, _ in BROKEN if name == dataset]
    frame = frame_of(dataset, [GOOD[dataset], *({**GOOD[dataset], **c} for c in changes)])
    rules = rules_of(dataset, market, interval_of(dataset))
    assert duckdb_rows(frame, rules) == kernel_rows(frame, rules)


@pytest.mark.parametrize(
    ("interval", "opened", "end", "beside"),
    [
        ("1s", datetime(2024, 5, 7, 1, 2, 3, tzinfo=UTC), datetime(2024, 5, 7, 1, 2, 4, tzinfo=UTC), MS),
        ("1w", datetime(2024, 5, 6, tzinfo=UTC), datetime(2024, 5, 13, tzinfo=UTC), timedelta(days=3)),
        ("3d", datetime(2024, 5, 5, tzinfo=UTC), datetime(2024, 5, 8, tzinfo=UTC), timedelta(days=1)),
        ("1mo", datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC), timedelta(days=1)),
        ("1mo", datetime(2023, 12, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC), timedelta(hours=1)),
    ],
)  # fmt: skip
def test_each_interval_has_its_grid_and_its_end(
    interval: str, opened: datetime, end: datetime, beside: timedelta
) -> None:
    good = {**GOOD["klines"], "open_time": opened, "close_time": end - MS}
    rules = rules_of("klines", "spot", interval)
    moved = {**good, "open_time": opened + beside, "close_time": end + beside - MS}
    rows = [
        good,
        {**good, "close_time": end - timedelta(microseconds=1)},
        moved,
        {**good, "close_time": end},
        {**good, "close_time": end - 2 * MS},
        {**good, "close_time": opened},
    ]
    frame = frame_of("klines", rows)
    flags = flag_rows(rules, frame)
    assert flags is not None
    found = [set(text.split(",")) if text else set() for text in flags.to_list()]
    assert found[:2] == [set(), set()]
    assert "OFF_GRID" in found[2]
    assert found[3:5] == [{"CLOSE_TIME"}, {"CLOSE_TIME"}]
    assert found[5] == ({"CLOSE_TIME"} if interval == "1s" else {"CUT_SHORT"})
    assert duckdb_rows(frame, rules) == [
        [i for i, names in enumerate(found) if rule.name in names] for rule in rules
    ]


def test_marks_stand_at_their_rows_in_frames_of_many_pieces() -> None:
    rows = 200_000
    good = frame_of("klines", [GOOD["klines"]])
    frame = good.select(pl.all().repeat_by(rows).explode())
    bad = [0, 65_535, 65_536, 150_001, rows - 1]
    frame = frame.with_columns(
        volume=pl.when(pl.int_range(rows).is_in(bad)).then(-5.0).otherwise("volume")
    )
    flags = flag_rows(rules_of("klines", "cm", "1m"), frame)
    assert flags is not None
    assert flags.len() == rows
    assert flags.is_not_null().arg_true().to_list() == bad
    assert set(flags.drop_nulls()) == {"NEGATIVE_VOLUME,TAKER_OVER_TOTAL"}
    tail = flag_rows(rules_of("klines", "cm", "1m"), frame.head(65_537))
    assert tail is not None
    assert tail.len() == 65_537


def test_numbers_whose_sum_is_infinite_are_finite_all_the_same() -> None:
    """What is asked of many rows at once only says where to look."""
    huge = {"count_long_short_ratio": 1e308}
    rows = [{**GOOD["metrics"], **huge}] * 3
    rules = [rule for rule in rules_of("metrics", "um") if rule.name == "NOT_FINITE"]
    assert rules[0].screen
    assert flag_rows(rules, frame_of("metrics", rows)) is None
    flags = flag_rows(
        rules, frame_of("metrics", [*rows, {**GOOD["metrics"], "sum_open_interest": math.nan}])
    )
    assert flags is not None
    assert flags.to_list() == [None, None, None, "NOT_FINITE"]


def test_no_rows_break_nothing() -> None:
    frame = frame_of("klines", [])
    rules = rules_of("klines", "spot", "1m")
    assert flag_rows(rules, frame) is None
    assert set(count_violations(rules, frame).values()) == {0}
    assert flag_sequence(sequence_rules_of("klines", "spot"), frame) == (None, None)
    assert flag_rows((), frame_of("klines", [GOOD["klines"]])) is None


@pytest.mark.parametrize(("dataset", "changes", "expected"), SEQUENCES)
def test_a_row_is_held_against_the_one_before_it(
    dataset: str, changes: list[dict[str, Any]], expected: list[str | None]
) -> None:
    frame = frame_of(dataset, [{**GOOD[dataset], **change} for change in changes])
    flags, _ = flag_sequence(sequence_rules_of(dataset, "um"), frame)
    assert flags is not None
    assert flags.to_list() == expected
    rules = sequence_rules_of(dataset, "um")
    assert duckdb_rows(frame, rules, "ORDER BY _row") == [
        [i for i, names in enumerate(expected) if names and rule.name in names.split(",")]
        for rule in rules
    ]


trade_steps = st.lists(
    st.tuples(st.integers(-1, 3), st.integers(-2, 3), st.integers(0, 2), st.integers(-1, 2)),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(trade_steps, st.lists(st.integers(0, 40), max_size=5))
def test_pieces_with_a_carry_give_what_one_run_gives(
    steps: list[tuple[int, int, int, int]], cuts: list[int]
) -> None:
    rows, number, last, at = [], 0, 0, 0
    for by, gap, length, later in steps:
        number, first, at = number + by, last + gap, at + later
        last = first + length
        rows.append(
            {
                **GOOD["aggTrades"],
                "agg_trade_id": number,
                "first_trade_id": first,
                "last_trade_id": last,
                "transact_time": T0 + at * MS,
            }
        )
    frame = frame_of("aggTrades", rows)
    rules = sequence_rules_of("aggTrades", "um")
    whole, _ = flag_sequence(rules, frame)
    edges = [0, *sorted(min(cut, frame.height) for cut in cuts), frame.height]
    carry, found = None, []
    for start, end in pairwise(edges):
        flags, carry = flag_sequence(rules, frame.slice(start, end - start), carry)
        found += [None] * (end - start) if flags is None else flags.to_list()
    assert found == ([None] * frame.height if whole is None else whole.to_list())


def test_flags_of_rows_and_of_their_sequence_are_joined() -> None:
    first = pl.Series("flags", ["A", None, "B,C", None])
    second = pl.Series("flags", [None, "D", "E", None])
    joined = join_flags(first, second)
    assert joined is not None
    assert joined.to_list() == ["A", "D", "B,C,E", None]
    assert join_flags(None, second) is second
    assert join_flags(first, None) is first
    assert join_flags(None, None) is None


@given(
    st.lists(st.tuples(st.integers(0, 4 * 1440), st.sampled_from([None, "A", "FREE", "FREE,A"])))
)
def test_days_are_counted_as_plain_python_counts_them(
    rows: list[tuple[int, str | None]],
) -> None:
    times = [T0 + minute * MINUTE for minute, _ in rows]
    flags = pl.Series("flags", [text for _, text in rows], pl.String)
    time = pl.Series(times, dtype=TYPES["timestamp"])
    counted = day_counts(time, flags, {"FREE"})
    expected: dict[datetime, list[int]] = {}
    for moment, (_, text) in zip(times, rows, strict=True):
        counts = expected.setdefault(moment.replace(hour=0, minute=0), [0, 0, 0])
        counts[0] += 1
        counts[1] += text in ("A", "FREE,A")
        counts[2] += text == "FREE"
    assert counted.rows() == [
        (day, *counts, "A" if counts[1] else None) for day, counts in sorted(expected.items())
    ]
    assert day_counts(time, None)["rows_flagged"].sum() == 0


needs_archive = pytest.mark.skipif(
    not ARCHIVE.exists(), reason="no real files at ../shared/data/archive"
)
needs_recorded = pytest.mark.skipif(
    not RECORDED.exists(), reason="no recorded files at ../shared/data/recorded"
)


@needs_archive
def test_the_real_archive_breaks_the_rules_that_are_known_and_no_others() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    costly = 0
    for (dataset, market, _, interval), frame in archive_rows().items():
        flags = flag_rows(rules_of(dataset, market, interval), frame)
        marks, _ = flag_sequence(sequence_rules_of(dataset, market), frame)
        joined = join_flags(flags, marks)
        if joined is not None:
            for text in joined.drop_nulls():
                counts.update((dataset, name) for name in text.split(","))
        days = day_counts(frame[DATASETS[dataset].time], joined, free_names())
        assert days["rows"].sum() == frame.height
        costly += days["rows_flagged"].sum()
    assert counts == {
        ("aggTrades", "TRADE_ID_JUMP"): 8312,
        ("metrics", "BLANK"): 328,
        ("metrics", "OPEN_INTEREST"): 4,
    }
    assert costly == 329


@needs_recorded
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The halt of February 2018: 43 hours beside the grid, and bars that end where it begins.
        ("BTCUSDT-1h-2018-01", {"OFF_GRID": 43, "CUT_SHORT": 4}),
        ("BTCUSDT-1h-2019-01", {"CUT_SHORT": 1}),
        # 2020-12-21 14:00 closes at 13:47.
        ("BTCUSDT-1h-2020-01", {"CUT_SHORT": 2, "CLOSE_TIME": 1}),
        # 2021-08-13 01:00 closes at …59.000.
        ("BTCUSDT-1h-2021-01", {"CUT_SHORT": 3, "CLOSE_TIME": 1}),
        ("BTCUSDT-1h-2022-01", {}),
        ("BTCUSDT-1h-2023-01", {"CUT_SHORT": 1}),
        ("BTCUSDT-1h-2024-01", {}),
        ("BTCUSDT-1h-2025-01", {}),
        ("SOLUSDT-1h-2025-01", {}),
        ("BTCUSDC-1h-2018-12", {}),
        ("BTCUSDC-1h-2022-01", {}),
        ("BTCUSDC-1h-2023-01", {"CUT_SHORT": 1}),
    ],
)
def test_recorded_years_break_the_rules_that_are_known_and_no_others(
    name: str, expected: dict[str, int]
) -> None:
    frame = recorded_bars(f"spot_klines_1h_year/{name}.csv")
    counts = count_violations(rules_of("klines", "spot", "1h"), frame)
    assert {rule: n for rule, n in counts.items() if n} == expected
    assert frame.height > 400
