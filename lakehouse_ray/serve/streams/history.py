"""What is stored, as it would have come: rows and gaps of all streams in the order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from lakehouse_ray.model.timespan import TimeRange, from_us, to_us
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.serve.streams.events import AFTER_ROW, BEFORE_ROW, Event, Series
from lakehouse_ray.serve.streams.reading import read_rows
from lakehouse_ray.serve.work import StoppableEngine


def history(
    engine: StoppableEngine,
    streams: Sequence[Series],
    pins: Mapping[str, Pin],
    gaps: Sequence[Event],
    within: TimeRange,
    due: TimeRange,
    rows_max: int | None,
) -> list[Event] | None:
    """The events due in a window, in order; None: more than rows_max.

    pins: Of the tables. gaps: All of the range. within: The times of rows that are replayed.
    """
    found = list(gaps)
    for series in streams:
        pin = pins[series.stream.table.name]
        rows = read_rows(engine, series, pin, due, rows_max, within=within)
        if rows is None:
            return None
        found += map(series.event, rows)
        if rows_max is not None and len(found) > len(gaps) + 2 * rows_max:
            return None
    return sorted(
        (event for event in found if due.start_us <= event.place[0] < due.end_us),
        key=lambda event: event.place,
    )


def gaps_of(lake: Lake, series: Series, start_us: int | None, end_us: int | None) -> list[Event]:
    """What is missing in a range, where it would have been due. Series without a rhythm have none.

    Raises UnavailableError where files cannot be read.
    """
    stream = series.stream
    found = lake.find_gaps(
        stream.market,
        stream.dataset.name,
        [stream.symbol],
        stream.interval,
        None if start_us is None else from_us(start_us),
        None if end_us is None else from_us(end_us),
    )
    length_us = INTERVALS[stream.interval] if stream.interval is not None else None
    made = []
    for row in found.rows.iter_rows(named=True):
        begin_us, until_us = to_us(row["start_time"]), to_us(row["end_time"])
        # A bar is due when it is over; of numbered rows the first missing one follows another.
        due_us = begin_us + length_us if length_us is not None else begin_us
        rank = BEFORE_ROW if stream.dataset.bars else AFTER_ROW
        body = {
            "e": "gap", "E": due_us // 1000, "s": stream.symbol, "start": begin_us // 1000,
            "end": until_us // 1000, "missing": row["missing"], "cause": row["cause"],
            "evidence": row["evidence"],
        }  # fmt: skip
        place = (due_us, stream.name, rank, begin_us)
        made.append(Event(place, stream.name, orjson.dumps(body), extra=True))
    return made
