"""One stream of a segment: its events in order, each once, and what is missing between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_ray.kernels.continuity import Continuity, Gap, Released
from lakehouse_ray.model.timespan import month_of, month_ordinal
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.sources.binance.streams.names import Kind, Stream

# Keys of streams without numbers that are remembered from segment to segment: those of some seconds,
# while two connections overlap.
RECENT_KEYS_MAX = 2_000
# A number that was seen comes again so long after only if the exchange counts anew.
ANEW_AFTER_US = 10_000_000
_MICROSECONDS_FROM = 10**15
# Where an event's own time stands, of a bar when it begins.
_TIME: Mapping[Kind, str] = {
    "kline": "open_time",
    "aggTrade": "transact_time",
    "trade": "time",
    "bookTicker": "transaction_time",
    "forceOrder": "time",
    "markPrice": "event_time",
    "depth": "time",
}
_NUMBER: Mapping[Kind, str] = {"aggTrade": "agg_trade_id", "trade": "id", "depth": "last"}
Longs = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]


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
class Arrivals:
    """Events of one stream as they came.

    events: Columns of `sources.binance.streams.rows.event_frame`.
    received_us: When each came. record: Its place in the segment, from 0.
    changes: Of a book, the events themselves: their levels are in no column. Of others it is empty.
    """

    events: pl.DataFrame
    received_us: Longs
    record: Longs
    changes: Objects

    def __len__(self) -> int:
        return self.events.height

    def __getitem__(self, places: slice | Longs | npt.NDArray[np.bool_]) -> Arrivals:
        if isinstance(places, slice):
            start, end, _ = places.indices(len(self))
            events = self.events.slice(start, max(0, end - start))
        elif places.dtype == np.bool_:
            events = self.events.filter(places)
        else:
            events = self.events[places]
        changes = self.changes[places] if len(self.changes) else self.changes
        return Arrivals(events, self.received_us[places], self.record[places], changes)

    def __add__(self, other: Arrivals) -> Arrivals:
        return Arrivals(
            pl.concat([self.events, other.events]),
            np.concatenate((self.received_us, other.received_us)),
            np.concatenate((self.record, other.record)),
            np.concatenate((self.changes, other.changes)),
        )


@dataclass
class SeriesWork:
    """What a segment says of a stream.

    given: Events that are given out: in order, then what came late. waiting: Places of the segment's
        records that have to be looked at again with the next. anew: The numbers have begun anew.
    """

    state: SeriesState
    given: Arrivals
    late: int = 0
    gaps: list[SeriesGap] = field(default_factory=list)
    duplicates: int = 0
    waiting: list[int] = field(default_factory=list)
    anew: bool = False


def continue_series(
    stream: Stream,
    arrivals: Arrivals,
    state: SeriesState,
    *,
    wait_us: int,
    now_us: int,
) -> SeriesWork:
    """Go on with a stream behind `state`. Pure: the same segment gives the same work again.

    arrivals: In the order in which they came. now_us: When the segment ended.
    """
    if not has_numbers(stream):
        return _without_numbers(stream, arrivals, state)
    if stream.kind == "kline":
        arrivals = arrivals[arrivals.events["row"].to_numpy()]
    before, last = _covered(stream, arrivals.events)
    times = times_of(stream.kind, arrivals.events)
    start = _begins_anew(last, times, state)
    if start is not None:
        return _anew(stream, arrivals, start, state, wait_us=wait_us, now_us=now_us)
    series: Continuity[int] = Continuity(state.last, wait_us=wait_us, gaps=state.gaps)
    released = series.feed(before, last, range(len(arrivals)), arrivals.received_us)
    end = series.pass_time(now_us)
    whole = Released(
        released.items + end.items,
        released.late + end.late,
        released.gaps + end.gaps,
        released.duplicates + end.duplicates,
    )
    given = np.array(whole.items + whole.late, np.int64)
    in_order = np.array_equal(given, np.arange(len(arrivals)))
    work = SeriesWork(
        SeriesState(series.last, state.last_time_us, series.gaps),
        arrivals if in_order else arrivals[given],
    )
    if whole.gaps:
        work.gaps = list(
            _with_times(stream, whole.gaps, before[whole.items], times[whole.items], state)
        )
    work.late = len(whole.late)
    work.duplicates = whole.duplicates
    work.waiting = [int(arrivals.record[place]) for place in series.give_back()]
    if whole.items:
        work.state.last_time_us = int(times[whole.items[-1]])
    return work


def _begins_anew(numbers: Longs, times: Longs, state: SeriesState) -> int | None:
    """The first event that is behind the series by its number, and well ahead by its time."""
    if state.last is None:
        return None
    anew = (numbers <= state.last) & (times > state.last_time_us + ANEW_AFTER_US)
    return int(anew.argmax()) if anew.any() else None


def _anew(
    stream: Stream,
    arrivals: Arrivals,
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
    begins_us = int(times_of(stream.kind, arrivals.events)[start])
    between = SeriesGap(None, None, old.state.last_time_us, begins_us, None, now_us)
    new.gaps = [*old.gaps, between, *new.gaps]
    new.duplicates += old.duplicates
    new.anew = True
    # No book is made of changes on both sides.
    if stream.kind != "depth":
        new.given = old.given + new.given
        new.late += old.late
    return new


def _covered(stream: Stream, events: pl.DataFrame) -> tuple[Longs, Longs]:
    """The numbers that each event covers, `(before, last]`; of a bar its place on the grid."""
    if stream.kind == "depth":
        return events["before"].to_numpy(), events["last"].to_numpy()
    if stream.kind != "kline":
        last: Longs = events[_NUMBER[stream.kind]].to_numpy()
        return last - 1, last
    assert stream.interval is not None
    length_us = INTERVALS[stream.interval]
    opened = _micro(events["open_time"].to_numpy())
    if length_us is None:
        last = np.array([month_ordinal(int(us)) for us in opened], np.int64)
    else:
        last = opened // length_us
    return last - 1, last


def times_of(kind: Kind, events: pl.DataFrame) -> Longs:
    """The events' own times, µs; of bars when they begin."""
    told = events[_TIME[kind]]
    if told.has_nulls():
        # Spot's best prices have no time at all.
        told = events.select(pl.coalesce(_TIME[kind], "event_time", 0)).to_series()
    return _micro(told.to_numpy())


