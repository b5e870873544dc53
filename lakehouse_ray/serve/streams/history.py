"""What is stored, as it would have come: rows and gaps of all streams in the order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from lakehouse_ray.model.timespan import TimeRange, from_us, to_us
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pins import FindTable, Pin
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.serve.streams.events import AFTER_ROW, BEFORE_ROW, Event, Series
from lakehouse_ray.serve.streams.reading import Window, first_rows
from lakehouse_ray.serve.work import StoppableEngine


def history(
    engine: StoppableEngine,
    streams: Sequence[Series],
    pins: Mapping[str, Pin],
    gaps: Sequence[Event],
    within: TimeRange,
    due: TimeRange,
    rows_max: int | None,
) -> Window | None:
    """The events due at the beginning of a range; None: there are more than rows_max at once.

    pins: Of the tables. gaps: All of the range. within: The times of rows that are replayed.
    """
    until_us, rows = due.end_us, []
    for series in streams:
        left = TimeRange(due.start_us, until_us)
        own = {table.name: pins[table.name] for table in series.stream.tables}
        some, until_us = first_rows(engine, series, own, left, rows_max, within)
        rows += [(series, row) for row in some]
        if until_us <= due.start_us or (rows_max is not None and len(rows) > 2 * rows_max):
            return None
    chosen = [gap for gap in gaps if due.start_us <= gap.place[0] < until_us]
    for series, row in rows:
        # Of what is due elsewhere nothing is written.
        if due.start_us <= series.shape.moment(row) < until_us:
            chosen.append(series.event(row))
    return Window(sorted(chosen, key=lambda event: event.place), until_us)


class _PartlyUnreadError(Exception):
    """Holds what was found though some files cannot be read."""

    def __init__(self, found: tuple[Event, ...]) -> None:
        super().__init__(found)
        self.found = found


def gaps_of(
    engine: StoppableEngine,
    find: FindTable,
    alike: Sequence[Series],
    start_us: int | None,
    end_us: int | None,
) -> tuple[Event, ...]:
    """What is missing in a range, where it would have been due. Series without a rhythm have none.

    Kept as long as no table changes, since why rows are missing may be told by any; what was found
    without files that cannot be read is not kept.

    alike: Of one market, data set and interval.
    """
    pins = Lake(find, engine).pin(VIEWS.values())
    lake = Lake(lambda name: pins[name].table, engine)

    def make() -> tuple[Event, ...]:
        return _find_gaps(lake, alike, start_us, end_us)

    stream = alike[0].stream
    key = (
        "gaps of streams", stream.market, frozenset(series.stream.name for series in alike),
        start_us, end_us, frozenset((name, pin.snapshot_id) for name, pin in pins.items()),
    )  # fmt: skip
    try:
        if engine.kept is None:
            return make()
        return engine.kept.derived.get(key, make, engine.check)
    except _PartlyUnreadError as error:
        return error.found


def _find_gaps(
    lake: Lake, alike: Sequence[Series], start_us: int | None, end_us: int | None
) -> tuple[Event, ...]:
    by_symbol = {series.stream.symbol: series.stream for series in alike}
    first = alike[0].stream
    found = lake.find_gaps(
        first.market,
        first.dataset.name,
        list(by_symbol),
        first.interval,
        None if start_us is None else from_us(start_us),
        None if end_us is None else from_us(end_us),
    )
    length_us = INTERVALS[first.interval] if first.interval is not None else None
    # A bar is due when it is over; of numbered rows the first missing one follows another.
    rank = BEFORE_ROW if first.dataset.bars else AFTER_ROW
    made = []
    for row in found.rows.iter_rows(named=True):
        stream = by_symbol[row["symbol"]]
        begin_us, until_us = to_us(row["start_time"]), to_us(row["end_time"])
        due_us = begin_us + length_us if length_us is not None else begin_us
        body = {
            "e": "gap", "E": due_us // 1000, "s": stream.symbol, "start": begin_us // 1000,
            "end": until_us // 1000, "missing": row["missing"], "cause": row["cause"],
            "evidence": row["evidence"],
        }  # fmt: skip
        place = (due_us, stream.name, rank, begin_us)
        made.append(Event(place, stream.name, orjson.dumps(body), extra=True))
    if not found.whole:
        raise _PartlyUnreadError(tuple(made))
    return tuple(made)
