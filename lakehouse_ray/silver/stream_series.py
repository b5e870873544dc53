"""One stream of a segment: its events in order, each once, and what is missing between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from msgspec import Struct

from lakehouse_ray.kernels.continuity import Continuity, Gap, Released
from lakehouse_ray.model.timespan import month_of, month_ordinal
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.sources.binance.streams.events import (
    AggTrade,
    BookTicker,
    Depth,
    Event,
    ForceOrder,
    Kline,
    MarkPrice,
    Trade,
)
from lakehouse_ray.sources.binance.streams.names import Stream

# Keys of streams without numbers that are remembered from segment to segment: those of some seconds,
# while two connections overlap.
RECENT_KEYS_MAX = 2_000
# A number that was seen comes again so long after only if the exchange counts anew.
ANEW_AFTER_US = 10_000_000
_MICROSECONDS_FROM = 10**15


class Arrival(Struct, gc=False):
    """An event as it came. record: Its place in the segment, from 0."""

    event: Event
    received_us: int
    record: int


@dataclass
class SeriesState:
    """What has to be known of a stream's past.

    last: Number up to which it was seen; None: nothing was. last_time_us: Of the event that had it.
    gaps: First and last number of the latest gaps. keys: Of streams without numbers, the latest seen.
    """

    last: int | None = None
    last_time_us: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SeriesGap:
    """A gap with the times of its neighbours, µs; `missing`: rows or numbers, None: not known."""

    first: int | None
    last: int | None
    start_us: int
    end_us: int
    missing: int | None
    found_us: int


@dataclass
class SeriesWork:
    """What a segment says of a stream.

    arrivals: What is given out: in order, then what came late. waiting: Of the segment's records,
        those that have to be looked at again with the next. anew: The numbers have begun anew.
    """

    state: SeriesState
    arrivals: list[Arrival] = field(default_factory=list)
    late: int = 0
    gaps: list[SeriesGap] = field(default_factory=list)
    duplicates: int = 0
    waiting: list[Arrival] = field(default_factory=list)
    anew: bool = False


def continue_series(
    stream: Stream,
    arrivals: Sequence[Arrival],
    state: SeriesState,
    *,
    wait_us: int,
    now_us: int,
) -> SeriesWork:
    """Go on with a stream behind `state`. Pure: the same segment gives the same work again.

    arrivals: In the order in which they came. now_us: When the segment ended.
    """
    if not has_numbers(stream):
        return _without_numbers(arrivals, state)
    if stream.kind == "kline":
        arrivals = [a for a in arrivals if isinstance(a.event, Kline) and a.event.k.x]
    ranges = [_range(arrival.event) for arrival in arrivals] if stream.kind == "depth" else []
    numbers = [last for _, last in ranges] if ranges else _numbers(stream, arrivals)
    start = _begins_anew(arrivals, numbers, state)
    if start is not None:
        return _anew(stream, arrivals, start, state, wait_us=wait_us, now_us=now_us)
    series: Continuity[Arrival] = Continuity(state.last, wait_us=wait_us, gaps=state.gaps)
    times = [arrival.received_us for arrival in arrivals]
    if ranges:
        released = series.feed(ranges, arrivals, times)
    else:
        released = series.feed_singles(numbers, list(arrivals), times)
    end = series.pass_time(now_us)
    whole = Released(
        released.items + end.items,
        released.late + end.late,
        released.gaps + end.gaps,
        released.duplicates + end.duplicates,
    )
    work = SeriesWork(SeriesState(series.last, state.last_time_us, series.gaps))
    work.gaps = list(_with_times(stream, whole, state))
    work.arrivals = whole.items + whole.late
    work.late = len(whole.late)
    work.duplicates = whole.duplicates
    work.waiting = series.give_back()
    if whole.items:
        work.state.last_time_us = time_of(whole.items[-1].event)
    return work


def _begins_anew(
    arrivals: Sequence[Arrival], numbers: Sequence[int], state: SeriesState
) -> int | None:
    """The first event that is behind the series by its number, and well ahead by its time."""
    if state.last is None or not numbers or min(numbers) > state.last:
        return None
    ahead_us = state.last_time_us + ANEW_AFTER_US
    for place, (arrival, number) in enumerate(zip(arrivals, numbers, strict=True)):
        if number <= state.last and time_of(arrival.event) > ahead_us:
            return place
    return None


def _anew(
    stream: Stream,
    arrivals: Sequence[Arrival],
    start: int,
    state: SeriesState,
    *,
    wait_us: int,
    now_us: int,
) -> SeriesWork:
    """End a series whose numbers begin anew, as those of a ticker that is listed again, and begin
    another. The old one waits for nothing any more."""
    old = continue_series(stream, arrivals[:start], state, wait_us=0, now_us=now_us)
    unknown = SeriesState(None, old.state.last_time_us)
    new = continue_series(stream, arrivals[start:], unknown, wait_us=wait_us, now_us=now_us)
    begins_us = time_of(arrivals[start].event)
    between = SeriesGap(None, None, old.state.last_time_us, begins_us, None, now_us)
    new.gaps = [*old.gaps, between, *new.gaps]
    new.duplicates += old.duplicates
    new.anew = True
    # No book is made of changes on both sides.
    if stream.kind != "depth":
        new.arrivals = [*old.arrivals, *new.arrivals]
        new.late += old.late
    return new


def _numbers(stream: Stream, arrivals: Sequence[Arrival]) -> list[int]:
    if stream.kind == "trade":
        trades = cast("list[Trade]", [arrival.event for arrival in arrivals])
        return [event.t for event in trades]
    if stream.kind == "aggTrade":
        joined = cast("list[AggTrade]", [arrival.event for arrival in arrivals])
        return [event.a for event in joined]
    return [number_of(stream, arrival.event) for arrival in arrivals]


def number_of(stream: Stream, event: Event) -> int:
    """The number of an event in its series; of a bar its place on the grid."""
    if isinstance(event, Trade):
        return event.t
    if isinstance(event, AggTrade):
        return event.a
    assert isinstance(event, Kline)
    assert stream.interval is not None
    length_us = INTERVALS[stream.interval]
    open_us = _micro(event.k.t)
    return month_ordinal(open_us) if length_us is None else open_us // length_us


def time_of(event: Event) -> int:
    """The event's own time, µs; of a bar when it begins."""
    if isinstance(event, Kline):
        return _micro(event.k.t)
    if isinstance(event, ForceOrder):
        return _micro(event.o.T)
    if isinstance(event, MarkPrice):
        return _micro(event.E)
    told = event.T
    if told is None:
        # Spot's best prices have no time at all; its changes of the book have that of sending.
        told = event.E
    return 0 if told is None else _micro(told)


