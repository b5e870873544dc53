"""Manifests that have been read, kept: the same few are asked by every question for a symbol.

A manifest lists data files of a table, and is never changed under its name: what is kept cannot be
stale, only unused.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from pyiceberg.expressions import BooleanExpression
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestEntry, ManifestFile
from pyiceberg.table import FileScanTask, ManifestGroupPlanner
from pyiceberg.table import Table as IcebergTable

# About 2 kB each: bounds, sizes and counts of some columns.
ENTRIES_MAX = 20_000
# Of snapshots; a kB or so for each of their manifests.
LISTS_MAX = 32


class Manifests:
    """Plans the files of snapshots. For several threads."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._entries = 0
        self._kept: OrderedDict[str, list[ManifestEntry]] = OrderedDict()
        self._lists: OrderedDict[str, list[ManifestFile]] = OrderedDict()
        self._lock = threading.Lock()

    def plan(
        self, table: IcebergTable, snapshot_id: int, row_filter: BooleanExpression
    ) -> Iterable[FileScanTask]:
        """The same as `table.scan(row_filter, snapshot_id=…).plan_files()`.

        Raises OSError where metadata cannot be read.
        """
        snapshot = table.snapshot_by_id(snapshot_id)
        assert snapshot is not None
        with self._lock:
            files = self._lists.get(snapshot.manifest_list)
        if files is None:
            files = snapshot.manifests(table.io)
            with self._lock:
                self._lists[snapshot.manifest_list] = files
                # Of one list to the next most of it is shared.
                if len(self._lists) > LISTS_MAX:
                    self._lists.popitem(last=False)
        planner = ManifestGroupPlanner(table.metadata, table.io, row_filter)
        return planner.plan_files([_Kept(file, self) for file in files])  # type: ignore[list-item]

    def entries(self, manifest: ManifestFile, io: FileIO) -> list[ManifestEntry]:
        """The live entries of a manifest; not to be changed."""
        path = manifest.manifest_path
        with self._lock:
            known = self._kept.get(path)
            if known is not None:
                self._kept.move_to_end(path)
                return known
        found = manifest.fetch_manifest_entry(io, discard_deleted=True)
        with self._lock:
            if path not in self._kept:
                self._kept[path] = found
                self._entries += len(found)
            while self._entries > self._entries_max:
                _, old = self._kept.popitem(last=False)
                self._entries -= len(old)
        return found


class _Kept:
    """A manifest whose entries are read once. To pyiceberg it is one like any other."""

    def __init__(self, manifest: ManifestFile, manifests: Manifests) -> None:
        self._manifest = manifest
        self._manifests = manifests

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manifest, name)

    def fetch_manifest_entry(self, io: FileIO, discard_deleted: bool = True) -> list[ManifestEntry]:
        assert discard_deleted
        return self._manifests.entries(self._manifest, io)
