from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.bronze.fill_plan import (
    FillPlan,
    joined,
    make_units,
    minus,
    plan_fill,
    plan_stream_gaps,
)
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.streams import StreamGap
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, TimeRange, parse_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.limits import limits_of

START_US = parse_time("2026-04-01")

spans = st.builds(
    lambda start, length: TimeRange(start, start + length), st.integers(0, 60), st.integers(1, 20)
)


def fill(
    market: Market,
    dataset: str,
    span_us: int,
    interval: str | None = None,
    symbol: str = "BTCUSDT",
    start_us: int = START_US,
) -> Fill:
    span = TimeRange(start_us, start_us + span_us)
    return Fill(market, dataset, symbol, interval, span, span.end_us)


def points(some: list[TimeRange]) -> set[int]:
    return {at for span in some for at in range(span.start_us, span.end_us)}


@given(spans, st.lists(spans, max_size=6))
def test_what_was_asked_for_is_not_asked_again_and_all_else_is(
    span: TimeRange, taken: list[TimeRange]
) -> None:
    left = list(minus(span, taken))
    assert points(left) == points([span]) - points(taken)
    assert left == sorted(left)


@given(st.lists(spans, max_size=8))
def test_joining_loses_nothing(some: list[TimeRange]) -> None:
    assert points(list(joined(some, None))) >= points(some)
    assert len(list(joined(some, None))) <= 1  # all within ten minutes


@pytest.mark.parametrize(
    ("market", "interval", "bars", "requests", "weight"),
    [
        ("spot", "1m", 998, 1, 2),
        ("spot", "1m", 999, 2, 4),
        ("um", "1m", 97, 1, 1),
        ("um", "1m", 98, 1, 2),
        ("um", "1m", 497, 1, 2),
        ("um", "1m", 1440, 3, 6),
        ("um", "1m", 497 + 97, 2, 3),
        # COIN-M answers for 200 days at most.
        ("cm", "1d", 250, 2, 3),
    ],
)
def test_pages_of_bars_weigh_what_they_are_planned_to(
    market: Market, interval: str, bars: int, requests: int, weight: int
) -> None:
    length_us = MINUTE_US if interval == "1m" else DAY_US
    [planned] = plan_fill(fill(market, "klines", bars * length_us, interval), "gap", 100)
    assert (planned.rows, planned.requests, planned.costs["weight"]) == (bars, requests, weight)


def test_a_long_fill_is_cut_and_nothing_of_it_is_lost() -> None:
    whole = fill("um", "klines", 365 * DAY_US, "1m")
    parts = list(plan_fill(whole, "gap", 10))
    assert all(part.requests <= 10 for part in parts)
    ranges = [part.fill.span for part in parts]
    assert ranges[0].start_us == whole.span.start_us
    assert ranges[-1].end_us == whole.span.end_us
    assert all(a.end_us == b.start_us for a, b in pairwise(ranges))
    assert sum(part.rows for part in parts) == 365 * 1440


def test_spot_is_cut_where_its_files_turn_to_microseconds() -> None:
    border = parse_time("2025")
    whole = fill("spot", "aggTrades", 2 * HOUR_US, start_us=border - HOUR_US)
    first, second = plan_fill(whole, "gap", 100)
    assert first.fill.span.end_us == second.fill.span.start_us == border


def test_trades_are_estimated_by_what_the_symbol_has() -> None:
    [planned] = plan_fill(fill("um", "aggTrades", HOUR_US), "tail", 100, rows_a_day=240_000)
    assert planned.rows == 10_000
    assert planned.requests == 12
    assert planned.costs == {"weight": 240}


def test_metrics_take_five_requests_a_page() -> None:
    [planned] = plan_fill(fill("um", "metrics", 40 * HOUR_US), "tail", 100)
    assert planned.requests == 5
    assert planned.costs == {"statistics": 5}


def test_the_time_is_that_of_the_tightest_limit() -> None:
    weights: dict[Market, int] = {"spot": 6000, "um": 2400, "cm": 2400}
    plan = FillPlan()
    assert plan.seconds(limits_of(weights), 0.8) == 0
    for number in range(960):
        one = fill("um", "klines", 497 * MINUTE_US, "1m", symbol=f"A{number}USDT")
        plan.planned += plan_fill(one, "tail", 100)
    assert plan.seconds(limits_of(weights), 0.8) == 0  # 1,920: one window
    plan.planned += plan_fill(fill("um", "klines", MINUTE_US, "1m"), "tail", 100)
    assert plan.seconds(limits_of(weights), 0.8) == 60
    assert plan.costs()["um"]["weight"] == 1921


def test_units_are_bounded_and_hold_every_fill_once() -> None:
    planned = [
        one
        for number in range(300)
        for one in plan_fill(fill("um", "klines", DAY_US, "1m", f"A{number}USDT"), "tail", 100)
    ]
    units = list(make_units(planned, 20))
    assert all(unit.requests <= 20 for unit in units)
    found = [one.fill.symbol for unit in units for one in unit.fills]
    assert sorted(found) == sorted(one.fill.symbol for one in planned)


def stream_gap(
    dataset: str, first: int | None, last: int | None, at_us: int = START_US, symbol: str = "A"
) -> StreamGap:
    interval = "1m" if dataset == "klines" else None
    missing = 2 if first is None or last is None else last - first + 1
    end_us = at_us + 2 * MINUTE_US
    return StreamGap(
        "um", dataset, symbol, interval, first, last, at_us, end_us, missing, at_us
    )  # fmt: skip


def test_gaps_of_numbered_streams_are_asked_for_by_number_and_neighbours_together() -> None:
    gaps = [
        stream_gap("aggTrades", 5_000, 5_099),
        stream_gap("aggTrades", 100, 102),
        stream_gap("aggTrades", 600, 600),
        stream_gap("aggTrades", 7, 7, symbol="B"),
    ]
    planned = list(plan_stream_gaps(gaps, {"um": START_US}, 100))
    assert [(one.fill.symbol, one.fill.ids, one.requests, one.rows) for one in planned] == [
        ("A", (100, 600), 1, 501), ("A", (5_000, 5_099), 1, 100), ("B", (7, 7), 1, 1),
    ]  # fmt: skip
    assert all(one.costs == {"weight": 20} for one in planned)
    assert {one.kind for one in planned} == {"stream_gap"}


def test_a_long_gap_is_cut_into_parts_of_so_many_pages() -> None:
    gap = stream_gap("trades", 1, 120_000)
    parts = list(plan_stream_gaps([gap], {"um": START_US}, 100))
    assert [part.fill.ids for part in parts] == [
        (1, 50_000), (50_001, 100_000), (100_001, 120_000),
    ]  # fmt: skip
    assert [part.requests for part in parts] == [100, 100, 40]


def test_gaps_of_bars_and_numbers_that_leap_are_asked_for_by_time() -> None:
    bars, leap = stream_gap("klines", None, None), stream_gap("aggTrades", 1, 10**12)
    planned = list(plan_stream_gaps([bars, leap], {"um": START_US + DAY_US}, 100))
    found = {one.fill.dataset: one.fill for one in planned}
    assert found["klines"].span == bars.span
    assert found["aggTrades"].span.start_us < leap.start_us
    assert found["aggTrades"].span.end_us > leap.end_us
    assert all(fill.ids is None for fill in found.values())
