"""What a commit brought to streams: rows that are new, and rows that are not what they were.

Only files that one of two versions has and the other has not are read. A merge writes old rows into
new files: they are in files of both sides, and are no news. So is a compaction as a whole.

Where there are live rows (docs/hot-tables.md), what a row is told by all tables of its data set: then
the rows of a range are read before and after. That they are folded is no news.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyiceberg.manifest import DataFile

from lakehouse_ray.model.timespan import DAY_US, TimeRange
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import Where, plan_files
from lakehouse_ray.query.step_rows import order_column
from lakehouse_ray.query.steps import Step
from lakehouse_ray.serve.streams.events import Event, Row, Series, correction
from lakehouse_ray.serve.streams.reading import Window, read_rows, rows_of, select, where_due
from lakehouse_ray.serve.work import StoppableEngine
from lakehouse_ray.storage.files import file_entry

# After everything that can be stored.
_LATEST_US = 230 * 366 * 86_400_000_000


@dataclass
class Change:
    """A table at two versions. committed_ms: When the later one was; 0: it has no rows.

    beside: The other tables of its data set, as they are in both.
    """

    before: Pin
    after: Pin
    committed_ms: int
    beside: Mapping[str, Pin] = field(default_factory=dict)
    # Of each stream, its last row of the earlier version at or after a moment: number or time.
    _last: dict[str, int] = field(default_factory=dict)

    def pins(self, series: Series, *, before: bool) -> dict[str, Pin]:
        """The stream's tables at either version, that of live rows first."""
        own = self.before if before else self.after
        every = {**self.beside, own.shape.name: own}
        return {table.name: every[table.name] for table in series.stream.tables}

    def has_live(self, engine: StoppableEngine, series: Series, due: TimeRange) -> bool:
        """Whether live rows have to do with a range: then only all rows tell what a row was."""
        if self.after.shape.live:
            return True
        where = where_due(series, due)
        return where is not None and any(
            engine.plan(pin, where)
            for pin in self.pins(series, before=False).values()
            if pin.shape.live
        )

    def files(
        self, engine: StoppableEngine, series: Series
    ) -> tuple[list[DataFile], list[DataFile]]:
        """The files that may hold rows of a stream and are in one version alone: gone, and new."""
        where = Where(series.stream.equal)
        manifests = engine.kept.manifests if engine.kept is not None else None
        old = {file.file_path: file for file in plan_files(self.before, where, manifests)}
        new = {file.file_path: file for file in plan_files(self.after, where, manifests)}
        gone = [file for path, file in old.items() if path not in new]
        return gone, [file for path, file in new.items() if path not in old]

    def span(self, files: Sequence[DataFile], reach_us: int) -> TimeRange | None:
        """When events of rows in these files are due; None: there are none."""
        table = self.after.table or self.before.table
        if not files or table is None:
            return None
        regions = [file_entry(self.after.shape, table.schema(), file).region for file in files]
        start_us = min(region.time_min_us for region in regions)
        return TimeRange(start_us, max(r.time_max_us for r in regions) + reach_us + 1)

    def is_late(self, engine: StoppableEngine, series: Series, row: Row) -> bool:
        """Whether the earlier version had a later row of the stream."""
        name, shape = series.stream.name, series.shape
        order = shape.columns.index(order_column(series.stream.dataset))
        if name not in self._last:
            # Rows are asked about in the order in which they are due: the first is the earliest.
            span = TimeRange(max(row[shape.time] - shape.reach_us, 0), _LATEST_US)
            where = Where(series.stream.equal, span)
            last = -1
            with select(engine, series, self.pins(series, before=True), where, None) as result:
                for batch in result.fetch_batches():
                    if batch.num_rows:
                        last = max(last, *(one[order] for one in rows_of(batch)))
            self._last[name] = last
        return int(row[order]) < self._last[name]


def change_of(step: Step) -> Change:
    pins = dict(step.after.pins)
    after = pins.pop(step.moved.name)
    before = step.before.pins[step.moved.name]
    return Change(before, after, step.committed_us // 1000, pins)


@dataclass(frozen=True)
class Touched:
    """The files of a stream that a commit changed."""

    series: Series
    gone: Sequence[DataFile]
    new: Sequence[DataFile]


def touched(
    engine: StoppableEngine, change: Change, streams: Sequence[Series]
) -> tuple[list[Touched], TimeRange | None]:
    """The streams whose files have changed, and when events of these files are due."""
    found = []
    spans: list[TimeRange] = []
    for series in streams:
        gone, new = change.files(engine, series)
        span = change.span([*gone, *new], series.shape.reach_us)
        if span is not None:
            found.append(Touched(series, gone, new))
            spans.append(span)
    if not spans:
        return [], None
    return found, TimeRange(min(s.start_us for s in spans), max(s.end_us for s in spans))


def changes(
    engine: StoppableEngine,
    change: Change,
    streams: Sequence[Touched],
    due: TimeRange,
    rows_max: int | None,
) -> Window | None:
    """The events of a range; None: more than rows_max rows have to be compared.

    A row that is new and due after all that there was is an event of the exchange. One that comes
    late, that changed or that is gone is a correction, which says what was and what is.
    """
    found: list[Event] = []
    for one in streams:
        series = one.series
        live = change.has_live(engine, series, due)
        pins = change.pins(series, before=True)
        old = read_rows(engine, series, pins, due, rows_max, files=None if live else one.gone)
        pins = change.pins(series, before=False)
        new = read_rows(engine, series, pins, due, rows_max, files=None if live else one.new)
        if old is None or new is None:
            return None
        found += _differences(engine, change, series, due, old, new)
        if rows_max is not None and len(found) > 2 * rows_max:
            return None
    return Window(sorted(found, key=lambda event: event.place), due.end_us)


def _differences(
    engine: StoppableEngine,
    change: Change,
    series: Series,
    due: TimeRange,
    old: list[Row],
    new: list[Row],
) -> list[Event]:
    shape = series.shape

    def by_key(rows: list[Row]) -> dict[tuple[Any, ...], Row]:
        # A number may come twice, on both sides of midnight.
        day = series.stream.dataset.key_within_day
        return {
            (row[shape.time] // DAY_US if day else 0, *(row[i] for i in shape.key)): row
            for row in rows
        }

    was, now = by_key(old), by_key(new)
    # The later row says when a pair is told of: an end that moved does not part it.
    pairs = [(series.place(now.get(key) or was[key]), key) for key in was.keys() | now.keys()]
    found: list[Event] = []
    committed_ms = change.committed_ms
    for place, key in sorted(pairs):
        if not due.start_us <= place[0] < due.end_us:
            continue
        before, after = was.get(key), now.get(key)
        if before is None:
            assert after is not None
            if change.is_late(engine, series, after):
                found.append(correction(series, committed_ms, "late", None, after))
            else:
                found.append(series.event(after))
        elif after is None:
            found.append(correction(series, committed_ms, "removed", before, None))
        elif _differ(before, after) and shape.write(before) != shape.write(after):
            found.append(correction(series, committed_ms, "changed", before, after))
    return found


def _differ(before: Row, after: Row) -> bool:
    """What was not known and is known now is no change."""
    return any(was is not None and was != now for was, now in zip(before, after, strict=True))
