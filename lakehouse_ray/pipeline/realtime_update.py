"""Workflow 2: from the exchange's REST to bronze, silver and gold, as far as the lake lacks rows.

    live rows of closed hours folded
    gaps, last rows, ledger -> plan -> units -> workers (ask page by page, within the limits)
        -> bronze -> ledger (received) -> silver, quarantine -> ledger (built) -> gold

Workers hand back descriptions of the answers they put into bronze; what is made of them is read from
there. An answer is in the ledger before anything of it is in silver: whoever dies in between leaves
answers that the next run reads first. What a killed worker had asked for is asked for again.
"""

from __future__ import annotations

import time
import uuid
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.bronze.fill_plan import FillPlan, make_units
from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.venue import parse_market
from lakehouse_ray.pipeline import gold
from lakehouse_ray.pipeline.commits import CommitQueue
from lakehouse_ray.pipeline.execution import (
    allocation_for,
    concerns_all,
    open_account,
    open_executor,
    planning,
    store_marker,
)
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.pipeline.gold_report import BuildReport
from lakehouse_ray.pipeline.measured import measures_of
from lakehouse_ray.pipeline.realtime_commits import FillCommits, left_over, open_fill_committers
from lakehouse_ray.pipeline.realtime_plan import UpdateRequest, plan_update
from lakehouse_ray.pipeline.realtime_report import SilentUpdate, UpdateObserver, UpdateReport
from lakehouse_ray.pipeline.realtime_work import AskedUnit, Setup, UnitTask, process
from lakehouse_ray.pipeline.stream_gaps import settle_gaps
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.runtime.allocator import Allocation, Workload
from lakehouse_ray.runtime.cluster import ClusterView, this_machine
from lakehouse_ray.runtime.executor import Done, Executor, LocalExecutor

# What a row of an answer takes on the wire, roughly.
_BYTES_A_ROW = 150


def new_run_id(clock: Clock) -> str:
    return f"{clock.now_us():x}-{uuid.uuid4().hex[:8]}"


def dry_run(writer: Writer, request: UpdateRequest, account: KeptBudget | None = None) -> FillPlan:
    """Say what is missing and what it takes. Asks the exchange for its time, and of futures whose trades
    are new for their first bar."""
    if account is not None:
        return plan_update(writer, request, account)
    own = writer.budget()
    try:
        return plan_update(writer, request, own)
    finally:
        own.close()


def update(
    writer: Writer,
    request: UpdateRequest,
    observer: UpdateObserver | None = None,
    *,
    here: bool = False,
    account: KeptBudget | None = None,
    run_id: str = "",
) -> UpdateReport:
    """Bring the lake up to what REST has; running it again changes nothing.

    here: In this process, however much there is to do. account: Of what may be asked, of a run that
        is done here; None: a new one. run_id: Its name in the tables; empty: a new one.

    Raises LakehouseError for what concerns the whole run (disk full, a network that the exchange does
    not serve); what concerns single series is in the report.
    """
    observer = observer or SilentUpdate()
    started_s = time.monotonic()
    run = _Run(writer, request, observer, here=here, account=account, run_id=run_id)
    with run.measures:
        if not request.stream_gaps_only:
            with planning(writer, run.measures):
                _fold(writer, run.report)
        with ExitStack() as stack:
            run.execute(stack)
    if request.build:
        run.report.built = _rebuild(writer, request)
    run.report.seconds = time.monotonic() - started_s
    return run.report


def _fold(writer: Writer, report: UpdateReport) -> None:
    """Live rows of closed hours come first: derived tables are made of the main ones alone."""
    try:
        report.folded = fold(writer)
    except UnavailableError as error:
        report.note("NOT_FOLDED", "hot tables", str(error))
        return
    for path in report.folded.unreadable:
        report.note("UNREADABLE", path, "`lakehouse repair` makes its rows anew")


def resume_answers(writer: Writer, asked: Asked, report: UpdateReport) -> None:
    """Make silver of answers that are in bronze alone. Asks the exchange nothing; safe to repeat."""
    left = left_over(writer, asked)
    if not left:
        return
    datasets = sorted({(one.dataset, one.interval) for one in left}, key=str)
    with open_fill_committers(writer, datasets, report.run_id, local=True) as committers:
        FillCommits(writer, committers, report).resume(left)


