"""From finished work to snapshots, beside the work: what all pipelines share."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.live import LIVE_LOGS
from lakehouse_ray.model.table import Table
from lakehouse_ray.runtime.shared import shared, unshared
from lakehouse_ray.storage.committer import CommitRequest, Outcome
from lakehouse_ray.storage.groups import relative_path
from lakehouse_ray.telemetry.meter import add, observe, set_to
from lakehouse_ray.telemetry.metrics import COMMIT_QUEUE, COMMIT_SECONDS, COMMITS

B = TypeVar("B")

# How long a finished unit waits for others to share its snapshot.
COMMIT_INTERVAL_S = 5.0
# A wait without an end would not hear a signal.
_LISTEN_S = 0.5
# What is put between units: commit what there is; and then end.
_FLUSH, _END = "flush", "end"
# Asking again is how an unknown outcome is resolved.
ASKS_MAX = 5


class TableCommitter(Protocol):
    """`storage.committer.Committer`, or its proxy."""

    def commit(self, requests: Sequence[CommitRequest]) -> list[Outcome]: ...


class Committers:
    """One per table that a run writes, and how they are asked."""

    def __init__(self, writer: Writer, members: Mapping[str, TableCommitter]) -> None:
        self._writer = writer
        self._members = members

    def commit(self, table: Table, requests: Sequence[CommitRequest]) -> list[Outcome]:
        """Commit to a table. Asks again where the outcome is not known."""
        begun_s = time.monotonic()
        for attempt in range(1, ASKS_MAX + 1):
            try:
                outcomes = self._members[table.name].commit(requests)
            except UnavailableError:
                add(COMMITS, len(requests), table.name, "failed")
                if attempt == ASKS_MAX:
                    raise
                self._writer.clock.sleep(0.1 * 2**attempt)
                continue
            committed = sum(outcome.committed for outcome in outcomes)
            add(COMMITS, committed, table.name, "committed")
            add(COMMITS, len(outcomes) - committed, table.name, "conflict")
            observe(COMMIT_SECONDS, time.monotonic() - begun_s, table.name)
            return outcomes
        raise AssertionError("unreachable: the loop above returns or raises")

    def commit_sealed(self, units: Iterable[Sequence[tuple[Table, CommitRequest]]]) -> None:
        """Commit what units of work found of live rows, to the tables of `model.live`."""
        by_table: dict[Table, list[CommitRequest]] = {}
        for table, request in (pair for unit in units for pair in unit):
            by_table.setdefault(table, []).append(request)
        for table, requests in by_table.items():
            self.commit(table, requests)

    def forget(self, request: CommitRequest) -> None:
        """Delete the files of a request that lost against another writer's: they are nobody's."""
        store = self._writer.store
        for file in request.added:
            store.delete(relative_path(store, file.file_path))


class CommitterGroup:
    """The committers of a run in one place: three processes would cost two starts more."""

    def __init__(
        self, factories: dict[str, Callable[[], TableCommitter]], late: frozenset[str]
    ) -> None:
        """late: Tables that are opened, and made, when something is committed to them."""
        self._late = {name: make for name, make in factories.items() if name in late}
        self._committers = {n: make() for n, make in factories.items() if n not in late}

    def commit(self, table: str, requests: Sequence[CommitRequest]) -> list[Outcome]:
        if table not in self._committers:
            self._committers[table] = self._late[table]()
        return self._committers[table].commit(requests)


@dataclass(frozen=True)
class _MakeGroup:
    """Makes the group in the process that will hold it; pickles."""

    factories: dict[str, Callable[[], TableCommitter]]
    late: frozenset[str]

    def __call__(self) -> CommitterGroup:
        return CommitterGroup(self.factories, self.late)


@dataclass(frozen=True)
class _Member:
    """One table's committer in a group."""

    group: CommitterGroup
    table: str

    def commit(self, requests: Sequence[CommitRequest]) -> list[Outcome]:
        return self.group.commit(self.table, requests)


@contextmanager
def open_committers(
    writer: Writer, tables: Iterable[Table], run_id: str, *, local: bool
) -> Iterator[Committers]:
    """Start the committers of a run: in this process, or in an actor on this node.

    Tables of `model.live` are made when they get their first row: most lakes have no live rows.
    """
    shapes = {table.name: table for table in tables}
    late = frozenset(table.name for table in LIVE_LOGS)
    make = _MakeGroup({n: writer.committer_factory(s, run_id) for n, s in shapes.items()}, late)
    with (
        unshared(make, "commits") if local else shared(make, "commits", methods=("commit",))
    ) as group:
        yield Committers(writer, {name: _Member(group, name) for name in shapes})


class CommitQueue(Generic[B]):
    """Commits finished units of work in batches, in a thread of its own.

    commit: Commits a batch and returns what has to be done again, since another writer came first.
    batch_max: Units that share a snapshot at most.

    Leaving the context commits what is left. An error of the thread is raised by the next `put`,
    by `drain` or on leaving.
    """

    def __init__(self, commit: Callable[[list[B]], list[B]], batch_max: int) -> None:
        self._commit = commit
        self._batch_max = batch_max
        # Two batches may wait; then whoever puts waits too.
        self._waiting: queue.Queue[B | str] = queue.Queue(2 * batch_max)
        self._conflicts: list[B] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="commits", daemon=True)

    def __enter__(self) -> CommitQueue[B]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.put(_END)
        while self._thread.is_alive():
            self._thread.join(_LISTEN_S)
        if error is None and self._error is not None:
            raise self._error

    def put(self, built: B) -> None:
        """Hand over a finished unit."""
        self._check()
        self._waiting.put(built)
        set_to(COMMIT_QUEUE, self._waiting.unfinished_tasks)

    def drain(self) -> list[B]:
        """Wait until everything handed over is committed; return what has to be done again."""
        self._waiting.put(_FLUSH)
        with self._waiting.all_tasks_done:
            while self._waiting.unfinished_tasks:
                self._waiting.all_tasks_done.wait(_LISTEN_S)
        self._check()
        conflicts, self._conflicts = self._conflicts, []
        return conflicts

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        """Commit when a batch is full or its first unit has waited long enough."""
        ended = False
        while not ended:
            batch = self._gather()
            units = [built for built in batch if not isinstance(built, str)]
            ended = _END in batch
            try:
                if units and self._error is None:
                    self._conflicts += self._commit(units)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
                self._error = error
            finally:
                for _ in batch:
                    self._waiting.task_done()
                set_to(COMMIT_QUEUE, self._waiting.unfinished_tasks)

    def _gather(self) -> list[B | str]:
        """A snapshot costs some 70 ms of a CPU, so units share one as long as nobody waits."""
        batch = [self._waiting.get()]
        until_s = time.monotonic() + COMMIT_INTERVAL_S
        while len(batch) < self._batch_max and not isinstance(batch[-1], str):
            try:
                batch.append(self._waiting.get(timeout=max(0.0, until_s - time.monotonic())))
            except queue.Empty:
                break
        return batch
