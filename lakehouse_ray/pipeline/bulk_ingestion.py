"""Workflow 1: from the archive to bronze and silver.

    listing + ledger -> plan -> units -> workers (fetch, decode, merge, write) -> commits -> ledger

Workers hand back descriptions of the files they wrote; one committer per table makes them visible.
What a unit says otherwise than live rows did, then its rows, its refusals, its ledger entries are
committed, in this order: whoever dies in between leaves work that is found done when it is repeated.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.assembly.logs import configure_logs
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.fetch import Fetcher
from lakehouse_ray.bronze.plan import FreqPolicy, Plan, make_units, plan_objects
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.live import LIVE_LOGS
from lakehouse_ray.model.venue import FREQS, Freq
from lakehouse_ray.model.work import ObjectResult, Unit
from lakehouse_ray.pipeline.commits import CommitQueue, Committers, open_committers
from lakehouse_ray.pipeline.execution import (
    CONFLICT_ROUNDS_MAX,
    allocation_for,
    check_store,
    concerns_all,
    open_executor,
    planning,
    store_marker,
)
from lakehouse_ray.pipeline.ingest_commits import IngestCommits
from lakehouse_ray.pipeline.measured import measures_of
from lakehouse_ray.pipeline.report import IngestReport, Observer, Silent
from lakehouse_ray.pipeline.run_measures import RunMeasures
from lakehouse_ray.runtime.allocator import Allocation, Workload
from lakehouse_ray.runtime.cluster import ClusterView
from lakehouse_ray.runtime.executor import Done, Executor
from lakehouse_ray.silver.build import SilverBuilder
from lakehouse_ray.silver.regions import regions_of
from lakehouse_ray.silver.unit_work import Built, span_of
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.storage.files import FileEntry, FileIndex, index_files
from lakehouse_ray.storage.ledger import latest_by_key, read_object_log
from lakehouse_ray.storage.paths import run_of_marker
from lakehouse_ray.telemetry.logs import at_work
from lakehouse_ray.telemetry.processes import cpu_seconds, rss_bytes_max


@dataclass(frozen=True)
class IngestRequest:
    """What to ingest. freq: `auto` takes monthly files for closed months and daily for the rest."""

    selection: Selection
    freq: FreqPolicy = "auto"

    @property
    def freqs(self) -> tuple[Freq, ...]:
        return FREQS if self.freq == "auto" else (self.freq,)


@dataclass(frozen=True)
class UnitTask:
    """A unit, and the files of its table that its rows may have to be merged with."""

    unit: Unit
    seen: tuple[FileEntry, ...]
    run_id: str


# What a worker hands back: the unit, and the most memory the worker has had, in bytes.
Result = tuple[Built, int]


class IngestWorker:
    """What a worker process has: a downloader, a builder, and as many lanes as it has CPUs."""

    def __init__(self, writer: Writer, lanes: int) -> None:
        settings = writer.settings.ingest
        self._clock = writer.clock
        self._fetcher = Fetcher(
            writer.archive,
            writer.store,
            writer.http_client,
            in_flight_max=settings.requests_in_flight,
            large_bytes=settings.large_object_bytes,
        )
        self._builder = SilverBuilder(
            writer.store,
            writer.decoder,
            DATASETS,
            csv_bytes_in_memory=settings.csv_bytes_in_memory,
        )
        # While one unit computes, the next one's downloads run beside it.
        self._lanes = threading.Semaphore(lanes)

    def close(self) -> None:
        self._fetcher.close()

    def process(self, task: UnitTask) -> Built:
        unit = task.unit
        raw = self._fetcher.fetch([o for o in unit.objects if o.role != "candidate"])
        with self._lanes:
            return self._builder.build(
                unit,
                raw,
                task.seen,
                self._fetcher.fetch,
                run_id=task.run_id,
                now_us=self._clock.now_us(),
            )


@dataclass(frozen=True)
class _Setup:
    """Makes a worker's component; pickles."""

    writer: Writer
    lanes: int
    marker: str

    def __call__(self) -> IngestWorker:
        check_store(self.writer, self.marker)
        configure_logs(self.writer.settings, run_id=run_of_marker(self.marker) or "")
        return IngestWorker(self.writer, self.lanes)


