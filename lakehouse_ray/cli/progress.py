"""Progress of long work on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lakehouse_ray.bronze.fill_plan import FillPlan
from lakehouse_ray.bronze.plan import Plan
from lakehouse_ray.gold.plan import ProductPlan
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.gold_report import BuildReport
from lakehouse_ray.pipeline.maintenance_report import MaintenanceReport
from lakehouse_ray.pipeline.realtime_report import UpdateReport
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.runtime.allocator import Allocation
from lakehouse_ray.telemetry.progress import Progress as Told

LINE_EVERY_S = 10.0


class _Progress:
    """A bar on a terminal, lines elsewhere, nothing where it is not enabled."""

    def __init__(self, first: str, *, enabled: bool) -> None:
        """first: What is done before the size of the work is known."""
        self._enabled = enabled
        self._bars = enabled and sys.stderr.isatty()
        self._first = first
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0
        self._done = 0
        self._said_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._bars:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._first, total=None, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _size(self, total: int, text: str) -> None:
        """The size of the work is known."""
        self._total = total
        if self._progress is not None and self._task is not None:
            self._progress.console.print(text)
            self._progress.update(self._task, description="starting", total=max(1, total), note="")
        else:
            self._line(text, now=True)

    def _begin(self, seconds: float, description: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=description)
        else:
            self._line(f"workers are up after {seconds:.1f} s", now=True)

    def _advance(self, count: int, what: str, note: str) -> None:
        self._done += count
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done, note=note)
        else:
            self._line(str(Told(self._done, self._total, what, note)))

    def _line(self, text: str, *, now: bool = False) -> None:
        if not self._enabled:
            return
        if now or time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            print(text, file=sys.stderr, flush=True)  # noqa: T201


class IngestProgress(_Progress):
    """Shows how an ingestion goes on. `pipeline.report.Observer`."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__("listing", enabled=enabled)

    def listing(self, keys: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=f"{keys:,} keys")
        else:
            self._line(f"listing: {keys:,} keys")

    def planned(self, plan: Plan, allocation: Allocation) -> None:
        self._size(
            plan.todo.height,
            f"{plan.files:,} files, {plan.compressed_bytes / 1e6:,.1f} MB; "
            + (allocation.explain()[0]),
        )

    def started(self, seconds: float) -> None:
        self._begin(seconds, "ingesting")

    def advanced(self, report: IngestReport, objects: int) -> None:
        self._advance(objects, "files", f"{report.rows:,} rows, {report.bytes / 1e6:,.0f} MB")


class BuildProgress(_Progress):
    """Shows how derived tables are built. `pipeline.gold_report.BuildObserver`."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__("planning", enabled=enabled)

    def allocated(self, units: int, allocation: Allocation) -> None:
        self._size(units, f"{units:,} units; {allocation.explain()[0]}")

    def started(self, seconds: float) -> None:
        self._begin(seconds, "building")

    def product(self, plan: ProductPlan) -> None:
        # Planned again once those that it is made from were built, it may have more.
        self._total = max(self._total, self._done + len(plan.stale))
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, description=plan.product.name, total=max(1, self._total)
            )
        elif plan.stale:
            self._line(f"{plan.product.name}: {len(plan.stale):,} units", now=True)

    def advanced(self, report: BuildReport, units: int) -> None:
        self._advance(units, "units", f"{report.total('rows'):,} rows")


class UpdateProgress(_Progress):
    """Shows how an update goes on. `pipeline.realtime_report.UpdateObserver`."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__("looking for what is missing", enabled=enabled)

    def planned(self, plan: FillPlan, allocation: Allocation) -> None:
        text = f"{len(plan.planned):,} ranges, about {plan.requests:,} requests"
        self._size(plan.requests, f"{text}; {allocation.explain()[0]}")

    def advanced(self, report: UpdateReport, requests: int) -> None:
        self._advance(requests, "requests", f"{report.rows:,} rows")


class AssessmentProgress(_Progress):
    """Shows how an assessment goes on. `pipeline.assessment_report.AssessmentObserver`."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__("looking at what has changed", enabled=enabled)

    def allocated(self, series: int, allocation: Allocation) -> None:
        self._size(series, f"{series:,} series to assess; {allocation.explain()[0]}")

    def started(self, seconds: float) -> None:
        self._begin(seconds, "assessing")

    def advanced(self, report: AssessmentReport, series: int) -> None:
        self._advance(
            series,
            "series",
            f"{report.rows:,} rows, {report.alerts:,} new alert{'s' * (report.alerts != 1)}",
        )


class MaintenanceProgress(_Progress):
    """Shows which table is looked after. `pipeline.maintenance_report.MaintenanceObserver`."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__("looking for tables", enabled=enabled)

    def planned(self, tables: int) -> None:
        self._size(tables, f"{tables:,} table{'s' * (tables != 1)} to look after")

    def table(self, name: str, step: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"{step} {name}")
        else:
            self._line(f"{step} {name}")

    def advanced(self, report: MaintenanceReport) -> None:
        size = f"{report.total('orphan_bytes') / 1e6:,.1f} MB"
        self._advance(1, "tables", f"{report.total('expired'):,} snapshots, {size}")
