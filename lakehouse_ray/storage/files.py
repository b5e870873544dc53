"""The data files of one snapshot of a table, findable by what they may hold.

A merge must know which files can hold rows of the keys it brings. A file says so by its partition
and by the bounds of its leading sort column and of its time column.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile, ManifestEntry
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.entries import entries_of, manifests_of

PartitionKey = tuple[object, ...]


class Wild(Enum):
    """In place of a value of a partition key: any."""

    ANY = "any"


ANY = Wild.ANY


@dataclass(frozen=True)
class Region:
    """A part of a table: one partition, a range of the leading sort column, a range of times.

    All bounds are inclusive. With ANY in its key it is a part of several partitions; what is asked
    about it, files, has none there.
    """

    partition: PartitionKey
    lead_min: str
    lead_max: str
    time_min_us: int
    time_max_us: int

    def overlaps(self, other: Region) -> bool:
        return (
            matches(self.partition, other.partition)
            and self.lead_min <= other.lead_max
            and other.lead_min <= self.lead_max
            and self.time_min_us <= other.time_max_us
            and other.time_min_us <= self.time_max_us
        )


def matches(pattern: PartitionKey, key: PartitionKey) -> bool:
    """Whether two keys are the same where neither has ANY."""
    return pattern == key or all(
        a == b or a is ANY or b is ANY for a, b in zip(pattern, key, strict=True)
    )


@dataclass(frozen=True)
class FileEntry:
    """One data file.

    path: As the table spells it (file:///… or s3://…).
    region: Where its rows lie.
    sequence: Of the snapshot that added it; 0: not known.
    """

    path: str
    region: Region
    rows: int
    size_bytes: int
    sequence: int = 0


def file_entry(table: Table, schema: Schema, file: DataFile, sequence: int = 0) -> FileEntry:
    """Read partition and bounds of a file from its entry in the table's metadata."""
    lead = schema.find_field(table.sort[0])
    time = schema.find_field(table.time)
    lower, upper = file.lower_bounds, file.upper_bounds
    partition = tuple(file.partition[i] for i in range(len(table.partitions)))
    return FileEntry(
        file.file_path,
        Region(
            partition,
            from_bytes(lead.field_type, lower[lead.field_id]),  # type: ignore[arg-type]
            from_bytes(lead.field_type, upper[lead.field_id]),  # type: ignore[arg-type]
            from_bytes(time.field_type, lower[time.field_id]),  # type: ignore[arg-type]
            from_bytes(time.field_type, upper[time.field_id]),  # type: ignore[arg-type]
        ),
        file.record_count,
        file.file_size_in_bytes,
        sequence,
    )


class FileIndex:
    """Files by partition. Mutable: the committer keeps one in step with its commits."""

    def __init__(self, entries: Iterable[FileEntry] = ()) -> None:
        self._by_partition: dict[PartitionKey, dict[str, FileEntry]] = defaultdict(dict)
        self._by_path: dict[str, FileEntry] = {}
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._by_path)

    def __contains__(self, path: str) -> bool:
        return path in self._by_path

    def __iter__(self) -> Iterator[FileEntry]:
        return iter(self._by_path.values())

    def add(self, entry: FileEntry) -> None:
        self._by_partition[entry.region.partition][entry.path] = entry
        self._by_path[entry.path] = entry

    def remove(self, path: str) -> None:
        entry = self._by_path.pop(path)
        del self._by_partition[entry.region.partition][path]

    def copy(self) -> FileIndex:
        return FileIndex(self)

    def entry(self, path: str) -> FileEntry:
        return self._by_path[path]

    def overlapping(self, region: Region) -> list[FileEntry]:
        """Files that may hold rows of the region, by path."""
        keys: Iterable[PartitionKey] = (region.partition,)
        if ANY in region.partition:
            keys = [key for key in self._by_partition if matches(region.partition, key)]
        return sorted(
            (
                entry
                for key in keys
                for entry in self._by_partition.get(key, {}).values()
                if entry.region.overlaps(region)
            ),
            key=lambda e: e.path,
        )


def data_files(table: IcebergTable, snapshot_id: int | None = None) -> Iterator[DataFile]:
    """Yield every live data file of a snapshot (the current one by default)."""
    return (entry.data_file for entry in _live(table, snapshot_id))


def _live(table: IcebergTable, snapshot_id: int | None) -> Iterator[ManifestEntry]:
    snapshot = (
        table.current_snapshot() if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    )
    if snapshot is None:
        return
    for manifest in manifests_of(snapshot, table.io):
        yield from entries_of(manifest, table.io)


def index_files(
    shape: Table, table: IcebergTable | None, snapshot_id: int | None = None
) -> FileIndex:
    """Index a snapshot, the current one by default; empty where there is no table yet."""
    if table is None:
        return FileIndex()
    schema = table.schema()
    return FileIndex(
        file_entry(shape, schema, entry.data_file, entry.sequence_number or 0)
        for entry in _live(table, snapshot_id)
    )
