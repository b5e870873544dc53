"""Manifests that have been read, kept: the same few are asked by every question for a symbol.

A manifest lists data files of a table, and is never changed under its name: what is kept cannot be
stale, only unused.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyiceberg.conversions import from_bytes
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.types import IntegerType, StringType, TimestamptzType

from lakehouse_ray.model.table import Partition, Table
from lakehouse_ray.model.timespan import DAY_US, TimeRange, month_ordinal
from lakehouse_ray.storage.entries import entries_of, manifests_of
from lakehouse_ray.storage.schemas import bucket_of

# About 2 kB each: bounds, sizes and counts of some columns.
ENTRIES_MAX = 20_000
# Of snapshots; a kB or so for each of their manifests.
LISTS_MAX = 32


# The least and the largest value; None: any.
_Bounds = tuple[object, object] | None


@dataclass(frozen=True, slots=True)
class _File:
    """A data file by what it may hold. bounds: Of each field of the partition, then of the leading
    sort column and of the time."""

    bounds: tuple[_Bounds, ...]
    file: DataFile


@dataclass(frozen=True, slots=True)
class _Manifest:
    """bounds: Of each field of its files' partitions; None: it is not of this lake's kind."""

    bounds: tuple[_Bounds, ...] | None
    manifest: ManifestFile


class Manifests:
    """The data files of snapshots. For several threads."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._entries = 0
        self._kept: OrderedDict[str, list[_File]] = OrderedDict()
        self._lists: OrderedDict[str, list[_Manifest]] = OrderedDict()
        self._lock = threading.Lock()

    def files(
        self,
        shape: Table,
        table: IcebergTable,
        snapshot_id: int,
        equal: Sequence[Mapping[str, str]],
        span: TimeRange | None,
    ) -> list[DataFile] | None:
        """The files of a snapshot that may hold rows with one of these sets of values, and times.

        What pyiceberg's own planning finds; it takes some ms to put a question into its terms.
        None: the table has manifests that this lake does not write, and pyiceberg has to plan.

        Raises OSError where metadata cannot be read.
        """
        snapshot = table.snapshot_by_id(snapshot_id)
        assert snapshot is not None
        asked = _asked(shape, equal, span)
        found: list[DataFile] = []
        for one in self._list(shape, snapshot, table.io):
            if one.bounds is None:
                return None
            # What else is asked is of files.
            near = [each for each in asked if all(map(_meet, each.bounds, one.bounds))]
            if near:
                found += [
                    file.file
                    for file in self._read(shape, one.manifest, table.io)
                    if any(each.may_be_in(file) for each in near)
                ]
        return found

    def difference(
        self,
        shape: Table,
        old: IcebergTable,
        before: int | None,
        new: IcebergTable,
        after: int | None,
    ) -> tuple[list[DataFile], list[DataFile]]:
        """Files that one of two snapshots has and the other has not: gone, and new.

        Of what commits left alone not even the manifests are read. None: a state without rows.
        old, new: The table as it was found at either time.

        Raises OSError where metadata cannot be read.
        """
        earlier, later = self._own(shape, old, before), self._own(shape, new, after)
        was = self._apart(shape, earlier, later, old.io)
        now = self._apart(shape, later, earlier, new.io)
        gone = [file for path, file in was.items() if path not in now]
        return gone, [file for path, file in now.items() if path not in was]

    def _own(
        self, shape: Table, table: IcebergTable, snapshot_id: int | None
    ) -> dict[str, ManifestFile]:
        if snapshot_id is None:
            return {}
        snapshot = table.snapshot_by_id(snapshot_id)
        assert snapshot is not None
        found = self._list(shape, snapshot, table.io)
        return {one.manifest.manifest_path: one.manifest for one in found}

    def _apart(
        self,
        shape: Table,
        own: Mapping[str, ManifestFile],
        other: Mapping[str, ManifestFile],
        io: FileIO,
    ) -> dict[str, DataFile]:
        """Files of the manifests that the other one has not, by path."""
        manifests = [manifest for path, manifest in own.items() if path not in other]
        read = (one.file for manifest in manifests for one in self._read(shape, manifest, io))
        return {file.file_path: file for file in read}

    def _list(self, shape: Table, snapshot: Snapshot, io: FileIO) -> list[_Manifest]:
        with self._lock:
            known = self._lists.get(snapshot.manifest_list)
            if known is not None:
                self._lists.move_to_end(snapshot.manifest_list)
                return known
        found = [_Manifest(_told(shape, one), one) for one in manifests_of(snapshot, io)]
        with self._lock:
            self._lists[snapshot.manifest_list] = found
            if len(self._lists) > LISTS_MAX:
                self._lists.popitem(last=False)
        return found

    def _read(self, shape: Table, manifest: ManifestFile, io: FileIO) -> list[_File]:
        path = manifest.manifest_path
        with self._lock:
            known = self._kept.get(path)
            if known is not None:
                self._kept.move_to_end(path)
                return known
        entries = entries_of(manifest, io)
        found = [_file(shape, entry.data_file) for entry in entries]
        with self._lock:
            if path not in self._kept:
                self._kept[path] = found
                self._entries += len(found)
            while self._entries > self._entries_max:
                _, old = self._kept.popitem(last=False)
                self._entries -= len(old)
        return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """Sets of values that lie in the same partitions. bounds: Of each field, then of the time.

    leads: Values of the leading sort column, sorted; None: any.
    """

    bounds: tuple[_Bounds, ...]
    leads: list[str] | None

    def may_be_in(self, file: _File) -> bool:
        *bounds, lead, time = file.bounds
        if not all(map(_meet, self.bounds, (*bounds, time))):
            return False
        if self.leads is None or lead is None:
            return True
        least, most = map(str, lead)
        at = bisect_left(self.leads, least)
        return at < len(self.leads) and self.leads[at] <= most


