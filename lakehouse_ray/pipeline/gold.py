"""Workflow: derived tables, built where something has changed.

    inputs (pinned) + log -> plan -> tasks -> workers (read, derive, write) -> commits -> log

Products come after those whose tables they read. A task's rows are committed before its units are
logged: whoever dies in between leaves units that are built again, to the same rows.
"""

from __future__ import annotations

import difflib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from lakehouse_ray.assembly.logs import configure_logs
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.gold.build import Derived, ProductBuilder, UnitResult
from lakehouse_ray.gold.log import builds
from lakehouse_ray.gold.plan import BuildScope, Lost, ProductPlan
from lakehouse_ray.gold.recipe import Recipe
from lakehouse_ray.gold.registry import RECIPES, in_order
from lakehouse_ray.gold.tasks import Task, make_tasks
from lakehouse_ray.model.lake import BUILD_LOG
from lakehouse_ray.model.product import Product
from lakehouse_ray.model.venue import Market
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
from lakehouse_ray.pipeline.gold_report import BuildObserver, BuildReport, SilentBuild
from lakehouse_ray.pipeline.gold_state import BuildState
from lakehouse_ray.pipeline.measured import measures_of
from lakehouse_ray.runtime.allocator import Allocation, Workload
from lakehouse_ray.runtime.cluster import ClusterView
from lakehouse_ray.runtime.executor import Done, Pool
from lakehouse_ray.storage.ledger import log_request
from lakehouse_ray.storage.paths import run_of_marker
from lakehouse_ray.telemetry.logs import at_work
from lakehouse_ray.telemetry.processes import rss_bytes_max

# What a worker hands back: what came of the task, and the most memory the worker has had, in bytes.
Result = tuple[Derived, int]


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    products: Names; empty: all. What they are made from is built first.
    rebuild: Whether anything has changed or not.
    """

    products: tuple[str, ...] = ()
    scope: BuildScope = field(default_factory=BuildScope)
    rebuild: bool = False


@dataclass(frozen=True)
class _Setup:
    """Makes a worker's builder; pickles."""

    writer: Writer
    recipes: Mapping[str, Recipe]
    lanes: int
    marker: str

    def __call__(self) -> ProductBuilder:
        check_store(self.writer, self.marker)
        configure_logs(self.writer.settings, run_id=run_of_marker(self.marker) or "")
        return ProductBuilder(self.writer.store, self.recipes, lanes=self.lanes)


def _build(builder: ProductBuilder, task: Task) -> Result:
    with at_work("unit", unit=task.id, product=task.product):
        return builder.build(task), rss_bytes_max()


def plan_build(
    writer: Writer, request: BuildRequest, recipes: Mapping[str, Recipe] = RECIPES
) -> list[ProductPlan]:
    """Say what has to be built now, product by product. Writes nothing.

    What a product will need once those before it are built may be more.
    """
    products = [recipe.product for recipe in in_order(recipes.values(), request.products)]
    state = BuildState(writer, request.scope, products, rebuild=request.rebuild)
    plans = [state.plan(product) for product in products]
    _check_scope(request.scope, plans)
    return plans


def allocate_build(writer: Writer, plans: Sequence[ProductPlan], view: ClusterView) -> Allocation:
    """Choose executor, workers and task size for some plans."""
    settings = writer.settings
    stale = [item for plan in plans for item in plan.stale]
    return allocation_for(
        writer,
        Workload(
            kind="process",
            files=len({group.path for item in stale for g in item.inputs.values() for group in g}),
            compressed_bytes=sum(plan.size_bytes for plan in plans),
            units=len({(item.unit.market, item.unit.symbol) for item in stale}) or 1,
            unit_bytes_max=settings.build.task_bytes_max,
            in_parts=True,
        ),
        view,
    )


def build(
    writer: Writer,
    request: BuildRequest,
    observer: BuildObserver | None = None,
    recipes: Mapping[str, Recipe] = RECIPES,
) -> BuildReport:
    """Bring derived tables up to their inputs; running it again changes nothing.

    Raises LakehouseError for what concerns the whole run; what concerns single units is in the
    report.
    """
    observer = observer or SilentBuild()
    started_s = time.monotonic()
    run = _Run(writer, request, observer, in_order(recipes.values(), request.products))
    with run.measures, ExitStack() as stack:
        run.execute(stack)
    run.report.seconds = time.monotonic() - started_s
    return run.report


