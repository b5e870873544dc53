"""Files in a table's folder that nothing speaks of: found by what is live, and removed with a guard.

Live is what any snapshot of the table leads to (manifest lists, manifests, data files), its metadata
and that of before, and what belongs to snapshots that expired while readers may be at work.

A file that is not live now may be live in a moment: a run writes first and commits then. So young
files stay. And a run that slept for days must not commit what was swept meanwhile: a sweep first makes
a snapshot of its own, on top of the one that it looked at. A commit under way then fails, as after
any other, and the committer looks how old its files are: those that are older than what the sweep
takes are gone, or will be in a moment.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyarrow import fs as pafs
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    ValidationError,
)
from pyiceberg.io import FileIO
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Snapshot
from sqlalchemy.exc import SQLAlchemyError

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import BadDataError, UnavailableError
from lakehouse_ray.storage.catalog import (
    MAINTENANCE_PROPERTY,
    SWEPT_PROPERTY,
    explain_catalog,
    swept_before_us,
)
from lakehouse_ray.storage.entries import entries_of, manifests_of
from lakehouse_ray.storage.expiry import lately_expired
from lakehouse_ray.storage.groups import relative_path
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.paths import probe_path, table_folder

ATTEMPTS_MAX = 20
# As pyiceberg names them: 00012-<uuid>.metadata.json
_METADATA = re.compile(r"(\d+)-[^/]*\.metadata\.json(?:\.gz)?$|(\d+)-[^/]*\.gz\.metadata\.json$")


@dataclass(frozen=True)
class StoredFile:
    """path: Relative to the store's root."""

    path: str
    size_bytes: int
    modified_us: int


@dataclass(frozen=True)
class Guard:
    """What is left alone.

    age_us: Younger files. reader_us: Files of snapshots that expired since.
    store_ahead_us: How far the store's clock, which dates files, is ahead of this machine's.
    """

    age_us: int
    reader_us: int
    store_ahead_us: int = 0


@dataclass(frozen=True)
class Orphans:
    """What nothing speaks of in a table's folder.

    files: Those that may go. young: Those that have to wait.
    older_than_us: By the store's clock: files of nobody that are older go.
    """

    files: tuple[StoredFile, ...]
    young: int
    young_bytes: int
    older_than_us: int

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def find_orphans(
    store: ObjectStore, table: IcebergTable, guard: Guard, now_us: Callable[[], int]
) -> Orphans:
    """Find them. Changes nothing.

    Raises BadDataError where it cannot be told what is live: metadata cannot be read, the table
    lives elsewhere, or its folder has newer metadata than the catalog knows of.
    """
    name = ".".join(table.name())
    folder = table_folder(name)
    if relative_path(store, table.location()) != folder:
        raise BadDataError("LIVES_ELSEWHERE", f"{name} is kept at {table.location()}")
    # First what there is, then what is live: what is committed in between is live.
    oldest_us = now_us() + guard.store_ahead_us - guard.age_us
    stored = list(_stored(store, folder))
    try:
        table.refresh()
        # By their names, which no two files share: a path may be spelled in several ways.
        live = {path.rpartition("/")[2] for path in live_files(table, guard, now_us())}
    except SQLAlchemyError as error:
        raise explain_catalog(error, f"reading {name}") from error
    except (OSError, ValueError, ValidationError) as error:
        raise BadDataError("METADATA_UNREADABLE", f"metadata of {name}: {error}") from error
    found = [file for file in stored if file.path.rpartition("/")[2] not in live]
    _check_catalog(store, table, found, oldest_us)
    old = [file for file in found if file.modified_us < oldest_us]
    young = [file for file in found if file.modified_us >= oldest_us]
    return Orphans(
        tuple(sorted(old, key=lambda file: file.path)),
        len(young),
        sum(file.size_bytes for file in young),
        oldest_us,
    )


