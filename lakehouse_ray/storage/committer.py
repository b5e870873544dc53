"""Turning written files into snapshots, one committer per table.

Requests say which files they add, which they remove, and which files they have *seen* in the
regions they write to. A request is committed only if, in the very snapshot that it changes, every
file it removes is still there and no file lies in its regions that it has not seen. Else another
writer was first: the request comes back as a conflict and is merged again by whoever knows how.
So two committers (of two runs, or of a run that was killed and its successor) are as safe as one,
only slower.

A request that is committed already is recognised by its id in a snapshot of this run, whatever
other runs have made of its files since. So asking twice is safe: that is how an unknown outcome is
resolved.

Files that were swept before they were committed, since the run slept for days, are a conflict, too:
their rows have to be written again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.update.snapshot import _OverwriteFiles
from sqlalchemy.exc import SQLAlchemyError

from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.catalog import (
    MAINTENANCE_PROPERTY,
    RUN_ID_PROPERTY,
    SWEPT_PROPERTY,
    CatalogAccess,
    TableCatalog,
    explain_catalog,
    swept_before_us,
)
from lakehouse_ray.storage.files import FileEntry, FileIndex, Region, data_files, file_entry
from lakehouse_ray.storage.objects import explain

ATTEMPTS_MAX = 20
UNIT_IDS_PROPERTY = "lakehouse.units"
# Ids of requests that are remembered of a table that is appended to without end: those of hours.
_DONE_MAX = 10_000


@dataclass(frozen=True)
class CommitRequest:
    """What one unit of work wants of one table.

    id: Of the unit; kept in the snapshot's summary. A run commits each id to a table once.
    regions: Where its rows lie. Empty for a log: appending to it conflicts with nothing.
    seen: Paths of the files in these regions whose rows have been taken into account.
    rewrites: The rows of `added` are those of `removed`, and nothing else.
    """

    id: str
    added: tuple[DataFile, ...]
    removed: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    seen: frozenset[str] = field(default_factory=frozenset)
    rewrites: bool = False

    @property
    def empty(self) -> bool:
        return not self.added and not self.removed


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    snapshot_id: Where its files became visible; None: a conflict, or nothing to do.
    sequence: Of that snapshot, or of the one in which there was nothing to do. Orders outcomes on
        one table, whoever asked for them; 0: of an empty table, or a conflict.
    """

    id: str
    committed: bool
    snapshot_id: int | None = None
    sequence: int = 0