def build_series(
    writer: Writer,
    markets: tuple[Market, ...],
    symbols: Sequence[str],
    observer: BuildObserver | None = None,
) -> BuildReport | None:
    """Bring derived tables up after their silver tables: all that is made of these series.

    symbols: Empty: all. Those of which nothing is made are passed over; None where that leaves none.
    """
    scope = BuildScope(markets)
    try:
        if symbols:
            plans = plan_build(writer, BuildRequest(scope=scope))
            known = {symbol for plan in plans for symbol in plan.symbols}
            scope = BuildScope(markets, tuple(symbol for symbol in symbols if symbol in known))
            if not scope.symbols:
                return None
        return build(writer, BuildRequest(scope=scope), observer)
    except NotFoundError:
        return None


def _check_scope(scope: BuildScope, plans: Sequence[ProductPlan]) -> None:
    """Raises NotFoundError where what is asked for by name does not exist."""
    known = {symbol for plan in plans for symbol in plan.symbols}
    for symbol in scope.symbols:
        if symbol not in known:
            near = difflib.get_close_matches(symbol.upper(), known, n=1)
            raise NotFoundError(
                f"there are no rows of {symbol} to build from",
                f"did you mean {near[0]}?" if near else "`lakehouse datasets` lists what there is",
            )
    if scope != BuildScope() and not any(plan.units for plan in plans):
        raise NotFoundError(
            "there is nothing to build from in this market, interval and range",
            "`lakehouse datasets` lists what there is",
        )


class _Run:
    """The state of one run."""

    def __init__(
        self,
        writer: Writer,
        request: BuildRequest,
        observer: BuildObserver,
        recipes: Sequence[Recipe],
    ) -> None:
        self._writer = writer
        self._request = request
        self._observer = observer
        self._recipes = {recipe.product.name: recipe for recipe in recipes}
        self._products = [recipe.product for recipe in recipes]
        self._state = BuildState(writer, request.scope, self._products, rebuild=request.rebuild)
        self._run_id = f"{writer.clock.now_us():x}-{uuid.uuid4().hex[:8]}"
        self.report = BuildReport(run_id=self._run_id)
        self.measures = measures_of("build", self.report, writer.clock)

    def execute(self, stack: ExitStack) -> None:
        with planning(self._writer, self.measures):
            plans = [self._state.plan(product) for product in self._products]
            _check_scope(self._request.scope, plans)
        for plan in plans:
            self.report.planned(plan)
        if not any(plan.stale for plan in plans):
            for plan in plans:
                self._lose(plan.product, plan.lost)
            return
        before_s = time.monotonic()
        executor, allocation = open_executor(
            self._writer,
            lambda view: allocate_build(self._writer, plans, view),
            # Products are planned one after the other, from what those before them have become.
            stack, "build", self.measures, units=0,
        )  # fmt: skip
        self.report.executor, self.report.actors = allocation.executor, allocation.actors
        self._observer.allocated(sum(len(plan.stale) for plan in plans), allocation)
        tables = [*(product.table for product in self._products), BUILD_LOG]
        local = allocation.executor == "local"
        committers = stack.enter_context(
            open_committers(self._writer, tables, self._run_id, local=local)
        )
        settings = self._writer.settings.build
        spec = allocation.spec(
            attempts_max=settings.task_attempts_max, deadline_s=settings.task_deadline_s
        )
        lanes = max(1, int(allocation.cpus_per_actor))
        marker = stack.enter_context(store_marker(self._writer, self._run_id))
        setup = _Setup(self._writer, self._recipes, lanes, marker)
        pool: Pool[Task, Result] = stack.enter_context(executor.pool(setup, _build, spec))
        self.report.start_seconds = time.monotonic() - before_s
        self._observer.started(self.report.start_seconds)
        work_started_s = time.monotonic()
        written: set[str] = set()
        for product, plan in zip(self._products, plans, strict=True):
            # What was planned before something that it is made from was built is planned again.
            sources = {table.name for item in product.inputs for table in item.tables("")}
            now = self._state.plan(product) if sources & written else plan
            self._build_product(now, pool, committers, allocation.batch_bytes)
            self._state.written(product)
            written.add(product.table.name)
        self.report.work_seconds = time.monotonic() - work_started_s
        self.report.driver_rss_bytes_max = rss_bytes_max()

    def _build_product(
        self,
        plan: ProductPlan,
        pool: Pool[Task, Result],
        committers: Committers,
        bytes_max: int,
    ) -> None:
        product = plan.product
        self._observer.product(plan)
        self.report.planned(plan)
        self._lose(product, plan.lost)
        commits = _Commits(
            self._writer, committers, product, self._run_id, self.report, self._advanced
        )
        batch_max = self._writer.settings.build.tasks_per_commit
        with CommitQueue(commits.commit, batch_max) as queue:
            for _ in range(CONFLICT_ROUNDS_MAX):
                for done in pool.map_unordered(make_tasks(plan, bytes_max=bytes_max)):
                    self._take(done, queue)
                lost = queue.drain()
                if not lost:
                    return
                self.report.conflicts += len(lost)
                # Another run knows of newer inputs perhaps, and must not be undone.
                self._state.renew(product)
                plan = self._again(product, lost)
        for item in plan.stale:
            unit = UnitResult(item, "failed", reason="CONFLICT", detail="others kept coming first")
            self.report.count(product.name, unit)
        self._advanced(len(plan.stale))

    def _again(self, product: Product, lost: Sequence[_Finished]) -> ProductPlan:
        """Plan units anew that lost against another run's: most are current by now."""
        units = {item.unit for finished in lost for item in finished.task.units}
        plan = self._state.plan(product)
        stale = tuple(item for item in plan.stale if item.unit in units)
        lost_now = [item for item in plan.lost if item.unit in units]
        self._lose(product, lost_now)
        now = {item.unit for item in stale} | {item.unit for item in lost_now}
        report = self.report.products[product.name]
        report.current += len(units - now)
        self._advanced(len(units) - len(stale))
        return replace(plan, stale=stale)

    def _lose(self, product: Product, lost: Sequence[Lost]) -> None:
        for item in lost:
            self.report.lose(product.name, item)

    def _take(self, done: Done[Task, Result], queue: CommitQueue[_Finished]) -> None:
        if done.error is not None:
            if concerns_all(done.error):
                raise done.error
            reason, detail = type(done.error).__name__, str(done.error)
            for item in done.task.units:
                unit = UnitResult(item, "failed", reason=reason, detail=detail)
                self.report.count(done.task.product, unit)
            self._advanced(len(done.task.units))
            return
        assert done.result is not None
        derived, worker_rss_bytes = done.result
        self.report.worker_rss_bytes_max = max(self.report.worker_rss_bytes_max, worker_rss_bytes)
        queue.put(_Finished(done.task, derived))

    def _advanced(self, units: int) -> None:
        self.measures.advanced()
        self._observer.advanced(self.report, units)


