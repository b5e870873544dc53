"""Workflow 3: how good the data is, day by day, and why it is no better.

    lake (pinned) -> series -> those that changed -> tasks -> workers (read, hold, score, write)
    -> commits: findings, then the row that says what was assessed -> alerts

Whoever dies before a series' row leaves findings that nobody sees; the next run makes them again.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.alerts import Thresholds
from lakehouse_ray.model.assessment import LOGS, VERSION
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.pipeline.alerting import tell
from lakehouse_ray.pipeline.assessment_report import (
    AssessmentObserver,
    AssessmentReport,
    SilentAssessment,
)
from lakehouse_ray.pipeline.assessor import SEEN, Assessed, Assessor, AssessTask
from lakehouse_ray.pipeline.commits import CommitQueue, Committers, open_committers
from lakehouse_ray.pipeline.execution import (
    check_store,
    concerns_all,
    open_executor,
    store_marker,
)
from lakehouse_ray.query.asked import Asked, series_asked, wanted
from lakehouse_ray.query.cross_checks import Account, accounts_for
from lakehouse_ray.query.pinned import Kind, Pinned, in_groups
from lakehouse_ray.query.scan import Where
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.runtime.allocator import Allocation, Workload, allocate
from lakehouse_ray.runtime.cluster import ClusterView
from lakehouse_ray.runtime.executor import Done, Executor, Pool
from lakehouse_ray.telemetry.logs import configure
from lakehouse_ray.telemetry.processes import rss_bytes_max

# What a worker hands back: what came of the task, and the most memory the worker has had, in bytes.
Result = tuple[Assessed, int]


@dataclass(frozen=True)
class AssessmentRequest:
    """What to assess.

    asked: Series; each is assessed as a whole, whatever the range in it says.
    again: Whether its files have changed or not.
    """

    asked: Asked = field(default_factory=Asked)
    again: bool = False


@dataclass(frozen=True)
class _Setup:
    """Makes a worker's assessor; pickles."""

    writer: Writer
    snapshots: Mapping[str, int | None]
    run_id: str
    thresholds: Thresholds
    lanes: int
    marker: str

    def __call__(self) -> Assessor:
        check_store(self.writer, self.marker)
        log = self.writer.settings.log
        configure(log.level, log.format)
        return Assessor(
            self.writer, self.snapshots, self.run_id, thresholds=self.thresholds, lanes=self.lanes
        )


def _assess(assessor: Assessor, task: AssessTask) -> Result:
    return assessor.assess(task), rss_bytes_max()


def assess(
    writer: Writer, request: AssessmentRequest, observer: AssessmentObserver | None = None
) -> AssessmentReport:
    """Assess series whose files have changed; running it again changes nothing.

    Raises NotFoundError where nothing of what is asked for is stored, and LakehouseError for what
    concerns the whole run; what concerns single series is in the report.
    """
    started_s = time.monotonic()
    run = _Run(writer, request, observer or SilentAssessment())
    with ExitStack() as stack:
        run.execute(stack)
    run.report.seconds = time.monotonic() - started_s
    tell(writer, run.report)
    return run.report


class _Seen:
    """The lake as a run sees it, and what is to be done there."""

    def __init__(self, writer: Writer, request: AssessmentRequest) -> None:
        self._lake = Reader(writer.settings).lake
        self._again = request.again
        self._asked = request.asked
        self.pinned = Pinned(self._lake, SEEN)
        self.series = series_asked(self.pinned, request.asked)
        self._lives = {str(kind): lives for kind, lives in self.series}
        self._prints: dict[str, str] = {}

    def tasks(self) -> list[AssessTask]:
        return [task for kind, lives in self.series for task in self._of_kind(kind, lives)]

    def size_bytes(self, tasks: list[AssessTask]) -> int:
        """Compressed bytes of the kinds that have something to assess."""
        kinds = {str(task.kind): task.kind for task in tasks}.values()
        return sum(
            file.file_size_in_bytes
            for kind in kinds
            for file in self.pinned.files(kind.table, Where(kind.equal))
        )

    def _of_kind(self, kind: Kind, lives: pl.DataFrame) -> Iterator[AssessTask]:
        print_ = self._fingerprint(kind.market)
        todo = wanted(lives, self._asked)
        if not self._again:
            current = self._current.filter(
                market=kind.market, dataset=kind.dataset.name, interval=kind.interval or "",
                fingerprint=print_, version=VERSION,
            )  # fmt: skip
            todo = todo.join(current, on="symbol", how="anti")
        others = accounts_for(kind, self.pinned.kinds) if todo.height else []
        for group in in_groups(todo):
            accounts = []
            for other in others:
                theirs = self._lives_of(other).filter(pl.col("symbol").is_in(group))
                if theirs.height:
                    accounts.append(Account(other, theirs))
            yield AssessTask(kind, group, lives, tuple(accounts), print_)

    def _lives_of(self, kind: Kind) -> pl.DataFrame:
        if str(kind) not in self._lives:
            self._lives[str(kind)] = self.pinned.lives(kind)
        return self._lives[str(kind)]

    @cached_property
    def _current(self) -> pl.DataFrame:
        """What the last assessment of each series saw."""
        query = (
            'SELECT market, dataset, symbol, "interval", fingerprint, version FROM gold.assessments'
        )
        with self._lake.ask(query, [VIEWS["gold.assessments"]]) as result:
            return result.pl()

    def _fingerprint(self, market: str) -> str:
        """Names every file of a market that an assessment may look at.

        Why rows are missing is told by the other symbols and data sets of the market, so a series is
        assessed again where any of it has changed.
        """
        if market not in self._prints:
            digest = hashlib.sha256()
            tables = [t for dataset in DATASETS.values() for t in dataset.tables]
            for table in (*tables, OBJECT_LOG, QUARANTINE):
                for file in self.pinned.files(table, Where({"market": market})):
                    digest.update(file.file_path.encode() + b"\n")
            self._prints[market] = digest.hexdigest()[:32]
        return self._prints[market]


