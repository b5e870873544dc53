"""From finished units to snapshots, beside the work."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.plan import Plan
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.work import ObjectResult, Unit
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.runtime.shared import shared, unshared
from lakehouse_ray.silver.build import Built
from lakehouse_ray.storage.committer import CommitRequest, Outcome
from lakehouse_ray.storage.ledger import events, frame_schema, log_request

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


@dataclass(frozen=True)
class Committers:
    """One per table that a run writes."""

    silver: TableCommitter
    quarantine: TableCommitter
    objects: TableCommitter


class CommitterGroup:
    """The committers of a run in one place: three processes would cost two starts more."""

    def __init__(self, factories: dict[str, Callable[[], TableCommitter]]) -> None:
        self._committers = {name: make() for name, make in factories.items()}

    def commit(self, table: str, requests: Sequence[CommitRequest]) -> list[Outcome]:
        return self._committers[table].commit(requests)


@dataclass(frozen=True)
class _MakeGroup:
    """Makes the group in the process that will hold it; pickles."""

    factories: dict[str, Callable[[], TableCommitter]]

    def __call__(self) -> CommitterGroup:
        return CommitterGroup(self.factories)


@dataclass(frozen=True)
class _Member:
    """One table's committer in a group."""

    group: CommitterGroup
    table: str

    def commit(self, requests: Sequence[CommitRequest]) -> list[Outcome]:
        return self.group.commit(self.table, requests)


@contextmanager
def open_committers(
    writer: Writer, table: Table, run_id: str, *, local: bool
) -> Iterator[Committers]:
    """Start the committers of a run: in this process, or in an actor on this node."""
    shapes = (table, QUARANTINE, OBJECT_LOG)
    make = _MakeGroup({s.name: writer.committer_factory(s, run_id) for s in shapes})
    with (
        unshared(make, "commits") if local else shared(make, "commits", methods=("commit",))
    ) as group:
        yield Committers(*(_Member(group, shape.name) for shape in shapes))