def live_files(table: IcebergTable, guard: Guard, now_us: int) -> Iterator[str]:
    """Every file that the table, or a reader of it, may need, as the table spells them."""
    metadata = table.metadata
    yield table.metadata_location
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (one.statistics_path for one in metadata.statistics)
    yield from (one.statistics_path for one in metadata.partition_statistics)
    lists = [snapshot.manifest_list for snapshot in metadata.snapshots]
    lately = lately_expired(metadata, (now_us - guard.reader_us) // 1000)
    seen: set[str] = set()
    for path in dict.fromkeys([*lists, *lately]):
        yield path
        yield from _of_snapshot(table.io, path, seen)


def _of_snapshot(io: FileIO, manifest_list: str, seen: set[str]) -> Iterator[str]:
    named = {"snapshot-id": 0, "timestamp-ms": 0, "manifest-list": manifest_list}
    snapshot = Snapshot.model_validate(named)
    for manifest in manifests_of(snapshot, io):
        if manifest.manifest_path in seen:
            continue
        seen.add(manifest.manifest_path)
        yield manifest.manifest_path
        for entry in entries_of(manifest, io):
            yield entry.data_file.file_path


def _stored(store: ObjectStore, folder: str) -> Iterator[StoredFile]:
    root = store.locate("").rstrip("/") + "/"
    selector = pafs.FileSelector(store.locate(folder), allow_not_found=True, recursive=True)
    try:
        for info in store.filesystem.get_file_info(selector):
            if info.type == pafs.FileType.File and info.mtime_ns is not None:
                path = info.path.removeprefix(root)
                yield StoredFile(path, info.size, info.mtime_ns // 1000)
    except OSError as error:
        raise explain(error, f"listing {folder}") from error


def _check_catalog(
    store: ObjectStore, table: IcebergTable, found: list[StoredFile], oldest_us: int
) -> None:
    """A catalog that was set back does not know what came later: nothing of it may be swept.

    One version more is a commit under way; old, it is what a killed run left between metadata and
    catalog, or all that came later. The next commit goes past it.
    """
    version = _version(table.metadata_location)
    newer = [
        file.path
        for file in found
        if file.path.endswith(".metadata.json")
        and (
            version is None
            or (_version(file.path) or 0) > version + (file.modified_us >= oldest_us)
        )
    ]
    if newer:
        raise BadDataError(
            "CATALOG_BEHIND",
            f"{newer[0]} is newer than what the catalog knows of: "
            f"{relative_path(store, table.metadata_location)}",
        )


def _version(path: str) -> int | None:
    found = _METADATA.search(path.rpartition("/")[2])
    return int(found.group(1) or found.group(2)) if found else None


def clock_ahead_us(store: ObjectStore, clock: Clock) -> int:
    """How far the store's clock is ahead of this machine's: it dates an object that is put there.

    Raises LakehouseError where the store does not answer.
    """
    path = probe_path(uuid.uuid4().hex)
    store.put(path, b"")
    now_us = clock.now_us()
    try:
        dated_ns = store.filesystem.get_file_info(store.locate(path)).mtime_ns
    except OSError as error:
        raise explain(error, f"looking at {path}") from error
    finally:
        store.delete(path)
    return 0 if dated_ns is None else dated_ns // 1000 - now_us


def _told(table: IcebergTable, found: Orphans) -> str:
    """What a committer has to know. Another sweep may still be at work by an earlier rule."""
    before = swept_before_us(table.properties.get(SWEPT_PROPERTY))
    return f"{max(before, found.older_than_us)}-{uuid.uuid4().hex}"


def sweep(
    store: ObjectStore,
    table: IcebergTable,
    guard: Guard,
    now_us: Callable[[], int],
    wait: Callable[[float], None],
) -> Orphans:
    """Remove what nothing speaks of; return what that was. Safe to repeat, and beside any writer.

    now_us: Of the clock; wait: of it too.
    Raises what `find_orphans` does, and UnavailableError where others keep coming first.
    """
    name = ".".join(table.name())
    for attempt in range(1, ATTEMPTS_MAX + 1):
        found = find_orphans(store, table, guard, now_us)
        if not found.files:
            return found
        try:
            # On top of what was looked at, or not at all.
            with table.transaction() as transaction:
                transaction.set_properties({SWEPT_PROPERTY: _told(table, found)})
                with transaction.update_snapshot(
                    snapshot_properties={MAINTENANCE_PROPERTY: "sweep"}
                ).merge_append():
                    pass  # nothing is appended
        except (CommitFailedException, CommitStateUnknownException):
            wait(min(2.0, 0.02 * 2**attempt))
            continue
        except SQLAlchemyError as error:
            raise explain_catalog(error, f"sweeping {name}") from error
        except OSError as error:
            raise explain(error, f"sweeping {name}") from error
        for file in found.files:
            store.delete(file.path)
        return found
    raise UnavailableError(f"sweep of {name}: other writers came first {ATTEMPTS_MAX} times")
