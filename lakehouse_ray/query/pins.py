"""Which snapshot of each table a read sees: found once, before anything is read.

A read that touches several tables (a view over two, a join) sees one snapshot of each, however
many commits come meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import format_time, parse_time, to_us
from lakehouse_ray.storage.expiry import ends

# A snapshot id, or a time: ISO text or an aware datetime. None is now.
AsOf = int | str | datetime | None

FindTable = Callable[[str], IcebergTable | None]
# Those that are there, by name, as they were at one moment.
FindTables = Callable[[Collection[str]], Mapping[str, IcebergTable]]


@dataclass(frozen=True)
class Pin:
    """One table at one snapshot.

    table: None where the table does not exist yet.
    snapshot_id: None where it had no snapshot at that time: no rows.
    """

    shape: Table
    table: IcebergTable | None
    snapshot_id: int | None


def pin_tables(find: FindTable, shapes: Iterable[Table], as_of: AsOf = None) -> dict[str, Pin]:
    """Pin tables to what they are now, or to what they were at a time.

    as_of: With the id of a snapshot of one of them, the others are taken as they were when that
        snapshot was committed.

    Raises NotFoundError for a snapshot that none of the tables has, or has no longer.
    """
    # Live rows first: what leaves a live table is in the others by then.
    ordered = sorted(shapes, key=lambda shape: not shape.live)
    found = {shape.name: (shape, find(shape.name)) for shape in ordered}
    moment = _parse(as_of)
    if moment is None:
        return {name: Pin(shape, table, _current(table)) for name, (shape, table) in found.items()}
    pins: dict[str, Pin] = {}
    time_us = moment.time_us
    if moment.snapshot_id is not None:
        owner = _owner(found, moment.snapshot_id)
        pins[owner.shape.name] = owner
        snapshot = owner.table.snapshot_by_id(moment.snapshot_id) if owner.table else None
        assert snapshot is not None
        time_us = snapshot.timestamp_ms * 1000
    for name, (shape, table) in found.items():
        if name not in pins:
            pins[name] = Pin(shape, table, _at(shape, table, time_us))
    return pins


def _owner(found: Mapping[str, tuple[Table, IcebergTable | None]], snapshot_id: int) -> Pin:
    for shape, table in found.values():
        if table is not None and table.snapshot_by_id(snapshot_id) is not None:
            return Pin(shape, table, snapshot_id)
    raise NotFoundError(
        f"none of {', '.join(found) or 'the tables'} has a snapshot {snapshot_id}",
        "`lakehouse datasets --json` lists them; a time such as 2024-01-05T12:00 will do as well",
    )


@dataclass(frozen=True)
class _Moment:
    snapshot_id: int | None = None
    time_us: int = 0


def _parse(as_of: AsOf) -> _Moment | None:
    if as_of is None:
        return None
    if isinstance(as_of, datetime):
        if as_of.tzinfo is None:
            raise InvalidError(
                f"as_of {as_of} has no time zone", "datetime(…, tzinfo=UTC), or ISO text in UTC"
            )
        return _Moment(time_us=to_us(as_of))
    # Four digits are a year; snapshot ids are 63 random bits.
    if isinstance(as_of, int) or (as_of.strip().isdigit() and len(as_of.strip()) > 4):
        return _Moment(snapshot_id=int(as_of))
    return _Moment(time_us=parse_time(as_of))


def _current(table: IcebergTable | None) -> int | None:
    snapshot = table.current_snapshot() if table is not None else None
    return snapshot.snapshot_id if snapshot is not None else None


def _at(shape: Table, table: IcebergTable | None, time_us: int) -> int | None:
    if table is None:
        return None
    snapshot = table.snapshot_as_of_timestamp(time_us // 1000)
    if snapshot is not None:
        end_ms = ends(table.properties).get(snapshot.snapshot_id)
        if end_ms is not None and time_us // 1000 >= end_ms:
            if shape.live:
                return None
            raise NotFoundError(
                f"{shape.name} as of {format_time(time_us)} is not kept any more",
                f"its snapshot of {format_time(snapshot.timestamp_ms * 1000)} was replaced at "
                f"{format_time(end_ms * 1000)}, by one that has expired",
            )
        return snapshot.snapshot_id
    kept = min(table.snapshots(), key=lambda s: s.timestamp_ms, default=None)
    # Of a live table few are kept: rows of earlier moments are those of the other tables. A table's
    # first snapshot has the number 1.
    gone = kept is not None and (kept.parent_snapshot_id is not None or kept.sequence_number != 1)
    if kept is not None and gone and not shape.live:
        raise NotFoundError(
            f"{shape.name} as of {format_time(time_us)} is not kept any more",
            f"its oldest snapshot is of {format_time(kept.timestamp_ms * 1000)}",
        )
    return None
