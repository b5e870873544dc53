"""Footers of data files, kept: with one at hand, a row group is read without asking what is where.

A data file is never changed under its name, so that what is kept cannot be stale.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse_ray.model.table import ColumnType, Table
from lakehouse_ray.storage.objects import ObjectStore

# Of columns as we write them.
ARROW_TYPES: Mapping[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "long": pa.int64(),
    "int": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
}

# In memory a footer takes about this many times its bytes in the file.
_UNFOLDED = 10
BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One row group: the bounds of its leading sort column and of its time, both inclusive."""

    number: int
    lead_min: str
    lead_max: str
    time_min_us: int
    time_max_us: int
    rows: int


@dataclass(frozen=True)
class Footer:
    """names, types: Of the file's columns, by field id.

    parts: None where the file does not tell bounds of each row group, or not as we write them.
    """

    metadata: pq.FileMetaData
    names: Mapping[int, str]
    types: Mapping[int, pa.DataType]
    parts: tuple[Part, ...] | None


class KeptFooters:
    """For several threads. Forgets the least lately used."""

    def __init__(self, store: ObjectStore, bytes_max: int = BYTES_MAX) -> None:
        self._store = store
        self._bytes_max = bytes_max
        self._kept: OrderedDict[str, Footer] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, table: Table, path: str) -> Footer:
        """path: In the store's file system.

        Raises OSError, or pa.ArrowException for what is no Parquet file.
        """
        with self._lock:
            known = self._kept.get(path)
            if known is not None:
                self._kept.move_to_end(path)
                return known
        with pq.ParquetFile(path, filesystem=self._store.filesystem) as file:
            footer = _read(table, file)
        with self._lock:
            if path not in self._kept:
                self._kept[path] = footer
                self._bytes += _size(footer)
            while self._bytes > self._bytes_max and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._bytes -= _size(old)
        return footer


def _size(footer: Footer) -> int:
    return _UNFOLDED * int(footer.metadata.serialized_size)


def _read(table: Table, file: pq.ParquetFile) -> Footer:
    names, types = {}, {}
    for field in file.schema_arrow:
        number = (field.metadata or {}).get(b"PARQUET:field_id")
        if number is not None:
            names[int(number)] = field.name
            types[int(number)] = field.type
    return Footer(file.metadata, names, types, _parts(table, file.metadata, names, types))


def _parts(
    table: Table,
    metadata: pq.FileMetaData,
    names: Mapping[int, str],
    types: Mapping[int, pa.DataType],
) -> tuple[Part, ...] | None:
    lead_id = 1 + table.names.index(table.sort[0])
    time_id = 1 + table.names.index(table.time)
    # Raw bounds are in the file's own unit.
    if types.get(time_id) != pa.timestamp("us", "UTC") or lead_id not in names:
        return None
    places = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
    lead, time = places[names[lead_id]], places[names[time_id]]
    parts = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        leads, times = group.column(lead).statistics, group.column(time).statistics
        told = (s is not None and s.has_min_max and s.null_count == 0 for s in (leads, times))
        if not all(told):
            return None
        parts.append(
            Part(number, leads.min, leads.max, times.min_raw, times.max_raw, group.num_rows)
        )
    return tuple(parts)