class Committer:
    """The only writer of a table's snapshots in a run. Not safe for several threads."""

    def __init__(
        self,
        access: CatalogAccess,
        table: Table,
        run_id: str,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._shape = table
        self._run_id = run_id
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._catalog = TableCatalog(access)
        self._table: IcebergTable = self._catalog.open(table)
        self._index = FileIndex()
        # A table that is appended to every second has thousands of files, of which few are removed:
        # what Iceberg knows of each (10 KB) is looked up for those.
        self._appended = table.live or not table.key
        self._files: dict[str, DataFile] = {}
        self._indexed: int | None = None
        self._swept = self._table.properties.get(SWEPT_PROPERTY)
        self._done: dict[str, int] = {}  # snapshots of this run, by the ids they hold
        self._refresh()

    def snapshot_id(self) -> int | None:
        """The table's current snapshot, as this committer last saw it."""
        return self._indexed

    def commit(self, requests: Sequence[CommitRequest]) -> list[Outcome]:
        """Make the requests visible in one snapshot, except those that conflict.

        Safe to repeat. Raises UnavailableError where the catalog or the store does not answer, other
        writers keep coming first, or files of a log were swept before they were committed; what
        was committed is then found by asking again.
        """
        for attempt in range(1, ATTEMPTS_MAX + 1):
            outcomes, wanted = self._sort_out(requests)
            # A commit proves that what it was checked against is the table of now. A conflict, or
            # having nothing to do, does not: who asks may have seen more of the table than we.
            if any(outcome.snapshot_id is None for outcome in outcomes.values()) and self._moved():
                continue
            if not wanted:
                return [outcomes[request.id] for request in requests]
            try:
                snapshot_id = self._write_snapshot(wanted)
            except CommitFailedException:
                # Someone else moved the table between our check and our commit: look again.
                self._clock.sleep(self._rng.uniform(0, min(2.0, 0.02 * 2**attempt)))
                self._refresh()
                continue
            except CommitStateUnknownException:
                self._refresh()
                continue
            except (SQLAlchemyError, ConnectionError) as error:
                raise explain_catalog(error, f"committing to {self._shape.name}") from error
            except OSError as error:
                raise explain(error, f"committing to {self._shape.name}") from error
            for request in wanted:
                outcomes[request.id] = self._outcome(request, snapshot_id)
            return [outcomes[request.id] for request in requests]
        raise UnavailableError(
            f"commit to {self._shape.name}: other writers came first {ATTEMPTS_MAX} times"
        )

    def _sort_out(
        self, requests: Sequence[CommitRequest]
    ) -> tuple[dict[str, Outcome], list[CommitRequest]]:
        """Tell the requests that can be committed now from conflicts and from those done before."""
        outcomes: dict[str, Outcome] = {}
        wanted: list[CommitRequest] = []
        # What earlier requests of this batch add is as unseen as any other file.
        batch = FileIndex()
        gone: set[str] = set()
        schema = self._table.schema()
        for request in requests:
            added = [file.file_path for file in request.added]
            if request.id in self._done:
                outcomes[request.id] = self._outcome(request, self._done[request.id])
                continue
            if added and all(path in self._index for path in added):
                outcomes[request.id] = self._outcome(request, self._indexed)
                continue
            if self._conflicts(request, batch, gone):
                outcomes[request.id] = Outcome(request.id, False)
                continue
            if request.empty:
                # Nothing to write, because what was seen has it all: so that must still be there.
                now = self._outcome(request, self._indexed)
                outcomes[request.id] = replace(now, snapshot_id=None)
                continue
            wanted.append(request)
            gone.update(request.removed)
            if request.regions:
                for file in request.added:
                    batch.add(file_entry(self._shape, schema, file))
        return outcomes, wanted

    def _outcome(self, request: CommitRequest, snapshot_id: int | None) -> Outcome:
        snapshot = None if snapshot_id is None else self._table.snapshot_by_id(snapshot_id)
        sequence = (snapshot.sequence_number or 0) if snapshot else 0
        return Outcome(request.id, True, snapshot_id, sequence)

    def _conflicts(self, request: CommitRequest, batch: FileIndex, gone: set[str]) -> bool:
        if not self._stored(request):
            if not request.regions and not request.removed:
                # Nobody makes rows of a log anew; a run that is repeated does.
                raise UnavailableError(
                    f"files of {self._shape.name} were swept before they were committed: this run "
                    "slept for days. Run it again."
                )
            return True
        if any(path not in self._index or path in gone for path in request.removed):
            return True
        if any(path not in self._index and path not in batch for path in request.seen):
            return True
        return any(
            entry.path not in request.seen or entry.path in gone
            for region in request.regions
            for index in (self._index, batch)
            for entry in index.overlapping(region)
        )

    def _stored(self, request: CommitRequest) -> bool:
        """Whether its files are there, and stay: they are looked at where a sweep was since the start.

        One that is older than what the sweep takes may be there still, and gone in a moment.
        """
        swept = self._table.properties.get(SWEPT_PROPERTY)
        if swept == self._swept:
            return True
        oldest_us = swept_before_us(swept)
        try:
            return all(_dated_us(self._table.io, f.file_path) >= oldest_us for f in request.added)
        except OSError as error:
            raise explain(error, f"looking for files of {self._shape.name}") from error

    def _write_snapshot(self, requests: list[CommitRequest]) -> int:
        properties = {
            RUN_ID_PROPERTY: self._run_id,
            UNIT_IDS_PROPERTY: ",".join(request.id for request in requests),
        }
        if all(request.rewrites for request in requests):
            properties[MAINTENANCE_PROPERTY] = "compaction"
        removed = [path for request in requests for path in request.removed]
        added = [file for request in requests for file in request.added]
        with self._table.transaction() as transaction:
            update = transaction.update_snapshot(snapshot_properties=properties)
            # Both producers commit only on top of the snapshot that the check above looked at
            # (the table's property commit.retry.num-retries is 0): there is no blind rebase.
            producer = _thread_safe(update.overwrite()) if removed else update.merge_append()
            with producer:
                for file in self._data_files(removed):
                    producer.delete_data_file(file)
                for file in added:
                    producer.append_data_file(file)
        self._apply(added, removed)
        assert self._indexed is not None
        self._done.update({request.id: self._indexed for request in requests})
        while self._appended and len(self._done) > _DONE_MAX:
            del self._done[next(iter(self._done))]
        return self._indexed

    def _data_files(self, paths: Sequence[str]) -> list[DataFile]:
        if not self._appended or not paths:
            return [self._files[path] for path in paths]
        wanted = set(paths)
        return [file for file in data_files(self._table) if file.file_path in wanted]

    def _apply(self, added: list[DataFile], removed: list[str]) -> None:
        schema = self._table.schema()
        for path in removed:
            self._index.remove(path)
            self._files.pop(path, None)
        for file in added:
            self._remember(file, file_entry(self._shape, schema, file))
        snapshot = self._table.current_snapshot()
        self._indexed = snapshot.snapshot_id if snapshot else None

    def _moved(self) -> bool:
        """Refresh; whether there was anything new."""
        before = self._indexed
        self._refresh()
        return self._indexed != before

    def _refresh(self) -> None:
        """Read the table's files anew if it has moved."""
        try:
            self._table.refresh()
            snapshot = self._table.current_snapshot()
            current = snapshot.snapshot_id if snapshot else None
            if current == self._indexed:
                return
            self._index, self._files = FileIndex(), {}
            schema = self._table.schema()
            for file in data_files(self._table):
                self._remember(file, file_entry(self._shape, schema, file))
            self._indexed = current
            self._done = self._committed_ids()
        except SQLAlchemyError as error:
            raise explain_catalog(error, f"reading {self._shape.name}") from error
        except OSError as error:
            raise explain(error, f"reading the metadata of {self._shape.name}") from error

    def _committed_ids(self) -> dict[str, int]:
        return {
            unit_id: snapshot.snapshot_id
            for snapshot in self._table.metadata.snapshots
            if snapshot.summary and snapshot.summary.get(RUN_ID_PROPERTY) == self._run_id
            for unit_id in (snapshot.summary.get(UNIT_IDS_PROPERTY) or "").split(",")
        }

    def _remember(self, file: DataFile, entry: FileEntry) -> None:
        # Files just written know no spec id until they are read back; the table has one spec.
        if getattr(file, "_spec_id", None) is None:
            file.spec_id = self._table.spec().spec_id
        self._index.add(entry)
        if not self._appended:
            self._files[entry.path] = file


def _dated_us(io: FileIO, path: str) -> int:
    """When a file was written, by the store's clock; -1: there is none."""
    assert isinstance(io, PyArrowFileIO), "the lake's stores are pyarrow's"
    scheme, place, name = io.parse_location(path, io.properties)
    info = io.fs_by_scheme(scheme, place).get_file_info(name)
    return -1 if info.mtime_ns is None else int(info.mtime_ns) // 1000


def _thread_safe(producer: _OverwriteFiles) -> _OverwriteFiles:
    """Give each thread of a commit its own evaluator of manifests.

    PyIceberg 0.12 looks for the files to remove with one for all its threads, which keeps the
    bounds it is at in itself: a manifest judged by another's is passed over, and the commit fails
    with "Missing required files to delete".
    """
    make = producer._build_manifest_evaluator
    of_thread = threading.local()

    def evaluator(spec_id: int) -> Callable[[ManifestFile], bool]:
        def evaluate(manifest: ManifestFile) -> bool:
            made: dict[int, Callable[[ManifestFile], bool]] = of_thread.__dict__.setdefault(
                "made", {}
            )
            if spec_id not in made:
                made[spec_id] = make(spec_id)
            return made[spec_id](manifest)

        return evaluate

    producer._build_manifest_evaluator = evaluator  # type: ignore[method-assign]
    return producer