def has_numbers(stream: Stream) -> bool:
    """Whether what is missing of the stream can be told by its messages."""
    return stream.kind not in ("bookTicker", "markPrice", "forceOrder")


def _without_numbers(stream: Stream, arrivals: Arrivals, state: SeriesState) -> SeriesWork:
    keys = _keys(stream, arrivals.events)
    known = keys.is_in(pl.Series(state.keys, dtype=pl.String).implode())
    first = keys.is_first_distinct() & ~known
    given = arrivals if first.all() else arrivals[first.to_numpy()]
    work = SeriesWork(SeriesState(None, state.last_time_us), given)
    work.duplicates = len(arrivals) - len(given)
    if len(given):
        work.state.last_time_us = int(times_of(stream.kind, given.events[-1:])[0])
    latest = keys.filter(first).tail(RECENT_KEYS_MAX).to_list()
    work.state.keys = [*state.keys, *latest][-RECENT_KEYS_MAX:]
    return work


def _keys(stream: Stream, events: pl.DataFrame) -> pl.Series:
    """What tells the events of a stream without numbers apart."""
    if stream.kind == "bookTicker":
        time = pl.col("transaction_time").cast(pl.String).fill_null("None")
        return events.select(pl.concat_str("update_id", time, separator=" ")).to_series()
    if stream.kind == "markPrice":
        return events["event_time"].cast(pl.String)
    # There is no number: orders alike in everything are one, as in the archive's files.
    told = events.select(
        "time", "side", "original_quantity", "price", "average_price", "order_status",
        "last_fill_quantity", "accumulated_fill_quantity",
    )  # fmt: skip
    return pl.Series([" ".join(map(str, row)) for row in told.iter_rows()], dtype=pl.String)


def _with_times(
    stream: Stream, gaps: list[Gap], before: Longs, times: Longs, state: SeriesState
) -> Iterator[SeriesGap]:
    """before, times: Of the events that are given out in order."""
    for gap in gaps:
        behind = int(np.searchsorted(before, gap.last, side="left"))
        before_us = int(times[behind - 1]) if behind else state.last_time_us
        yield _gap(stream, gap, before_us, int(times[behind]))


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


def _micro(told: Longs) -> Longs:
    return np.where(told >= _MICROSECONDS_FROM, told, told * 1000)
