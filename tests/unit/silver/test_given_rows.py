"""Rows that come as such: which of them a table can hold, by a rule spelled out once more in the test."""

from __future__ import annotations

from collections import defaultdict

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.model.datasets.trades import TRADES
from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.silver.given_rows import checked_rows, good_rows, rows_schema
from lakehouse_ray.silver.quarantine import Refusals

START_US = parse_time("2024-01-02T03:04:05")
rows = st.lists(
    st.tuples(st.sampled_from(["AUSDT", "BUSDT"]), st.integers(0, 40), st.sampled_from([1.0, 2.0])),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(rows, st.booleans())
def test_a_key_has_one_row_and_none_where_its_rows_contradict_each_other(
    given_rows: list[tuple[str, int, float]], apart: bool
) -> None:
    if apart:
        # As streams mostly are: no two rows have the same key.
        given_rows = list({row[:2]: row for row in given_rows}.values())
    frame = pl.DataFrame(
        {
            "market": ["um"] * len(given_rows),
            "symbol": [symbol for symbol, _, _ in given_rows],
            "id": [number for _, number, _ in given_rows],
            "price": [price for _, _, price in given_rows],
            "qty": [1.0] * len(given_rows),
            "quote_qty": [None] * len(given_rows),
            "base_qty": [None] * len(given_rows),
            "time": [START_US] * len(given_rows),
            "is_buyer_maker": [True] * len(given_rows),
            "is_best_match": [None] * len(given_rows),
            "source": ["stream"] * len(given_rows),
            "source_key": [f"stream/um/trades/{symbol}" for symbol, _, _ in given_rows],
            "source_version": ["1"] * len(given_rows),
        }
    ).cast(dict(rows_schema(TRADES)))
    prices: dict[tuple[str, int], set[float]] = defaultdict(set)
    for symbol, number, price in given_rows:
        prices[symbol, number].add(price)
    refusals = Refusals("um", TRADES.name, None, "run", START_US)
    good, refused = good_rows(TRADES, checked_rows(TRADES, frame), refusals)
    assert good.select("symbol", "id", "price").rows() == [
        (*key, found.pop()) for key, found in sorted(prices.items()) if len(found) == 1
    ]
    # Both rows of a contradiction; what came twice is no contradiction.
    assert refused == 2 * sum(len(found) > 1 for found in prices.values())