def _asked(
    table: Table, equal: Sequence[Mapping[str, str]], span: TimeRange | None
) -> list[_Asked]:
    time = None if span is None else (span.start_us, span.end_us - 1)
    groups: dict[tuple[_Bounds, ...], list[str] | None] = {}
    for values in equal:
        bounds = (*(_wanted(partition, values, span) for partition in table.partitions), time)
        lead = values.get(table.sort[0])
        leads = groups.setdefault(bounds, [])
        if lead is None:
            groups[bounds] = None
        elif leads is not None:
            leads.append(lead)
    return [
        _Asked(bounds, None if leads is None else sorted(leads)) for bounds, leads in groups.items()
    ]


def _wanted(partition: Partition, equal: Mapping[str, str], span: TimeRange | None) -> _Bounds:
    if partition.transform == "identity" or partition.transform == "bucket16":
        value = equal.get(partition.column)
        if value is None:
            return None
        key: object = value if partition.transform == "identity" else bucket_of(value)
        return key, key
    if span is None:
        return None
    return _ordinal(partition, span.start_us), _ordinal(partition, span.end_us - 1)


def _ordinal(partition: Partition, us: int) -> int:
    """Days, months or years since 1970."""
    if partition.transform == "day":
        return us // DAY_US
    months = month_ordinal(us)
    return months if partition.transform == "month" else months // 12


def _told(table: Table, manifest: ManifestFile) -> tuple[_Bounds, ...] | None:
    told = manifest.partitions or []
    foreign = manifest.content != ManifestContent.DATA or manifest.partition_spec_id != 0
    if foreign or len(told) != len(table.partitions):
        return None
    return tuple(
        _bounds(partition, one.lower_bound, one.upper_bound)
        for partition, one in zip(table.partitions, told, strict=True)
    )


def _bounds(partition: Partition, lower: bytes | None, upper: bytes | None) -> _Bounds:
    if lower is None or upper is None:
        return None
    kind = StringType() if partition.transform == "identity" else IntegerType()
    return from_bytes(kind, lower), from_bytes(kind, upper)


def _file(table: Table, file: DataFile) -> _File:
    lead, time = 1 + table.names.index(table.sort[0]), 1 + table.names.index(table.time)
    lower, upper = file.lower_bounds or {}, file.upper_bounds or {}
    bounds: list[_Bounds] = []
    for i in range(len(table.partitions)):
        value = file.partition[i]
        bounds.append(None if value is None else (value, value))
    for number, kind in ((lead, StringType()), (time, TimestamptzType())):
        told = number in lower and number in upper
        bounds.append(
            (from_bytes(kind, lower[number]), from_bytes(kind, upper[number])) if told else None
        )
    return _File(tuple(bounds), file)


def _meet(one: _Bounds, other: _Bounds) -> bool:
    if one is None or other is None:
        return True
    return bool(one[0] <= other[1] and other[0] <= one[1])  # type: ignore[operator]
