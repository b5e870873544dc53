"""Row groups: the smallest parts of a table that can be found and read by themselves.

A file says in its footer what each of its row groups may hold. In tables that are sorted by it, a
row group mostly has one value of the leading sort column; logs are the exception.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from lakehouse_ray.errors import BadDataError, NotFoundError, UnavailableError
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import to_us
from lakehouse_ray.storage.files import FileEntry, Region
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.objects import ObjectStore, explain

# Footers read at once: most of the time goes to waiting where the store is remote.
FOOTERS_AT_ONCE = 16
# Files that a reader keeps open.
OPEN_FILES_MAX = 32
# Rows that a reader keeps: what is asked for in neighbouring pieces (a year's row group for each
# of its months) is read once.
ROWS_KEPT_MAX = 150_000

# What reading raises where a file is gone (NotFoundError is one of these) or damaged.
DAMAGE = (UnavailableError, ValueError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of one file.

    region: Where its rows lie; the partition is that of the file.
    size_bytes: On disk, about.
    lost: Why nothing is known of the file but what the table says of it; then this stands for all of
        its row groups, and `region` is the file's.
    """

    table: str
    path: str
    number: int
    region: Region
    rows: int
    size_bytes: int
    lost: BadDataError | None = None

    @property
    def name(self) -> str:
        """Names its rows: files never change. The same wherever the lake's root is."""
        return f"{self.path.rpartition('/')[2]}#{self.number}"


class Footers:
    """The row groups of files. Keeps what it has read: a few hundred bytes for each.

    tolerant: A file that is gone or damaged is one `RowGroup.lost`; else it raises.
    """

    def __init__(self, store: ObjectStore, *, tolerant: bool = False) -> None:
        self._store = store
        self._tolerant = tolerant
        self._known: dict[str, tuple[RowGroup, ...]] = {}

    def groups(self, table: Table, entries: Iterable[FileEntry]) -> list[RowGroup]:
        """Return every row group of these files of a table."""
        entries = list(entries)
        missing = [entry for entry in entries if entry.path not in self._known]
        if missing:
            with ThreadPoolExecutor(min(FOOTERS_AT_ONCE, len(missing))) as threads:
                found = threads.map(lambda entry: self._read(table, entry), missing)
                for entry, groups in zip(missing, found, strict=True):
                    self._known[entry.path] = groups
        return [group for entry in entries for group in self._known[entry.path]]

    def _read(self, table: Table, entry: FileEntry) -> tuple[RowGroup, ...]:
        if not self._tolerant:
            return _row_groups(self._store, table, entry)
        try:
            return _row_groups(self._store, table, entry)
        except (*DAMAGE, AttributeError) as error:  # the last: no statistics
            lost = lost_file(self._store, entry.path, error)
            return (RowGroup(table.name, entry.path, -1, entry.region, entry.rows, 0, lost),)


def lost_file(store: ObjectStore, path: str, error: Exception) -> BadDataError:
    """Say that a file cannot be read, and what to do about it.

    error: One of `DAMAGE`.
    Raises UnavailableError where it is the store that does not answer.
    """
    name = relative_path(store, path)
    advice = "put it back, or ingest (build) its table again as `lakehouse verify --deep` tells"
    if isinstance(error, NotFoundError) or not store.exists(name):
        return BadDataError("FILE_GONE", f"{name} is gone; {advice}")
    return BadDataError("FILE_DAMAGED", f"{name} cannot be read; {advice} ({error})")


def _row_groups(store: ObjectStore, table: Table, entry: FileEntry) -> tuple[RowGroup, ...]:
    try:
        with pq.ParquetFile(_locate(store, entry.path), filesystem=store.filesystem) as file:
            metadata = file.metadata
    except OSError as error:
        raise explain(error, f"reading {entry.path}") from error
    names = [metadata.schema.column(i).name for i in range(metadata.num_columns)]
    lead, time = names.index(table.sort[0]), names.index(table.time)
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        leads, times = group.column(lead).statistics, group.column(time).statistics
        region = Region(
            entry.region.partition, leads.min, leads.max, _us(times.min), _us(times.max)
        )
        share = group.num_rows / max(1, metadata.num_rows)
        size_bytes = round(entry.size_bytes * share)
        found.append(RowGroup(table.name, entry.path, number, region, group.num_rows, size_bytes))
    return tuple(found)


class GroupReader:
    """Reads row groups. Keeps some files open, and the last rows; a context manager.

    Not for several threads.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._kept: OrderedDict[tuple[str, int, tuple[str, ...]], pl.DataFrame] = OrderedDict()

    def __enter__(self) -> GroupReader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._kept.clear()

    def read(self, table: Table, group: RowGroup, columns: Sequence[str]) -> pl.DataFrame:
        """Return columns of a row group, in the types of the table.

        A column that is younger than the file is null.
        """
        key = (group.path, group.number, tuple(columns))
        if key not in self._kept:
            self._kept[key] = self._read(table, group, columns)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(f.height for f in self._kept.values()) > ROWS_KEPT_MAX:
            self._kept.popitem(last=False)
        return self._kept[key]

    def lost(self, group: RowGroup, error: Exception) -> BadDataError:
        """Say that its file cannot be read. error: What `read` raised, see `lost_file`."""
        return lost_file(self._store, group.path, error)

    def _read(self, table: Table, group: RowGroup, columns: Sequence[str]) -> pl.DataFrame:
        file = self._open(group.path)
        there = [name for name in columns if name in file.schema_arrow.names]
        try:
            arrow = file.read_row_group(group.number, columns=there)
        except OSError as error:
            raise explain(error, f"reading {group.path}") from error
        frame = pl.from_arrow(arrow)
        assert isinstance(frame, pl.DataFrame)
        schema = frame_schema(table)
        lacking = [pl.lit(None, schema[name]).alias(name) for name in columns if name not in there]
        return frame.with_columns(lacking).select(columns).cast({n: schema[n] for n in columns})

    def _open(self, path: str) -> pq.ParquetFile:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        try:
            file = pq.ParquetFile(
                _locate(self._store, path),
                filesystem=self._store.filesystem,
                memory_map=False,
                # A flipped bit must not be written on, under a checksum that is right again.
                page_checksum_verification=True,
            )
        except OSError as error:
            raise explain(error, f"reading {path}") from error
        self._files[path] = file
        if len(self._files) > OPEN_FILES_MAX:
            self._files.popitem(last=False)[1].close()
        return file


def _locate(store: ObjectStore, path: str) -> str:
    return store.locate(relative_path(store, path))


def relative_path(store: ObjectStore, path: str) -> str:
    """From a file's name in a table to its path in the store."""
    return path.removeprefix("file://").removeprefix(f"{store.root}/")


def _us(value: Any) -> int:
    assert isinstance(value, datetime)
    return to_us(value)
