"""What runs of workflows tell a monitor while they are at work: the growth of their reports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal

from lakehouse_ray.clock import Clock
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.gold_report import BuildReport
from lakehouse_ray.pipeline.maintenance_report import MaintenanceReport
from lakehouse_ray.pipeline.realtime_report import UpdateReport
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.telemetry.meter import add, observe, set_to
from lakehouse_ray.telemetry.metrics import (
    DECODED_BYTES,
    ERRORS,
    ROWS,
    ROWS_REFUSED,
    RUN_PROGRESS_AT,
    RUN_SECONDS,
    RUNS,
    RUNS_ACTIVE,
    SOURCE_BYTES,
    UNITS,
    MetricShape,
)

Report = IngestReport | UpdateReport | BuildReport | AssessmentReport | MaintenanceReport
Name = Literal["ingest", "update", "build", "quality", "maintain", "stream"]
# By metric and values of its labels.
Totals = Mapping[tuple[MetricShape, tuple[str, ...]], float]


class RunMeasures:
    """One run, told from its beginning to its end: a context. Safe for the threads of a run.

    totals: What it has counted so far; labels without `workflow`. partial: Whether something that was
    asked for was not done.
    """

    def __init__(
        self,
        workflow: Name,
        clock: Clock,
        totals: Callable[[], Totals],
        partial: Callable[[], bool] = lambda: False,
    ) -> None:
        self._workflow = workflow
        self._clock = clock
        self._totals = totals
        self._partial = partial
        self._told: dict[tuple[MetricShape, tuple[str, ...]], float] = {}
        self._lock = threading.Lock()
        self._begun_s = 0.0

    def __enter__(self) -> RunMeasures:
        self._begun_s = self._clock.monotonic_s()
        set_to(RUNS_ACTIVE, 1, self._workflow)
        set_to(RUN_PROGRESS_AT, self._clock.now_us() / 1e6, self._workflow)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.advanced()
        set_to(RUNS_ACTIVE, 0, self._workflow)
        if isinstance(error, Exception):
            add(ERRORS, 1, self._workflow, type(error).__name__)
        outcome = "failed" if isinstance(error, Exception) else "stopped"
        if error is None:
            outcome = "partial" if self._partial() else "ok"
        add(RUNS, 1, self._workflow, outcome)
        observe(RUN_SECONDS, self._clock.monotonic_s() - self._begun_s, self._workflow)

    def advanced(self) -> None:
        """Something of the run is done."""
        set_to(RUN_PROGRESS_AT, self._clock.now_us() / 1e6, self._workflow)
        self.tell()

    def tell(self) -> None:
        """Say what has come since it was last said."""
        with self._lock:
            for key, total in self._totals().items():
                shape, labels = key
                of = (self._workflow, *labels) if "workflow" in shape.labels else labels
                add(shape, total - self._told.get(key, 0.0), *of)
                self._told[key] = total


def measures_of(workflow: Name, report: Report, clock: Clock) -> RunMeasures:
    return RunMeasures(workflow, clock, lambda: totals_of(report), lambda: report.partial)


def totals_of(report: Report) -> Totals:
    """What a report has counted so far, without the label `workflow`."""
    totals: dict[tuple[MetricShape, tuple[str, ...]], float] = {
        (ERRORS, (reason,)): n for reason, n in _reasons(report).items()
    }
    done, refused, failed = 0, 0, 0
    match report:
        case IngestReport():
            kind = report.market, report.dataset
            totals[SOURCE_BYTES, kind] = report.bytes
            totals[DECODED_BYTES, kind] = report.csv_bytes
            totals[ROWS, kind] = report.rows
            totals[ROWS_REFUSED, kind] = report.rows_quarantined
            done, refused = report.files + report.from_bronze, report.quarantined
            failed = report.failed
        case UpdateReport():
            # Its rows and bytes are told by market and data set where they are committed.
            done, refused, failed = report.fills, report.refused, report.failed
        case BuildReport():
            for name, product in report.products.items():
                totals[ROWS, ("", name)] = product.rows
            done, failed = report.total("built") + report.total("unchanged"), report.total("failed")
        case AssessmentReport():
            done, failed = report.assessed, report.failed
        case MaintenanceReport():
            failed = len(report.failed) + sum(bool(table.failed) for table in report.tables)
            done = len(report.tables) - sum(bool(table.failed) for table in report.tables)
    return totals | {
        (UNITS, ("done",)): float(done),
        (UNITS, ("refused",)): float(refused),
        (UNITS, ("failed",)): float(failed),
    }


def _reasons(report: Report) -> Mapping[str, int]:
    return {} if isinstance(report, MaintenanceReport) else report.reasons
