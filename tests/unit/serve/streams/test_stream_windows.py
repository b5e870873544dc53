"""Windows over a range: every event once and in order, however many there are and wherever."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.serve.streams.events import Event
from lakehouse_ray.serve.streams.reading import Window, windows

END_US = 10**13
EVENTS = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 200), st.integers(10**11, 10**11 + 50), st.integers(0, END_US - 1)
        ),
        st.sampled_from(["a@trade", "b@trade", "c@kline_1m"]),
        st.integers(0, 2),
        st.integers(0, 9),
    ),
    unique=True,
    max_size=120,
).map(lambda places: [Event(place, place[1], b"{}") for place in sorted(places)])


def told(events: list[Event], start_us: int, rows_max: int) -> tuple[list[Event], int]:
    """What windows tell from a moment on, and the most that was read at once within bounds."""
    most = 0

    async def read(due: TimeRange, limit: int | None) -> Window | None:
        nonlocal most
        found = [e for e in events if due.start_us <= e.place[0] < due.end_us]
        if limit is None:
            assert due.end_us - due.start_us == 1
            return Window(found, due.end_us)
        most = max(most, min(len(found), limit))
        if len(found) <= limit:
            return Window(found, due.end_us)
        # As one that has too many rows does: all before the first that is too much, or nothing.
        until_us = found[limit].place[0]
        chosen = [event for event in found if event.place[0] < until_us]
        return Window(chosen, until_us) if until_us > due.start_us else None

    async def all_of_them() -> list[Event]:
        found: list[Event] = []
        async with aclosing(windows(read, TimeRange(start_us, END_US), rows_max)) as parts:
            async for part in parts:
                found += part
        return found

    return asyncio.run(all_of_them()), most


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 30))
def test_every_event_is_told_once_and_in_order(events: list[Event], rows_max: int) -> None:
    found, most = told(events, 0, rows_max)
    assert found == events
    assert most <= rows_max


@settings(max_examples=60, deadline=None)
@given(EVENTS.filter(bool), st.data(), st.integers(1, 30))
def test_going_on_after_any_event_gives_the_rest(
    events: list[Event], data: st.DataObject, rows_max: int
) -> None:
    """As a connection resumes: from the moment of the last event, without what is not after it."""
    cut = data.draw(st.integers(0, len(events) - 1))
    last = events[cut].place
    rest, _ = told(events, last[0], rows_max)
    assert [event for event in rest if event.place > last] == events[cut + 1 :]


def test_a_range_with_nothing_in_it_ends() -> None:
    assert told([], 0, 5) == ([], 0)
