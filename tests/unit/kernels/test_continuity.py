"""Every number that came is given out once and in order; every one that did not is in one gap."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.kernels.continuity import Continuity, Gap, Released

T = TypeVar("T")

WAIT_US = 1_000


def feed(
    series: Continuity[T], numbers: Sequence[int], items: Sequence[T], times: Sequence[int]
) -> Released[T]:
    """Messages that cover one number each."""
    last = np.array(numbers, np.int64)
    return series.feed(last - 1, last, items, np.array(times, np.int64))


def run(
    series: Continuity[int], arrivals: list[tuple[int, int]]
) -> tuple[list[int], list[int], list[Gap], int]:
    """Feed (number, time), then let time pass."""
    items: list[int] = []
    late: list[int] = []
    gaps: list[Gap] = []
    duplicates = 0
    parts = [feed(series, [number], [number], [time]) for number, time in arrivals]
    parts.append(series.pass_time(arrivals[-1][1] + 2 * WAIT_US) if arrivals else Released())
    for part in parts:
        items += part.items
        late += part.late
        gaps += part.gaps
        duplicates += part.duplicates
    return items, late, gaps, duplicates


def covered(gaps: list[Gap]) -> list[int]:
    return [number for gap in gaps for number in range(gap.first, gap.last + 1)]


@st.composite
def disturbed(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int]], int]:
    """Numbers that are sent, and what arrives of them: some skipped, some twice, some moved.

    A message comes at most 900 µs after its turn, so each is within the window of those it should
    have preceded; messages are due every 100 µs.
    """
    count = draw(st.integers(2, 60))
    start = draw(st.integers(0, 10**12))
    skipped = draw(st.sets(st.integers(1, count - 2), max_size=count)) if count > 2 else set()
    arrivals: list[tuple[int, int]] = []
    for place in range(count):
        if place in skipped:
            continue
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
            delay = draw(st.integers(0, 900)) if place > 0 else 0
            arrivals.append((start + place, 100 * place + delay))
    arrivals.sort(key=lambda pair: pair[1])
    sent = [start + place for place in range(count)]
    return sent, arrivals, start


@settings(max_examples=120, deadline=None)
@given(disturbed())
def test_each_number_comes_out_once_in_order_and_each_missing_one_is_in_one_gap(
    case: tuple[list[int], list[tuple[int, int]], int],
) -> None:
    sent, arrivals, start = case
    came = {number for number, _ in arrivals}
    items, late, gaps, duplicates = run(Continuity(start - 1, wait_us=WAIT_US), arrivals)
    assert items == sorted(came)
    assert late == []
    assert sorted(covered(gaps)) == [number for number in sent if number not in came]
    assert duplicates == len(arrivals) - len(came)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300)), min_size=1, max_size=80))
def test_whatever_arrives_nothing_is_lost_and_nothing_comes_twice(
    steps: list[tuple[int, int]],
) -> None:
    """Without any bound on the disorder: what comes too late for its turn is given out as late."""
    now, arrivals = 0, []
    for number, pause in steps:
        now += pause
        arrivals.append((number, now))
    items, late, gaps, duplicates = run(Continuity(None, wait_us=WAIT_US), arrivals)
    came = {number for number, _ in arrivals}
    assert items == sorted(set(items))
    missing = covered(gaps)
    assert len(missing) == len(set(missing))
    # What was before the first number given out can be told from nothing.
    first = min(items)
    assert sorted(items + late) == sorted(n for n in came if n >= first)
    assert set(missing) == set(range(first, max(came) + 1)) - set(items)
    assert duplicates == len(arrivals) - len(items) - len(late)


@settings(max_examples=80, deadline=None)
@given(disturbed(), st.integers(1, 7))
def test_what_waits_may_be_taken_out_and_fed_again(
    case: tuple[list[int], list[tuple[int, int]], int], every: int
) -> None:
    """As at the border between two segments."""
    _, arrivals, start = case
    plain = run(Continuity(start - 1, wait_us=WAIT_US), arrivals)
    items: list[tuple[int, int]] = []
    gaps: list[Gap] = []
    series: Continuity[tuple[int, int]] = Continuity(start - 1, wait_us=WAIT_US)
    for place, pair in enumerate(arrivals):
        part = feed(series, [pair[0]], [pair], [pair[1]])
        items += part.items
        gaps += part.gaps
        if place % every == 0:
            for waiting in series.give_back():
                again = feed(series, [waiting[0]], [waiting], [waiting[1]])
                items += again.items
                gaps += again.gaps
    end = series.pass_time(arrivals[-1][1] + 2 * WAIT_US)
    assert [number for number, _ in items + end.items] == plain[0]
    assert covered(gaps + end.gaps) == covered(plain[2])


@given(st.integers(0, 2**32))
def test_pieces_of_any_size_give_what_single_messages_give(seed: int) -> None:
    rng = random.Random(seed)
    numbers = [n for n in range(200) if rng.random() > 0.05]
    times = list(range(0, 100 * len(numbers), 100))
    whole: Continuity[int] = Continuity(-1, wait_us=WAIT_US)
    out, gaps = [], []
    place = 0
    while place < len(numbers):
        size = rng.randint(1, 30)
        part = feed(
            whole,
            numbers[place : place + size],
            numbers[place : place + size],
            times[place : place + size],
        )
        out += part.items
        gaps += part.gaps
        place += size
    end = whole.pass_time(times[-1] + WAIT_US)
    assert out + end.items == numbers
    assert covered(gaps + end.gaps) == sorted(set(range(numbers[-1])) - set(numbers))


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(st.none(), st.integers(0, 20)),
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 400)),
        min_size=1,
        max_size=80,
    ),
)
def test_many_at_once_give_what_one_after_the_other_gives(
    begun: int | None, steps: list[tuple[int, int, int]]
) -> None:
    """Ranges that follow one another, overlap, come again and leave holes."""
    before, last, times = [], [], []
    at = now = 0
    for back, reach, pause in steps:
        at, now = max(0, at - back + 1), now + pause
        before.append(at)
        at += reach
        last.append(at)
        times.append(now)
    count = len(steps)
    columns = np.array(before), np.array(last)
    at_once: Continuity[int] = Continuity(begun, wait_us=WAIT_US)
    whole = at_once.feed(*columns, range(count), np.array(times))
    singly: Continuity[int] = Continuity(begun, wait_us=WAIT_US)
    parts = [
        singly.feed(*(c[n : n + 1] for c in columns), [n], np.array(times[n : n + 1]))
        for n in range(count)
    ]
    assert whole.items == [item for part in parts for item in part.items]
    assert whole.late == [item for part in parts for item in part.late]
    assert whole.gaps == [gap for part in parts for gap in part.gaps]
    assert whole.duplicates == sum(part.duplicates for part in parts)
    assert at_once.give_back() == singly.give_back()
    assert (at_once.last, at_once.gaps) == (singly.last, singly.gaps)


def test_a_gap_is_told_by_the_first_message_after_the_wait() -> None:
    series: Continuity[int] = Continuity(10, wait_us=WAIT_US)
    assert feed(series, [11, 14], [11, 14], [0, 100]).items == [11]
    assert feed(series, [15], [15], [1_099]).gaps == []
    told = feed(series, [16], [16], [1_100])
    assert told.gaps == [Gap(12, 13, 1_100)]
    assert told.items == [14, 15, 16]
    # What comes after all is given out, once.
    late = feed(series, [13, 13, 16], [13, 13, 16], [2_000, 2_000, 2_000])
    assert (late.items, late.late, late.duplicates) == ([], [13], 2)


def test_no_more_than_so_many_messages_wait() -> None:
    series: Continuity[int] = Continuity(0, wait_us=10**12, held_max=3)
    told = feed(series, [3, 4, 5, 6], [3, 4, 5, 6], [0, 0, 0, 0])
    assert told.gaps == [Gap(1, 2, 0)]
    assert told.items == [3, 4, 5, 6]


def test_a_series_begins_with_the_smallest_number_of_the_first_moments() -> None:
    series: Continuity[int] = Continuity(None, wait_us=WAIT_US)
    assert feed(series, [7, 6, 8], [7, 6, 8], [0, 10, 20]).items == []
    told = feed(series, [9], [9], [1_000])
    assert (told.items, told.gaps) == ([6, 7, 8, 9], [])


def test_ranges_that_overlap_what_was_seen_continue_it() -> None:
    """Two connections cut the changes of a book in different places."""
    series: Continuity[str] = Continuity(100, wait_us=WAIT_US)
    told = series.feed(
        np.array([100, 98, 103, 112, 110]),
        np.array([105, 103, 110, 115, 112]),
        ["a", "old", "overlaps", "waits", "fills"],
        np.arange(5),
    )
    assert told.items == ["a", "overlaps", "fills", "waits"]
    assert (told.duplicates, told.gaps, series.last) == (1, [], 115)