@dataclass(frozen=True)
class _Finished:
    """A task with what a worker made of it."""

    task: Task
    derived: Derived


class _Commits:
    """Commits tasks of one product: its rows, then the log."""

    def __init__(
        self,
        writer: Writer,
        committers: Committers,
        product: Product,
        run_id: str,
        report: BuildReport,
        advanced: Callable[[int], None],
    ) -> None:
        self._writer = writer
        self._committers = committers
        self._product = product
        self._run_id = run_id
        self._report = report
        self._advanced = advanced

    def commit(self, batch: list[_Finished]) -> list[_Finished]:
        """Commit tasks; returns those that another writer came before."""
        requests = [finished.derived.request for finished in batch]
        outcomes = self._committers.commit(self._product.table, requests)
        pairs = list(zip(batch, outcomes, strict=True))
        lost = [finished for finished, outcome in pairs if not outcome.committed]
        for finished in lost:
            self._committers.forget(finished.derived.request)
        done = [
            (result, outcome.sequence)
            for finished, outcome in pairs
            if outcome.committed
            for result in finished.derived.results
        ]
        self._log([(result, sequence) for result, sequence in done if result.state != "failed"])
        self._report.commits += any(outcome.snapshot_id is not None for outcome in outcomes)
        for result, _ in done:
            self._report.count(self._product.name, result)
        self._advanced(len(done))
        return lost

    def _log(self, done: Sequence[tuple[UnitResult, int]]) -> None:
        if not done:
            return
        now_us = self._writer.clock.now_us()
        by_market = builds(self._product, done, run_id=self._run_id, now_us=now_us)
        self._committers.commit(
            BUILD_LOG,
            [
                log_request(
                    BUILD_LOG,
                    self._writer.store,
                    rows,
                    (self._product.name, market),
                    # Once for each batch: this is asked again with the same request alone.
                    uuid.uuid4().hex[:16],
                )
                for market, rows in by_market.items()
            ],
        )