class CommitQueue:
    """Commits finished units in batches, in a thread of its own.

    Leaving the context commits what is left. An error of the thread is raised by the next `put`,
    by `drain` or on leaving.
    """

    def __init__(
        self,
        writer: Writer,
        committers: Committers,
        plan: Plan,
        run_id: str,
        report: IngestReport,
        on_committed: Callable[[Built], None],
    ) -> None:
        self._writer = writer
        self._committers = committers
        self._plan = plan
        self._run_id = run_id
        self._report = report
        self._on_committed = on_committed
        self._batch_max = writer.settings.ingest.units_per_commit
        # Two batches may wait; then whoever puts waits too.
        self._waiting: queue.Queue[Built | str] = queue.Queue(2 * self._batch_max)
        self._conflicts: list[Unit] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="commits", daemon=True)

    def __enter__(self) -> CommitQueue:
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

    def put(self, built: Built) -> None:
        """Hand over a finished unit."""
        self._check()
        self._waiting.put(built)

    def drain(self) -> list[Unit]:
        """Wait until everything handed over is committed; return the units to be merged again."""
        self._waiting.put(_FLUSH)
        with self._waiting.all_tasks_done:
            while self._waiting.unfinished_tasks:
                self._waiting.all_tasks_done.wait(_LISTEN_S)
        self._check()
        conflicts, self._conflicts = self._conflicts, []
        self._report.conflicts += len(conflicts)
        return conflicts

    def note_sightings(self, objects: pl.DataFrame) -> None:
        """Write down that objects are still listed as they were."""
        now_us = self._writer.clock.now_us()
        schema = frame_schema(OBJECT_LOG)
        time = pl.Datetime("us", "UTC")
        rows = objects.select(
            pl.lit(self._plan.market).alias("market"),
            pl.lit(self._plan.dataset.name).alias("dataset"),
            "symbol",
            pl.lit(self._plan.interval, dtype=pl.String).alias("interval"),
            "freq",
            pl.col("period_start").cast(time),
            "key",
            pl.lit("").alias("url"),
            "etag",
            "checksum_etag",
            pl.col("last_modified").cast(time),
            "size",
            pl.col("built_sha256").alias("published_sha256"),
            pl.col("built_sha256").alias("sha256"),
            pl.col("built_version").alias("version"),
            pl.col("built_path").alias("path"),
            pl.lit("built").alias("state"),
            pl.lit(None, dtype=pl.String).alias("reason"),
            pl.lit(None, dtype=pl.String).alias("detail"),
            "days_short",
            pl.lit(None, dtype=pl.Int64).alias("rows"),
            pl.lit(None, dtype=pl.Int64).alias("rows_quarantined"),
            pl.col("built_decoder").alias("decoder_version"),
            pl.lit("sighting").alias("unit_id"),
            pl.lit(self._run_id).alias("run_id"),
            pl.lit(now_us).cast(time).alias("seen_at"),
            pl.lit(False).alias("fetched"),
        ).cast(schema)
        self._append_events(rows, f"{self._run_id}-sightings")

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        """Commit when a batch is full or its first unit has waited long enough."""
        ended = False
        while not ended:
            batch = self._gather()
            units = [built for built in batch if isinstance(built, Built)]
            ended = _END in batch
            try:
                if units and self._error is None:
                    self._commit(units)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
                self._error = error
            finally:
                for _ in batch:
                    self._waiting.task_done()

    def _gather(self) -> list[Built | str]:
        """A snapshot costs some 70 ms of a CPU, so units share one as long as nobody waits."""
        batch = [self._waiting.get()]
        until_s = time.monotonic() + COMMIT_INTERVAL_S
        while len(batch) < self._batch_max and not isinstance(batch[-1], str):
            try:
                batch.append(self._waiting.get(timeout=max(0.0, until_s - time.monotonic())))
            except queue.Empty:
                break
        return batch

    def _commit(self, batch: list[Built]) -> None:
        outcomes = self._ask(self._committers.silver, [built.silver for built in batch])
        committed = [b for b, o in zip(batch, outcomes, strict=True) if o.committed]
        for built, outcome in zip(batch, outcomes, strict=True):
            if not outcome.committed:
                self._forget_files(built)
                self._conflicts.append(built.unit)
        refusals = [b.quarantine for b in committed if not b.quarantine.empty]
        if refusals:
            self._ask(self._committers.quarantine, refusals)
        now_us = self._writer.clock.now_us()
        rows = [
            self._event(result, built.unit, now_us)
            for built in committed
            for result in built.results
            if result.state in ("built", "quarantined")
        ]
        if rows:
            self._append_events(events(rows), committed[0].unit.id)
        self._report.commits += 1
        for built in committed:
            self._report.rows += built.rows
            self._report.rows_replaced += built.rows_replaced
            self._report.conflicting(built.rows_conflicting, built.unit.objects[0].key)
            for result in built.results:
                self._report.count(result)
            self._on_committed(built)

    def _ask(self, committer: TableCommitter, requests: Sequence[CommitRequest]) -> list[Outcome]:
        for attempt in range(1, ASKS_MAX + 1):
            try:
                return committer.commit(requests)
            except UnavailableError:
                if attempt == ASKS_MAX:
                    raise
                self._writer.clock.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable: the loop above returns or raises")

    def _append_events(self, rows: pl.DataFrame, request_id: str) -> None:
        partition = (self._plan.market, self._plan.dataset.name)
        request = log_request(OBJECT_LOG, self._writer.store, rows, partition, request_id)
        self._ask(self._committers.objects, [request])

    def _forget_files(self, built: Built) -> None:
        """Files that lost against another writer's are nobody's."""
        root = self._writer.store.root
        for request in (built.silver, built.quarantine):
            for file in request.added:
                path = file.file_path.removeprefix("file://").removeprefix(f"{root}/")
                self._writer.store.delete(path)

    def _event(self, result: ObjectResult, unit: Unit, now_us: int) -> dict[str, object]:
        task = result.task
        return {
            "market": unit.market,
            "dataset": unit.dataset,
            "symbol": task.symbol,
            "interval": unit.interval,
            "freq": task.freq,
            "period_start": task.period.start_us,
            "key": task.key,
            "url": result.url,
            # Of the bytes received: where a cache gave old ones, the next listing tells so.
            "etag": result.etag,
            "checksum_etag": task.checksum_etag,
            "last_modified": result.last_modified_us,
            "size": result.size,
            "published_sha256": result.published_sha256 or None,
            "sha256": result.sha256 or None,
            "version": result.version or None,
            "path": result.path or None,
            "state": result.state,
            "reason": result.reason or None,
            "detail": result.detail[:1000] or None,
            "days_short": result.days_short or None,
            "rows": result.rows,
            "rows_quarantined": result.rows_quarantined,
            "decoder_version": self._writer.decoder.version,
            "unit_id": unit.id,
            "run_id": self._run_id,
            "seen_at": now_us,
            "fetched": task.role != "stored",
        }
