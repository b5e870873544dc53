"""The rows of streams within a window of time, from pinned tables; and which window comes next.

Memory: a window has at most `WINDOW_ROWS` rows, however long the range and however many streams.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.manifest import DataFile

from lakehouse_ray.model.timespan import DAY_US, TimeRange
from lakehouse_ray.query.live import plan_live, sources_of
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import Where, empty_sql, quoted
from lakehouse_ray.query.statement import Result
from lakehouse_ray.query.straight import straight
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.serve.streams.events import Event, Row, Series
from lakehouse_ray.serve.work import StoppableEngine

# As events of 350 bytes some 2 MB; two windows are in memory for each connection.
WINDOW_ROWS = 5_000
_FIRST_WINDOW_US = DAY_US


@dataclass(frozen=True)
class Window:
    """events: In order, all that are due from where the window begins and before until_us."""

    events: list[Event]
    until_us: int


# Of a range its beginning, as far as so many rows go; None: less than a microsecond. None as the
# limit: all of it.
ReadWindow = Callable[[TimeRange, int | None], Awaitable[Window | None]]


async def windows(
    read: ReadWindow, span: TimeRange, rows_max: int = WINDOW_ROWS
) -> AsyncGenerator[list[Event], None]:
    """The events of a range, window by window; the next is read while one is used.

    Windows grow where there is little in them and shrink where there is too much.
    """
    at_us, width_us = span.start_us, _FIRST_WINDOW_US

    async def following() -> list[Event]:
        nonlocal at_us, width_us
        while at_us < span.end_us:
            until_us = min(at_us + width_us, span.end_us)
            # Nothing is shorter than a microsecond: all of one is read, whatever it has.
            limit = rows_max if until_us - at_us > 1 else None
            found = await read(TimeRange(at_us, until_us), limit)
            if found is None:
                width_us = max((until_us - at_us) // 8, 1)
                continue
            if found.until_us < until_us:
                width_us = found.until_us - at_us
            elif 4 * len(found.events) <= rows_max:
                width_us *= 4
            at_us = found.until_us
            if found.events:
                return found.events
        return []

    ahead = asyncio.ensure_future(following())
    try:
        while found := await ahead:
            ahead = asyncio.ensure_future(following())
            yield found
    finally:
        ahead.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await ahead


def read_rows(
    engine: StoppableEngine,
    series: Series,
    pins: Mapping[str, Pin],
    due: TimeRange,
    rows_max: int | None,
    *,
    files: Sequence[DataFile] | None,
) -> list[Row] | None:
    """The rows whose events may be due in a range, in order of their time; None: more than rows_max.

    pins: Of the stream's tables. files: Of its main table, all that is to be read; None: all that
        there is.
    """
    most = None if rows_max is None else rows_max + 1
    found = _read(engine, series, pins, due, most, files)
    return None if most is not None and len(found) >= most else found


def first_rows(
    engine: StoppableEngine,
    series: Series,
    pins: Mapping[str, Pin],
    due: TimeRange,
    rows_max: int | None,
    within: TimeRange,
) -> tuple[list[Row], int]:
    """The first rows whose events may be due in a range, and the time, µs, before which none that is
    due is left out.

    within: Only rows of these times.
    """
    most = None if rows_max is None else rows_max + 1
    found = _read(engine, series, pins, due, most, None, within)
    if most is None or len(found) < most:
        return found, due.end_us
    # No event is due before its row's time, and rows come in the order of theirs.
    return found, min(int(found[-1][series.shape.time]), due.end_us)


def _read(
    engine: StoppableEngine,
    series: Series,
    pins: Mapping[str, Pin],
    due: TimeRange,
    most: int | None,
    files: Sequence[DataFile] | None,
    within: TimeRange | None = None,
) -> list[Row]:
    where = where_due(series, due, within)
    if where is None:
        return []
    found: list[Row] = []
    with select(engine, series, pins, where, most, files) as result:
        for batch in result.fetch_batches():
            found += rows_of(batch)
    return found


def where_due(series: Series, due: TimeRange, within: TimeRange | None = None) -> Where | None:
    """The rows whose events may be due in a range; None: there can be none."""
    start_us, end_us = due.start_us - series.shape.reach_us, due.end_us
    if within is not None:
        start_us, end_us = max(start_us, within.start_us), min(end_us, within.end_us)
    start_us = max(start_us, 0)
    if start_us >= end_us:
        return None
    return Where(series.stream.equal, TimeRange(start_us, end_us))


def select(
    engine: StoppableEngine,
    series: Series,
    pins: Mapping[str, Pin],
    where: Where,
    rows_max: int | None,
    files: Sequence[DataFile] | None = None,
) -> Result:
    """The columns of a stream's shape, rows in order of their time.

    pins: Of its tables. files: Of its main table, if that alone is to be read.
    """
    stream, columns = series.stream, list(series.shape.columns)
    view, table = VIEWS[f"silver.{stream.dataset.view}"], stream.table
    if files is not None:
        pins = {table.name: pins[table.name]}
        planned: dict[str, Sequence[DataFile]] = {table.name: files}
    else:
        planned = dict(plan_live(pins, where, engine.plan))
    both = [(pin, planned[name]) for name, pin in pins.items()]
    found = straight(engine, view, pins, both, where, columns, rows_max)
    if found is not None:
        return found
    order = ", ".join(quoted(name) for name in table.sort if name != "symbol")
    query = (
        f"SELECT {', '.join(map(quoted, columns))} FROM {view.name} "
        f"WHERE {where.sql(table)} ORDER BY {order}"
    )
    if rows_max is not None:
        query += f" LIMIT {rows_max}"
    sources = {one.name: empty_sql(one) for one in view.tables}
    sources |= sources_of({name: pin.shape for name, pin in pins.items()}, planned, where)
    snapshots = {name: pin.snapshot_id for name, pin in pins.items()}
    return engine.run(query, [view], sources, None, snapshots)


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """Rows as tuples, times as microseconds."""
    return list(zip(*(_values(column) for column in batch.columns), strict=True))


def _values(column: pa.Array) -> list[object]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    found: list[object] = column.to_pylist()
    return found
