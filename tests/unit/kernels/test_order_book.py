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

Top = tuple[list[Level], list[Level]]


def known_top(book: OrderBook, levels: int) -> Top:
    top = book.top(levels)
    assert top is not None
    return top


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
            snapshot = (whole.last, *known_top(whole, 100))
    assert late.needs_snapshot
    assert late.take_snapshot(*snapshot)
    assert known_top(late, 100) == known_top(whole, 100)
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


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3).map(float)), max_size=60),
    st.integers(1, 25),
    st.integers(1, 4),
)
def test_levels_are_right_or_not_told_however_few_a_snapshot_had(
    changes: list[tuple[int, float]], snapshot_levels: int, wanted: int
) -> None:
    """Prices 1 to 20 are bids, 21 to 40 asks; the snapshot has the best of each."""
    truth = {float(price): 1.0 for price in range(1, 41)}

    def best(levels: int) -> Top:
        bids = sorted((one for one in truth.items() if one[0] <= 20), reverse=True)
        asks = sorted(one for one in truth.items() if one[0] > 20)
        return bids[:levels], asks[:levels]

    book = OrderBook(snapshot_levels=snapshot_levels)
    assert book.take_snapshot(0, *best(snapshot_levels))
    for number, (price, quantity) in enumerate(changes):
        level = (float(price), quantity)
        bids, asks = ([level], []) if price <= 20 else ([], [level])
        assert book.apply(Change(number, number + 1, bids, asks))
        truth.pop(level[0], None)
        if quantity:
            truth[level[0]] = quantity
        top = book.top(wanted)
        assert top in (None, best(wanted))
        # A snapshot that had less than it may have had has all.
        assert top is not None or snapshot_levels <= 20


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
                # The top costs the size of the book. Bitcoin's price leaves the 1,000 levels.
                if not book.needs_snapshot and seen % 11 == 0 and (top := book.top(1)):
                    changes.append((data["u"], top[0][0], top[1][0]))
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