def allocate_update(writer: Writer, plan: FillPlan, view: ClusterView) -> Allocation:
    """Choose executor and workers for a plan. They wait more than they work: few will do."""
    return allocation_for(
        writer,
        Workload(
            kind="other",
            files=max(1, plan.requests),
            compressed_bytes=plan.rows * _BYTES_A_ROW,
            units=max(1, plan.requests // writer.settings.update.unit_requests_max),
        ),
        view,
    )


class _Run:
    """The state of one run."""

    def __init__(
        self,
        writer: Writer,
        request: UpdateRequest,
        observer: UpdateObserver,
        *,
        here: bool,
        account: KeptBudget | None,
        run_id: str,
    ) -> None:
        self._here = here
        self._given = account
        self._writer = writer
        self._request = request
        self._observer = observer
        self.report = UpdateReport(run_id=run_id or new_run_id(writer.clock))
        self.measures = measures_of("update", self.report, writer.clock)

    def execute(self, stack: ExitStack) -> None:
        with planning(self._writer, self.measures):
            # What an earlier run left comes first: its rows are then no gaps any more.
            resume_answers(self._writer, self._request.asked, self.report)
            self._settle()
            plan = dry_run(self._writer, self._request, self._given)
            self._count(plan)
        if plan.planned:
            self._fill(plan, stack)
        if self.report.stream_gaps:
            self._settle()

    def _fill(self, plan: FillPlan, stack: ExitStack) -> None:
        writer = self._writer
        units = list(make_units(plan.planned, writer.settings.update.unit_requests_max))
        if self._here:
            allocation = replace(allocate_update(writer, plan, this_machine()), executor="local")
            executor: Executor = LocalExecutor()
        else:
            executor, allocation = open_executor(
                writer,
                lambda view: allocate_update(writer, plan, view),
                stack, "update", self.measures, units=len(units),
            )  # fmt: skip
        report, settings = self.report, writer.settings
        report.executor, report.actors = allocation.executor, allocation.actors
        self._observer.planned(plan, allocation)
        local = allocation.executor == "local"
        account = stack.enter_context(self._account(local=local))
        datasets = sorted({(one.fill.dataset, one.fill.interval) for one in plan.planned}, key=str)
        committers = stack.enter_context(
            open_fill_committers(self._writer, datasets, report.run_id, local=local)
        )
        commits = FillCommits(self._writer, committers, report)
        queue = stack.enter_context(
            CommitQueue[AskedUnit](commits.commit, settings.update.units_per_commit)
        )
        marker = stack.enter_context(store_marker(self._writer, report.run_id))
        spec = allocation.spec(
            attempts_max=settings.ingest.unit_attempts_max,
            # A unit may wait for its turn, and for the end of a ban.
            deadline_s=settings.ingest.unit_deadline_s + 2 * settings.update.quiet_max_s,
        )
        setup = Setup(self._writer, account, marker)
        started_s = time.monotonic()
        with executor.pool(setup, process, spec) as pool:
            for done in pool.map_unordered(UnitTask(unit) for unit in units):
                self._take(done, queue)
            queue.drain()
        if local and self._given is None:
            account.close()
        report.work_seconds = time.monotonic() - started_s

    def _account(self, *, local: bool) -> AbstractContextManager[KeptBudget]:
        if self._given is not None:
            return nullcontext(self._given)
        return open_account(self._writer, local=local)

    def _settle(self) -> None:
        """Say what has become of gaps that captures have seen."""
        report = self.report
        settled = settle_gaps(
            self._writer, self._request.asked, report.run_id,
            absent_too=not self._request.stream_gaps_only,
        )  # fmt: skip
        report.stream_gaps_ended.update(settled.changed)
        report.stream_gaps_open = settled.open

    def _count(self, plan: FillPlan) -> None:
        report = self.report
        report.series, report.current = plan.series, plan.current
        report.gaps = sum(one.kind == "gap" for one in plan.planned)
        report.stream_gaps = sum(one.kind == "stream_gap" for one in plan.planned)
        report.tails = sum(one.kind == "tail" for one in plan.planned)
        report.skipped.update(plan.skipped)

    def _take(self, done: Done[UnitTask, AskedUnit], queue: CommitQueue[AskedUnit]) -> None:
        unit = done.task.unit
        if done.error is not None:
            if concerns_all(done.error):
                raise done.error
            for one in unit.fills:
                self.report.failed += 1
                reason = type(done.error).__name__
                self.report.note(reason, one.fill.source_key, str(done.error))
        else:
            assert done.result is not None
            queue.put(done.result)
        self.measures.advanced()
        self._observer.advanced(self.report, unit.requests)


def _rebuild(writer: Writer, request: UpdateRequest) -> BuildReport | None:
    """Whether this run changed anything or not: one before may have died between the two."""
    asked = request.asked
    markets = (parse_market(asked.market),) if asked.market else ()
    return gold.build_series(writer, markets, asked.symbols)