def _process(worker: IngestWorker, task: UnitTask) -> Result:
    with at_work("unit", unit=task.unit.id, symbols=",".join(task.unit.symbols)):
        return worker.process(task), rss_bytes_max()


def plan_ingestion(
    writer: Writer, request: IngestRequest, observer: Observer | None = None
) -> Plan:
    """List the archive, read the ledger, and say what is missing. Writes nothing."""
    selection = request.selection
    freqs = selection.dataset.archive.get(selection.market, ())
    if not set(freqs) & set(request.freqs):
        raise InvalidError(
            f"the archive has no {request.freq} {selection.dataset.name} of {selection.market}",
            f"it has {', '.join(freqs) or 'none'}",
        )
    listing = writer.archive.list_objects(selection, request.freqs, (observer or Silent()).listing)
    log = read_object_log(
        writer.catalog, selection.market, selection.dataset.name, selection.interval
    )
    return plan_objects(
        selection.dataset,
        selection.market,
        selection.interval,
        listing.objects,
        latest_by_key(log),
        freq=request.freq,
        decoder_version=writer.decoder.version,
        attempts_max=writer.settings.ingest.quarantine_attempts_max,
        now_us=writer.clock.now_us(),
        unrecognised=listing.unrecognised,
    )


def allocate_ingestion(writer: Writer, plan: Plan, view: ClusterView) -> Allocation:
    """Choose executor, workers and unit size for a plan."""
    return allocation_for(
        writer,
        Workload(
            kind="ingest",
            files=plan.todo.height,
            compressed_bytes=plan.compressed_bytes,
            units=plan.todo.select(pl.struct("symbol", "_month").n_unique()).item() or 1,
            unit_bytes_max=writer.settings.ingest.unit_bytes_max,
            cost=plan.dataset.cost,
        ),
        view,
    )


def ingest(
    writer: Writer, request: IngestRequest, observer: Observer | None = None
) -> IngestReport:
    """Bring silver up to what the archive has; running it again changes nothing.

    Raises LakehouseError for what concerns the whole run (disk full, no permission, listing out of
    reach); what concerns single objects is in the report.
    """
    observer = observer or Silent()
    started_s = time.monotonic()
    selection = request.selection
    report = IngestReport(
        run_id=f"{writer.clock.now_us():x}-{uuid.uuid4().hex[:8]}",
        market=selection.market,
        dataset=selection.dataset.name,
        interval=selection.interval,
    )
    measures = measures_of("ingest", report, writer.clock)
    with measures, ExitStack() as stack:
        with planning(writer, measures):
            plan = plan_ingestion(writer, request, observer)
        run = _Run(writer, plan, observer, report, measures)
        executor, allocation = open_executor(
            writer,
            lambda view: allocate_ingestion(writer, plan, view),
            stack, "ingest", measures,
            f"{selection.market} {selection.dataset.name} {selection.interval or ''}".rstrip(),
        )  # fmt: skip
        observer.planned(plan, allocation)
        run.execute(executor, allocation, local=allocation.executor == "local")
    report.seconds = time.monotonic() - started_s
    return report


