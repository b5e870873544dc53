"""A book from a snapshot and changes is the book, or it says that it is none."""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.kernels.order_book import Change, Level, OrderBook

RECORDED = Path(__file__).parents[3].parent / "shared/data/recorded/ws/hftbacktest"
FILES = ["spot_btcusdt_20240808.gz", "usdm_ethusdt_20240808.gz", "cm_btcusd_perp_20240808.gz"]

levels = st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(0, 3).map(float)), max_size=6)


@given(st.lists(st.tuples(levels, levels), max_size=30), st.integers(0, 29))
def test_a_snapshot_taken_at_any_time_leads_to_the_same_book(
    changes: list[tuple[list[Level], list[Level]]], taken: int
) -> None:
    whole = OrderBook()
    whole.take_snapshot(0, [], [])
    numbered = [Change(n, n + 1, bids, asks) for n, (bids, asks) in enumerate(changes)]
    late = OrderBook()
    snapshot: tuple[int, list[Level], list[Level]] = (0, [], [])
    for place, change in enumerate(numbered):
        assert late.apply(change)
        assert whole.apply(change)
        if place == taken:
            assert whole.last is not None
            snapshot = (whole.last, *whole.top(100))
    assert late.needs_snapshot
    assert late.take_snapshot(*snapshot)
    assert late.top(100) == whole.top(100)
    assert late.last == whole.last


def test_a_book_with_a_hole_is_none_until_the_next_snapshot() -> None:
    book = OrderBook()
    assert book.take_snapshot(10, [(1.0, 1.0)], [(2.0, 1.0)])
    assert not book.apply(Change(11, 12, [(1.5, 1.0)], []))
    assert book.needs_snapshot
    assert book.apply(Change(12, 13, [(1.4, 1.0)], []))
    # Too old for the changes that were seen since.
    assert not book.take_snapshot(9, [(1.0, 1.0)], [])
    assert book.needs_snapshot


def test_the_change_after_a_loss_is_not_forgotten() -> None:
    book = OrderBook()
    book.take_snapshot(10, [], [(2.0, 1.0)])
    book.apply(Change(11, 12, [(1.5, 1.0)], []))
    book.apply(Change(12, 13, [(1.4, 0.0)], []))
    assert not book.take_snapshot(9, [], [])
    assert book.take_snapshot(11, [(1.0, 1.0)], [(2.0, 1.0)])
    assert book.top(2) == ([(1.5, 1.0), (1.0, 1.0)], [(2.0, 1.0)])


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the real frames are not on this machine")
@pytest.mark.parametrize("name", FILES)
def test_the_top_of_recorded_books_is_what_the_exchange_says_is_best(name: str) -> None:
    """Best prices come on a stream of their own, with the number of the change that made them."""
    book = OrderBook()
    seen = 0
    changes: list[tuple[int, Level, Level]] = []
    best: list[tuple[int, tuple[Level, Level]]] = []
    with gzip.open(RECORDED / name) as lines:
        for line in lines:
            frame: dict[str, Any] = json.loads(line.partition(b" ")[2])
            data = frame.get("data", frame)
            if "lastUpdateId" in data:
                assert book.take_snapshot(
                    data["lastUpdateId"], numbers(data["bids"]), numbers(data["asks"])
                )
            elif data.get("e") == "depthUpdate":
                before = data.get("pu", data["U"] - 1)
                assert book.apply(Change(before, data["u"], numbers(data["b"]), numbers(data["a"])))
                seen += 1
                # The top costs the size of the book.
                if not book.needs_snapshot and seen % 11 == 0:
                    bids, asks = book.top(1)
                    changes.append((data["u"], bids[0], asks[0]))
            elif "B" in data:
                quote = ((float(data["b"]), float(data["B"])), (float(data["a"]), float(data["A"])))
                best.append((data["u"], quote))
    assert [u for u, _ in best] == sorted(u for u, _ in best)
    numbers_of_best = [u for u, _ in best]
    same = 0
    for last, bid, ask in changes:
        place = bisect_right(numbers_of_best, last)
        if place:
            same += best[place - 1][1] == (bid, ask)
    assert len(changes) > 300
    assert same == len(changes)


def numbers(pairs: list[list[str]]) -> list[Level]:
    return [(float(price), float(quantity)) for price, quantity in pairs]
