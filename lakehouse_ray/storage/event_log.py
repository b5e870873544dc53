"""A log to which several writers add in turn: each adds only to what it has seen.

Adding is refused where anybody else has added since. So whoever decides by what the log says has
decided by all of it, on whatever machine and by whatever clock.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl
from pyiceberg.manifest import DataFile

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.catalog import TableCatalog
from lakehouse_ray.storage.committer import CommitRequest, Outcome
from lakehouse_ray.storage.files import ANY, Region, data_files
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.groups import relative_path
from lakehouse_ray.storage.ledger import log_request, plain_rows
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.partitions import split_rows

# Sorts after every name.
_LAST = "\U0010ffff"


class Commits(Protocol):
    def commit(self, requests: Sequence[CommitRequest]) -> list[Outcome]: ...


@dataclass(frozen=True)
class Seen:
    """The log at a moment. rows: In the order of its `time`. files: That hold them."""

    rows: pl.DataFrame
    files: frozenset[str]


class EventLog:
    """One log, read again only where it has grown. Not safe for several threads."""

    def __init__(
        self, table: Table, catalog: TableCatalog, store: ObjectStore, committer: Commits
    ) -> None:
        self._table = table
        self._catalog = catalog
        self._store = store
        self._committer = committer
        self._parts: dict[str, pl.DataFrame] = {}
        self._snapshot_id: int | None = None
        self._seen = Seen(frame_schema(table).to_frame(), frozenset())

    def read(self) -> Seen:
        """Raises LakehouseError where catalog or store do not answer."""
        found = self._catalog.find(self._table.name)
        snapshot = found.current_snapshot() if found is not None else None
        if found is None or snapshot is None:
            return self._seen
        if snapshot.snapshot_id == self._snapshot_id:
            return self._seen
        try:
            paths = [file.file_path for file in data_files(found)]
        except OSError as error:
            raise explain(error, f"reading the metadata of {self._table.name}") from error
        self._parts = {
            path: part if (part := self._parts.get(path)) is not None else self._rows_of(path)
            for path in paths
        }
        empty = frame_schema(self._table).to_frame()
        rows = pl.concat([empty, *self._parts.values()]).sort(self._table.time, maintain_order=True)
        self._seen = Seen(rows, frozenset(paths))
        self._snapshot_id = snapshot.snapshot_id
        return self._seen

    def add(self, rows: Sequence[Mapping[str, object]], seen: Seen | None) -> bool:
        """Add rows (times in microseconds) in one step. Returns whether they are in the log now.

        seen: Add only where this is still all of it; None: whatever it is. Raises LakehouseError
        where no answer came; reading again then shows what became of it.
        """
        request = self._request(plain_rows(self._table, rows), seen)
        (outcome,) = self._committer.commit([request])
        if not outcome.committed:
            self._forget(request.added)
        return outcome.committed

    def _request(self, frame: pl.DataFrame, seen: Seen | None) -> CommitRequest:
        id_ = uuid.uuid4().hex
        added: tuple[DataFile, ...] = ()
        for partition, part in split_rows(self._table, frame):
            added += log_request(self._table, self._store, part, partition, id_).added
        if seen is None:
            return CommitRequest(id_, added)
        whole = Region((ANY,) * len(self._table.partitions), "", _LAST, -(1 << 62), 1 << 62)
        return CommitRequest(id_, added, regions=(whole,), seen=seen.files)

    def _forget(self, files: Sequence[DataFile]) -> None:
        for file in files:
            self._store.delete(relative_path(self._store, file.file_path))

    def _rows_of(self, path: str) -> pl.DataFrame:
        data = self._store.get(relative_path(self._store, path))
        try:
            frame = pl.read_parquet(io.BytesIO(data))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UnavailableError(f"{path} of {self._table.name} cannot be read") from error
        schema = frame_schema(self._table)
        # Files of before a column was declared do not have it.
        return frame.select(
            (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
            for name, kind in schema.items()
        )