class _Run:
    """The state of one run."""

    def __init__(
        self,
        writer: Writer,
        plan: Plan,
        observer: Observer,
        report: IngestReport,
        measures: RunMeasures,
    ) -> None:
        self._writer = writer
        self._plan = plan
        self._observer = observer
        self._table = plan.dataset.table(plan.interval)
        self._run_id = report.run_id
        self._measures = measures
        self.report = report
        report.skipped, report.left_alone = plan.skipped, plan.left_alone
        report.unrecognised = len(plan.unrecognised)

    def execute(self, executor: Executor, allocation: Allocation, *, local: bool) -> None:
        plan, report = self._plan, self.report
        report.executor, report.actors = allocation.executor, allocation.actors
        if plan.todo.is_empty() and plan.sightings.is_empty():
            return
        before_s = time.monotonic()
        settings = self._writer.settings.ingest
        spec = allocation.spec(
            attempts_max=settings.unit_attempts_max, deadline_s=settings.unit_deadline_s
        )
        lanes = max(1, int(allocation.cpus_per_actor))
        with ExitStack() as stack:
            committers = stack.enter_context(self._committers(local))
            commits = IngestCommits(
                self._writer, committers, plan, self._run_id, report, self._committed
            )
            queue = stack.enter_context(CommitQueue(commits.commit, settings.units_per_commit))
            if not plan.sightings.is_empty():
                commits.note_sightings(plan.sightings)
            if plan.todo.is_empty():
                return
            marker = stack.enter_context(store_marker(self._writer, self._run_id))
            setup = _Setup(self._writer, lanes, marker)
            pool = stack.enter_context(executor.pool(setup, _process, spec))
            report.start_seconds = time.monotonic() - before_s
            self._observer.started(report.start_seconds)
            work_started_s, cpu_before_s = time.monotonic(), cpu_seconds()
            units: Iterator[Unit] | Sequence[Unit] = make_units(
                plan,
                bytes_max=allocation.batch_bytes,
                decoder_version=self._writer.decoder.version,
            )
            for _ in range(CONFLICT_ROUNDS_MAX):
                for done in pool.map_unordered(self._tasks(units)):
                    self._take(done, queue)
                units = [built.unit for built in queue.drain()]
                if not units:
                    break
            for unit in units:
                self._give_up(unit, "CONFLICT", "other writers kept coming first")
            stats = pool.stats()
            report.workers_lost, report.requeued = stats.workers_lost, stats.requeued
            report.decisions = stats.decisions
            report.work_seconds = time.monotonic() - work_started_s
            report.work_cpu_seconds = cpu_seconds() - cpu_before_s
            report.driver_rss_bytes_max = rss_bytes_max()

    def _committers(self, local: bool) -> AbstractContextManager[Committers]:
        tables = (self._table, QUARANTINE, OBJECT_LOG, *LIVE_LOGS)
        return open_committers(self._writer, tables, self._run_id, local=local)

    def _tasks(self, units: Iterator[Unit] | Sequence[Unit]) -> Iterator[UnitTask]:
        index = index_files(self._table, self._writer.catalog.find(self._table.name))
        for unit in units:
            yield UnitTask(unit, self._seen(unit, index), self._run_id)

    def _seen(self, unit: Unit, index: FileIndex) -> tuple[FileEntry, ...]:
        span = span_of(self._plan.dataset, unit)
        regions = regions_of(self._table, unit.market, unit.interval, unit.symbols, span)
        found = {e.path: e for region in regions for e in index.overlapping(region)}
        return tuple(found.values())

    def _take(self, done: Done[UnitTask, Result], queue: CommitQueue[Built]) -> None:
        if done.error is not None:
            if concerns_all(done.error):
                raise done.error
            self._give_up(done.task.unit, type(done.error).__name__, str(done.error))
            return
        assert done.result is not None
        built, worker_rss_bytes = done.result
        self.report.worker_rss_bytes_max = max(self.report.worker_rss_bytes_max, worker_rss_bytes)
        queue.put(built)

    def _give_up(self, unit: Unit, reason: str, detail: str) -> None:
        for task in unit.objects:
            self.report.count(ObjectResult(task, "failed", reason=reason, detail=detail))
        self._advanced(len(unit.objects))

    def _committed(self, built: Built) -> None:
        self._advanced(len(built.unit.objects))

    def _advanced(self, objects: int) -> None:
        self._measures.advanced()
        self._observer.advanced(self.report, objects)
