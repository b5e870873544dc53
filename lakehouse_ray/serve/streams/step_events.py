"""What a step changed, as events of streams; made once for all connections that have the stream alike."""

from __future__ import annotations

import orjson
import polars as pl

from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.model.timespan import to_us
from lakehouse_ray.query.step_rows import CAUSE, WAS, Wanted
from lakehouse_ray.query.steps import Step
from lakehouse_ray.serve.streams.courses import Changes
from lakehouse_ray.serve.streams.events import (
    AFTER_ROW,
    BEFORE_ROW,
    Event,
    Row,
    Series,
    correction,
)
from lakehouse_ray.serve.streams.names import Stream


def wanted_by(stream: Stream) -> Wanted:
    symbols = frozenset({stream.symbol})
    return Wanted(stream.dataset, stream.market, stream.interval, symbols)


def events_of(changes: Changes, step: Step, series: Series) -> list[Event]:
    """The events of a stream in a step, in their order."""
    key = series.stream.name, series.written
    known: list[Event] | None = changes.made.get(key)
    if known is None:
        found = changes.found[changes.places.get(series.stream.symbol, [])]
        gaps = step.moved is STREAM_GAPS
        known = _gaps(found, series) if gaps else _rows(found, step, series)
        known.sort(key=lambda event: event.place)
        changes.made[key] = known
    return known


def _rows(found: pl.DataFrame, step: Step, series: Series) -> list[Event]:
    if found.is_empty():
        return []
    committed_ms = step.committed_us // 1000
    rows = zip(found[CAUSE], _tuples(found, series, ""), _tuples(found, series, WAS), strict=True)
    events = []
    for cause, now, was in rows:
        if cause is None:
            events.append(series.event(now))
        elif cause == "late":
            events.append(correction(series, committed_ms, cause, None, now))
        elif cause == "removed":
            events.append(correction(series, committed_ms, cause, was, None))
        elif series.shape.write(was) != series.shape.write(now):
            events.append(correction(series, committed_ms, cause, was, now))
    return events


def _tuples(found: pl.DataFrame, series: Series, prefix: str) -> list[Row]:
    """Rows as the stream's shape takes them: times are microseconds."""
    schema, chosen = found.schema, []
    for name in series.shape.columns:
        column = pl.col(prefix + name)
        timed = isinstance(schema[prefix + name], pl.Datetime)
        chosen.append(column.dt.epoch("us") if timed else column)
    return found.select(chosen).rows()


def _gaps(found: pl.DataFrame, series: Series) -> list[Event]:
    """What a capture saw, in the shape of the gaps of a replay."""
    stream = series.stream
    rank = BEFORE_ROW if stream.dataset.bars else AFTER_ROW
    events = []
    for row in found.iter_rows(named=True):
        begin_us, until_us = to_us(row["start_time"]), to_us(row["end_time"])
        body = {
            "e": "gap", "E": to_us(row["found_at"]) // 1000, "s": stream.symbol,
            "start": begin_us // 1000, "end": until_us // 1000, "missing": row["missing"],
            "cause": "own_loss", "evidence": row["why"],
        }  # fmt: skip
        place = (begin_us, stream.name, rank, begin_us)
        events.append(Event(place, stream.name, orjson.dumps(body), extra=True))
    return events
