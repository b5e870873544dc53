"""Periods of units, and declarations that cannot be right."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.lake import OBJECT_LOG
from lakehouse_ray.model.product import EVER, Input, Period, period_of, periods_between, span_of
from lakehouse_ray.model.products.daily import DAILY
from lakehouse_ray.model.products.registry import PRODUCTS, find_products
from lakehouse_ray.model.timespan import DAY_US, TimeRange, parse_time

times = st.integers(parse_time("2009"), parse_time("2150"))
periods = st.sampled_from(("month", "year", "history"))


@given(times, periods)
def test_a_time_lies_in_the_period_that_is_named_after_it(time_us: int, period: Period) -> None:
    span = span_of(period_of(time_us, period))
    assert span.start_us <= time_us < span.end_us


@given(times, times, periods)
def test_periods_between_two_times_follow_each_other(a: int, b: int, period: Period) -> None:
    first, last = min(a, b), max(a, b)
    names = periods_between(first, last, period)
    spans = [span_of(name) for name in names]
    assert spans[0].start_us <= first < spans[0].end_us
    assert spans[-1].start_us <= last < spans[-1].end_us
    assert all(x.end_us == y.start_us for x, y in itertools.pairwise(spans))
    assert names == sorted(names)


def test_an_input_reads_around_the_period_as_far_as_it_says() -> None:
    may = span_of("2024-05")
    item = Input("bars", KLINES, ("close",), lookback_us=DAY_US, lookahead_us=2 * DAY_US)
    assert item.span(may) == TimeRange(parse_time("2024-04-30"), parse_time("2024-06-03"))
    back = replace(item, lookback_us=None, lookahead_us=None)
    assert back.span(may) == EVER
    assert item.span(EVER) == EVER


def test_an_input_of_bars_is_read_from_the_table_of_its_interval() -> None:
    item = Input("bars", KLINES, ("close",))
    assert [table.name for table in item.tables("1m")] == ["silver.klines_fine"]
    assert [t.name for t in replace(item, interval="1h").tables("1m")] == ["silver.klines_coarse"]
    assert len(item.tables("")) == 2


def test_declarations_that_contradict_themselves_are_not_made() -> None:
    with pytest.raises(AssertionError, match="no columns"):
        Input("bars", KLINES, ("price",))
    with pytest.raises(AssertionError, match="no log"):
        replace(DAILY, inputs=(Input("objects", OBJECT_LOG, ("key",)),))
    with pytest.raises(AssertionError, match="partition by interval"):
        replace(DAILY, table=replace(DAILY.table, partitions=DAILY.table.partitions[:1]))


def test_no_two_products_share_a_table() -> None:
    tables = [product.table.name for product in PRODUCTS.values()]
    assert len(tables) == len(set(tables))
    assert all(name == product.name for name, product in PRODUCTS.items())


def test_products_are_found_by_their_names_and_their_tables() -> None:
    assert find_products("daily") == find_products("gold.daily") == [DAILY]
    assert [p.name for p in find_products("klines")] == ["klines_fine", "klines_coarse"]
    with pytest.raises(InvalidError) as told:
        find_products("dialy")
    assert told.value.hint == "did you mean daily?"
