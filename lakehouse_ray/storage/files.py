"""The data files of one snapshot of a table, findable by what they may hold.

A merge must know which files can hold rows of the keys it brings. A file says so by its partition
and by the bounds of its leading sort column and of its time column.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.model.table import Table

PartitionKey = tuple[object, ...]


@dataclass(frozen=True)
class Region:
    """A part of a table: one partition, a range of the leading sort column, a range of times.

    All bounds are inclusive.
    """

    partition: PartitionKey
    lead_min: str
    lead_max: str
    time_min_us: int
    time_max_us: int

    def overlaps(self, other: Region) -> bool:
        return (
            self.partition == other.partition
            and self.lead_min <= other.lead_max
            and other.lead_min <= self.lead_max
            and self.time_min_us <= other.time_max_us
            and other.time_min_us <= self.time_max_us
        )


@dataclass(frozen=True)
class FileEntry:
    """One data file.

    path: As the table spells it (file:///… or s3://…).
    region: Where its rows lie.
    """

    path: str
    region: Region
    rows: int
    size_bytes: int


def file_entry(table: Table, schema: Schema, file: DataFile) -> FileEntry:
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

    def overlapping(self, region: Region) -> list[FileEntry]:
        """Files that may hold rows of the region, by path."""
        found = self._by_partition.get(region.partition, {}).values()
        return sorted(
            (entry for entry in found if entry.region.overlaps(region)), key=lambda e: e.path
        )


def data_files(table: IcebergTable, snapshot_id: int | None = None) -> Iterator[DataFile]:
    """Yield every live data file of a snapshot (the current one by default)."""
    snapshot = (
        table.current_snapshot() if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    )
    if snapshot is None:
        return
    for manifest in snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            yield entry.data_file


def index_files(shape: Table, table: IcebergTable | None) -> FileIndex:
    """Index the current snapshot; empty where there is no table yet."""
    if table is None:
        return FileIndex()
    schema = table.schema()
    return FileIndex(file_entry(shape, schema, file) for file in data_files(table))