class _Run:
    """The state of one run."""

    def __init__(
        self, writer: Writer, request: AssessmentRequest, observer: AssessmentObserver
    ) -> None:
        self._writer = writer
        self._request = request
        self._observer = observer
        self._run_id = f"{writer.clock.now_us():x}-{uuid.uuid4().hex[:8]}"
        self.report = AssessmentReport(run_id=self._run_id)

    def execute(self, stack: ExitStack) -> None:
        seen = _Seen(self._writer, self._request)
        tasks = seen.tasks()
        todo = sum(len(task.symbols) for task in tasks)
        all_ = sum(wanted(lives, self._request.asked).height for _, lives in seen.series)
        self.report.series, self.report.current = all_, all_ - todo
        if not tasks:
            return
        size_bytes = seen.size_bytes(tasks)
        before_s = time.monotonic()
        executor, allocation = open_executor(
            self._writer, lambda view: self._allocate(tasks, size_bytes, view), stack
        )
        self.report.executor, self.report.actors = allocation.executor, allocation.actors
        self._observer.allocated(todo, allocation)
        local = allocation.executor == "local"
        committers = stack.enter_context(
            open_committers(self._writer, LOGS, self._run_id, local=local)
        )
        pool = self._pool(seen, executor, allocation, stack)
        self._observer.started(time.monotonic() - before_s)
        work_started_s = time.monotonic()
        commits = _Commits(committers, self.report, self._observer)
        with CommitQueue(commits.commit, self._writer.settings.build.tasks_per_commit) as queue:
            for done in pool.map_unordered(tasks):
                self._take(done, queue)
        self.report.work_seconds = time.monotonic() - work_started_s
        self.report.driver_rss_bytes_max = rss_bytes_max()

    def _allocate(self, tasks: list[AssessTask], size_bytes: int, view: ClusterView) -> Allocation:
        settings = self._writer.settings
        return allocate(
            Workload(
                kind="process",
                files=len(tasks),
                compressed_bytes=size_bytes,
                units=len(tasks),
                unit_bytes_max=settings.build.task_bytes_max,
                in_parts=True,
            ),
            view,
            settings.compute.profiles(),
            profile=settings.compute.profile,
            actors=settings.compute.actors,
            local_bytes_max=settings.compute.local_bytes_max,
        )

    def _pool(
        self, seen: _Seen, executor: Executor, allocation: Allocation, stack: ExitStack
    ) -> Pool[AssessTask, Result]:
        settings = self._writer.settings
        spec = allocation.spec(
            attempts_max=settings.build.task_attempts_max,
            deadline_s=settings.build.task_deadline_s,
        )
        setup = _Setup(
            self._writer,
            seen.pinned.snapshots,
            self._run_id,
            self._writer.thresholds,
            max(1, int(allocation.cpus_per_actor)),
            stack.enter_context(store_marker(self._writer, self._run_id)),
        )
        pool: Pool[AssessTask, Result] = stack.enter_context(executor.pool(setup, _assess, spec))
        return pool

    def _take(self, done: Done[AssessTask, Result], queue: CommitQueue[_Finished]) -> None:
        if done.error is not None:
            if concerns_all(done.error):
                raise done.error
            for symbol in done.task.symbols:
                reason = type(done.error).__name__
                self.report.fail(f"{done.task.kind} {symbol}", reason, str(done.error))
            self._observer.advanced(self.report, len(done.task.symbols))
            return
        assert done.result is not None
        assessed, worker_rss_bytes = done.result
        self.report.worker_rss_bytes_max = max(self.report.worker_rss_bytes_max, worker_rss_bytes)
        queue.put(_Finished(done.task, assessed))


@dataclass(frozen=True)
class _Finished:
    """A task with what a worker found."""

    task: AssessTask
    assessed: Assessed


class _Commits:
    """Commits findings, and then the rows by which they are seen."""

    def __init__(
        self, committers: Committers, report: AssessmentReport, observer: AssessmentObserver
    ) -> None:
        self._committers = committers
        self._report = report
        self._observer = observer

    def commit(self, batch: list[_Finished]) -> list[_Finished]:
        """Appending to logs conflicts with nothing, so nothing is ever left to do again."""
        for table in LOGS:
            requests = [r for one in batch for r in one.assessed.requests.get(table.name, [])]
            if requests:
                self._committers.commit(table, requests)
        self._report.commits += 1
        for one in batch:
            self._count(one)
        return []

    def _count(self, one: _Finished) -> None:
        rows = one.assessed.assessments
        self._report.assessed += rows.height
        for name in ("rows", "days", "gaps", "differences", "anomalies", "alerts"):
            setattr(self._report, name, getattr(self._report, name) + int(rows[name].sum()))
        for failure in one.assessed.failures:
            series = f"{one.task.kind} {failure.symbol}"
            self._report.fail(series, failure.reason, failure.detail)
        self._observer.advanced(self._report, len(one.task.symbols))
