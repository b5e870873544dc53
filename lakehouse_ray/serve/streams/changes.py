"""What a commit brought to streams: rows that are new, and rows that are not what they were.

Only files that one of two versions has and the other has not are read. A merge writes old rows into
new files: they are in files of both sides, and are no news. So is a compaction as a whole.

Where there are live rows (docs/hot-tables.md), what a row is told by all tables of its data set: then
the rows of a range are read before and after. That they are folded is no news.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import orjson
from pyiceberg.manifest import DataFile

from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.query.pins import FindTable, Pin
from lakehouse_ray.query.scan import Where, plan_files
from lakehouse_ray.query.versions import FixedTables, spell_versions
from lakehouse_ray.serve.streams.events import Event, Row, Series
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
    # Of each stream, when the last event of the earlier version at or after a moment was due.
    _last_us: dict[str, int] = field(default_factory=dict)

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
        """Whether the earlier version had a row of the stream that was due then or afterwards."""
        name, shape = series.stream.name, series.shape
        if name not in self._last_us:
            # Rows are asked about in the order in which they are due: the first is the earliest.
            span = TimeRange(max(row[shape.time] - shape.reach_us, 0), _LATEST_US)
            where = Where(series.stream.equal, span)
            last_us = -1
            with select(engine, series, self.pins(series, before=True), where, None) as result:
                for batch in result.fetch_batches():
                    if batch.num_rows:
                        last_us = max(
                            last_us, shape.moment(rows_of(batch.slice(batch.num_rows - 1))[0])
                        )
            self._last_us[name] = last_us
        return shape.moment(row) <= self._last_us[name]


def change_of(
    find: FindTable,
    shape: Table,
    before: int | None,
    after: int | None,
    beside: Mapping[Table, int | None] = MappingProxyType({}),
) -> Change:
    """A table between two versions of it; None: it had no rows.

    beside: Versions of the other tables of its data set.

    Raises ExpiredError for one that is not kept any more.
    """
    pins = []
    for version in (before, after):
        fixed = FixedTables(find, [shape], spell_versions({shape.name: version}))
        pins.append(Pin(shape, fixed.find(shape.name), version))
    table = pins[1].table
    snapshot = table.current_snapshot() if table is not None else None
    others = {}
    for other, version in beside.items():
        fixed = FixedTables(find, [other], spell_versions({other.name: version}))
        others[other.name] = Pin(other, fixed.find(other.name), version)
    committed_ms = snapshot.timestamp_ms if snapshot is not None else 0
    return Change(pins[0], pins[1], committed_ms, others)


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
        # A number may come twice, on both sides of midnight: the time belongs to the key.
        return {(row[shape.time], *(row[i] for i in shape.key)): row for row in rows}

    was, now = by_key(old), by_key(new)
    # The later row says when a pair is told of: an end that moved does not part it.
    pairs = [(series.place(now.get(key) or was[key]), key) for key in was.keys() | now.keys()]
    found: list[Event] = []
    for place, key in sorted(pairs):
        if not due.start_us <= place[0] < due.end_us:
            continue
        before, after = was.get(key), now.get(key)
        if before is None:
            assert after is not None
            if change.is_late(engine, series, after):
                found.append(_correction(change, series, "late", None, after))
            else:
                found.append(series.event(after))
        elif after is None:
            found.append(_correction(change, series, "removed", before, None))
        elif shape.write(before) != shape.write(after):
            found.append(_correction(change, series, "changed", before, after))
    return found


def _correction(
    change: Change, series: Series, cause: str, before: Row | None, after: Row | None
) -> Event:
    row = after if after is not None else before
    assert row is not None
    body = {
        "e": "correction", "E": change.committed_ms, "s": series.stream.symbol, "cause": cause,
        "was": None if before is None else series.shape.write(before),
        "now": None if after is None else series.shape.write(after),
    }  # fmt: skip
    return Event(series.place(row), series.stream.name, orjson.dumps(body), extra=True)
