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

import polars as pl

from lakehouse_ray.assembly.logs import configure_logs
from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.kernels.anomaly_forest import forest_installed
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
from lakehouse_ray.pipeline.assessor import Assessed, Assessor
from lakehouse_ray.pipeline.commits import CommitQueue, Committers, open_committers
from lakehouse_ray.pipeline.execution import (
    allocation_for,
    check_store,
    concerns_all,
    open_executor,
    planning,
    store_marker,
)
from lakehouse_ray.pipeline.findings import NOT_INSTALLED, SEEN, AssessTask
from lakehouse_ray.pipeline.measured import measures_of
from lakehouse_ray.query.asked import Asked, series_asked, wanted
from lakehouse_ray.query.cross_checks import Account, accounts_for
from lakehouse_ray.query.pinned import Kind, Pinned, in_groups
from lakehouse_ray.query.scan import Where
from lakehouse_ray.query.survivors import Survivors, survivors
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.runtime.allocator import Allocation, Workload
from lakehouse_ray.runtime.cluster import ClusterView
from lakehouse_ray.runtime.executor import Done, Executor, Pool
from lakehouse_ray.telemetry.logs import at_work
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
        configure_logs(self.writer.settings, run_id=self.run_id)
        return Assessor(
            self.writer, self.snapshots, self.run_id, thresholds=self.thresholds, lanes=self.lanes
        )


def _assess(assessor: Assessor, task: AssessTask) -> Result:
    with at_work("unit", unit=f"{task.kind}/{task.symbols[0]}"):
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
    with run.measures, ExitStack() as stack:
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
        # An assessment with the forest, or another choice of it, is another one.
        self._forest = f"forest {writer.settings.quality.forest} {forest_installed()}"
        # Before the lake is pinned: what is numbered higher has seen at least what others had.
        self._latest = self._assessments()
        self.pinned = Pinned(self._lake, SEEN)
        self._known: dict[str, Survivors] = {}
        self.series = series_asked(self.pinned, request.asked, lambda kind: self._lives(kind).rows)
        # Series that cannot be assessed, since a file of them or of what they are held against
        # cannot be read, and why.
        self.lost: dict[str, LakehouseError] = {}
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
        latest = self._latest.filter(
            market=kind.market, dataset=kind.dataset.name, interval=kind.interval or ""
        )
        if not self._again:
            current = latest.filter(fingerprint=print_, version=VERSION)
            todo = todo.join(current, on="symbol", how="anti")
        numbers = dict(latest.select("symbol", "number").iter_rows())
        others = accounts_for(kind, self.pinned.kinds) if todo.height else []
        lost = {
            symbol: error
            for one in (*others, kind)
            for symbol, error in self._lives(one).lost.items()
        }
        gone = todo.filter(pl.col("symbol").is_in(list(lost)))
        self.lost |= {f"{kind} {symbol}": lost[symbol] for symbol in gone["symbol"].to_list()}
        todo = todo.join(gone, on="symbol", how="anti")
        for group in in_groups(todo):
            accounts = []
            for other in others:
                theirs = self._lives(other).rows.filter(pl.col("symbol").is_in(group))
                if theirs.height:
                    accounts.append(Account(other, theirs))
            known = {symbol: numbers[symbol] for symbol in group if symbol in numbers}
            yield AssessTask(kind, group, lives, tuple(accounts), print_, known)

    def _lives(self, kind: Kind) -> Survivors:
        if str(kind) not in self._known:
            self._known[str(kind)] = survivors(self.pinned, kind)
        return self._known[str(kind)]

    def _assessments(self) -> pl.DataFrame:
        """What the latest assessment of each series saw, and its number."""
        query = (
            'SELECT market, dataset, symbol, "interval", fingerprint, version, '
            "coalesce(number, 0) AS number FROM gold.assessments"
        )
        with self._lake.ask(query, [VIEWS["gold.assessments"]]) as result:
            return result.pl()

    def _fingerprint(self, market: str) -> str:
        """Names every file of a market that an assessment may look at, and what it looks with.

        Why rows are missing is told by the other symbols and data sets of the market, so a series is
        assessed again where any of it has changed.
        """
        if market not in self._prints:
            digest = hashlib.sha256(f"{self._forest}\n".encode())
            tables = [t for dataset in DATASETS.values() for t in dataset.tables]
            for table in (*tables, OBJECT_LOG, QUARANTINE):
                for file in self.pinned.files(table, Where({"market": market})):
                    digest.update(file.file_path.encode() + b"\n")
            self._prints[market] = digest.hexdigest()[:32]
        return self._prints[market]


def allocate_assessment(
    writer: Writer, tasks: int, size_bytes: int, view: ClusterView
) -> Allocation:
    """Choose executor and workers for an assessment. size_bytes: Compressed, of all its tasks."""
    return allocation_for(
        writer,
        Workload(
            kind="analytics",
            files=tasks,
            compressed_bytes=size_bytes,
            units=tasks,
            unit_bytes_max=writer.settings.build.task_bytes_max,
            in_parts=True,
        ),
        view,
    )


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
        self.measures = measures_of("quality", self.report, writer.clock)

    def execute(self, stack: ExitStack) -> None:
        with planning(self._writer, self.measures):
            seen = _Seen(self._writer, self._request)
            tasks = seen.tasks()
        todo = sum(len(task.symbols) for task in tasks)
        all_ = sum(wanted(lives, self._request.asked).height for _, lives in seen.series)
        self.report.series, self.report.current = all_, all_ - todo - len(seen.lost)
        for series, error in seen.lost.items():
            self.report.fail(series, type(error).__name__, str(error))
        if not tasks:
            return
        size_bytes = seen.size_bytes(tasks)
        before_s = time.monotonic()
        executor, allocation = open_executor(
            self._writer,
            lambda view: allocate_assessment(self._writer, len(tasks), size_bytes, view),
            stack, "assess", self.measures, units=len(tasks),
        )  # fmt: skip
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
            self.measures.advanced()
            self._observer.advanced(self.report, len(done.task.symbols))
            return
        assert done.result is not None
        self.measures.advanced()
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
        if NOT_INSTALLED in rows["left_out"]:
            self._report.warn(f"{NOT_INSTALLED}: pip install 'lakehouse-ray[ml]' to have it")
        for name in ("rows", "days", "gaps", "differences", "anomalies", "alerts"):
            setattr(self._report, name, getattr(self._report, name) + int(rows[name].sum()))
        for failure in one.assessed.failures:
            series = f"{one.task.kind} {failure.symbol}"
            self._report.fail(series, failure.reason, failure.detail)
        self._observer.advanced(self._report, len(one.task.symbols))