def has_numbers(stream: Stream) -> bool:
    """Whether what is missing of the stream can be told by its messages."""
    return stream.kind not in ("bookTicker", "markPrice", "forceOrder")


def _without_numbers(arrivals: Sequence[Arrival], state: SeriesState) -> SeriesWork:
    work = SeriesWork(SeriesState(None, state.last_time_us))
    keys = [_key(arrival.event) for arrival in arrivals]
    every = dict.fromkeys(state.keys)
    if len(set(keys)) == len(keys) and every.keys().isdisjoint(keys):
        work.arrivals = list(arrivals)
        every.update(dict.fromkeys(keys))
    else:
        for key, arrival in zip(keys, arrivals, strict=True):
            if key in every:
                work.duplicates += 1
            else:
                every[key] = None
                work.arrivals.append(arrival)
    work.state.keys = list(every)[-RECENT_KEYS_MAX:]
    if work.arrivals:
        work.state.last_time_us = time_of(work.arrivals[-1].event)
    return work


def _key(event: Event) -> str:
    if isinstance(event, BookTicker):
        return f"{event.u} {event.T}"
    if isinstance(event, MarkPrice):
        return str(event.E)
    assert isinstance(event, ForceOrder)
    # There is no number: orders alike in everything are one, as in the archive's files.
    order = event.o
    return f"{order.T} {order.S} {order.q} {order.p} {order.ap} {order.X} {order.l} {order.z}"


def _range(event: Event) -> tuple[int, int]:
    assert isinstance(event, Depth)
    return (event.U - 1 if event.pu is None else event.pu), event.u


def _with_times(
    stream: Stream, released: Released[Arrival], before: SeriesState
) -> Iterator[SeriesGap]:
    items = released.items

    def begins(arrival: Arrival) -> int:
        if stream.kind == "depth":
            return _range(arrival.event)[0] + 1
        return number_of(stream, arrival.event)

    for gap in released.gaps:
        behind = bisect_right(items, gap.last, key=begins)
        before_us = time_of(items[behind - 1].event) if behind else before.last_time_us
        yield _gap(stream, gap, before_us, time_of(items[behind].event))


def _gap(stream: Stream, gap: Gap, before_us: int, behind_us: int) -> SeriesGap:
    missing = gap.last - gap.first + 1
    if stream.kind != "kline":
        return SeriesGap(gap.first, gap.last, before_us, behind_us, missing, gap.found_us)
    assert stream.interval is not None
    length_us = INTERVALS[stream.interval]
    start_us = (
        month_of(gap.first).start_us if length_us is None else behind_us - missing * length_us
    )
    return SeriesGap(None, None, start_us, behind_us, missing, gap.found_us)


def _micro(told: int) -> int:
    return told if told >= _MICROSECONDS_FROM else told * 1000
