"""Small files of a partition written together: which ones, and the new file with the same rows.

Row groups are read in the order of what they hold, and only those that overlap are in memory at
once. Where a file's row groups hold one value each of the leading sort column (a symbol), so do those
of the new one, as bulk ingestion writes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.files import FileEntry, PartitionKey
from lakehouse_ray.storage.groups import DAMAGE, Footers, GroupReader, RowGroup, relative_path
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.parquet import TableWriter, to_rows

# Rows in memory at once; some 100 to 200 bytes each.
ROWS_AT_ONCE_MAX = 2_000_000
ROW_GROUP_ROWS_MAX = 1_000_000
# Before and after everything.
_ANY_TIME_US = 1 << 62


@dataclass(frozen=True)
class CompactionPolicy:
    """small_bytes: Files below this are small. files_min: So many small ones of a partition are worth
    it. task_bytes_max: Of the files that are written together."""

    small_bytes: int
    files_min: int
    task_bytes_max: int


@dataclass(frozen=True)
class CompactionTask:
    """Files of one partition that are to be one."""

    partition: PartitionKey
    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def plan_compaction(files: Iterable[FileEntry], policy: CompactionPolicy) -> list[CompactionTask]:
    """Say which files to write together. The neighbours in order of their leading column share one."""
    partitions: dict[PartitionKey, list[FileEntry]] = defaultdict(list)
    for file in files:
        if file.size_bytes < policy.small_bytes:
            partitions[file.region.partition].append(file)
    tasks: list[CompactionTask] = []
    for partition, small in partitions.items():
        if len(small) < policy.files_min:
            continue
        small.sort(key=lambda f: (f.region.lead_min, f.region.time_min_us, f.path))
        tasks += [
            CompactionTask(partition, tuple(batch))
            for batch in _batches(small, policy.task_bytes_max)
            if len(batch) > 1
        ]
    return tasks


def _batches(files: Sequence[FileEntry], bytes_max: int) -> Iterator[list[FileEntry]]:
    batch: list[FileEntry] = []
    size_bytes = 0
    for file in files:
        if batch and size_bytes + file.size_bytes > bytes_max:
            yield batch
            batch, size_bytes = [], 0
        batch.append(file)
        size_bytes += file.size_bytes
    if batch:
        yield batch


def compact(
    store: ObjectStore, table: Table, task: CompactionTask
) -> tuple[tuple[FileEntry, ...], tuple[DataFile, ...]]:
    """Write the rows of a task's files together; return the files read, and those written.

    Some of the task's files may be left out: those that lack a column which is younger than they
    are, and those whose rows would not fit into memory. Nothing is written for fewer than two.

    Raises BadDataError where a file is damaged, LakehouseError where the store does not answer.
    """
    files = tuple(file for file in task.files if _has_all_columns(store, table, file))
    groups = Footers(store).groups(table, files)
    large = {
        group.path
        for batch in _together(table, groups)
        if sum(group.rows for group in batch) > ROWS_AT_ONCE_MAX
        for group in batch
    }
    files = tuple(file for file in files if file.path not in large)
    if len(files) < 2:
        return (), ()
    groups = [group for group in groups if group.path not in large]
    single = all(group.region.lead_min == group.region.lead_max for group in groups)
    rows = 0
    with (
        GroupReader(store) as reader,
        TableWriter(table, store, task.partition) as writer,
    ):
        for batch in _together(table, groups):
            frame = pl.concat([_read(reader, table, group) for group in batch])
            frame = frame.sort(table.sort, maintain_order=True)
            rows += frame.height
            parts = frame.partition_by(table.sort[0], maintain_order=True) if single else [frame]
            for part in parts:
                for piece in part.iter_slices(ROW_GROUP_ROWS_MAX):
                    writer.write(to_rows(table, piece))
        wanted = sum(file.rows for file in files)
        if rows != wanted:
            # Leaving with an error takes away what was written.
            raise BadDataError(
                "FILE_DAMAGED", f"{table.name}: {wanted:,} rows by its metadata, {rows:,} in files"
            )
    return files, writer.files


def _together(table: Table, groups: Sequence[RowGroup]) -> Iterator[list[RowGroup]]:
    """Row groups whose rows may lie between each other's, in the order of the table."""
    by_time = table.sort[1:2] == (table.time,)
    batch: list[RowGroup] = []
    end = ("", 0)
    for group in sorted(groups, key=lambda g: (*_start(g, by_time), g.path, g.number)):
        if batch and _start(group, by_time) > end:
            yield batch
            batch = []
        end = max(end, _end(group, by_time)) if batch else _end(group, by_time)
        batch.append(group)
    if batch:
        yield batch


def _start(group: RowGroup, by_time: bool) -> tuple[str, int]:
    region = group.region
    # Rows of several values, or in another order, lie anywhere in time.
    bounded = by_time and region.lead_min == region.lead_max
    return region.lead_min, region.time_min_us if bounded else -_ANY_TIME_US


def _end(group: RowGroup, by_time: bool) -> tuple[str, int]:
    region = group.region
    bounded = by_time and region.lead_min == region.lead_max
    return region.lead_max, region.time_max_us if bounded else _ANY_TIME_US


def _read(reader: GroupReader, table: Table, group: RowGroup) -> pl.DataFrame:
    try:
        return reader.read(table, group, table.names)
    except DAMAGE as error:
        raise reader.lost(group, error) from error


def _has_all_columns(store: ObjectStore, table: Table, file: FileEntry) -> bool:
    path = relative_path(store, file.path)
    try:
        schema = pq.read_schema(store.locate(path), filesystem=store.filesystem)
    except OSError as error:
        raise explain(error, f"reading {path}") from error
    except ValueError as error:
        raise BadDataError("FILE_DAMAGED", f"{path} cannot be read ({error})") from error
    return set(schema.names) >= set(table.names)
