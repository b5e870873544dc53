"""What the reports of workflows have counted, as a monitor hears of it."""

from __future__ import annotations

from collections.abc import Mapping

from lakehouse_ray.clock import Clock
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.fold_report import FoldReport
from lakehouse_ray.pipeline.gold_report import BuildReport
from lakehouse_ray.pipeline.maintenance_report import MaintenanceReport
from lakehouse_ray.pipeline.realtime_report import UpdateReport
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.pipeline.run_measures import Name, RunMeasures, Totals
from lakehouse_ray.telemetry.metrics import (
    DECODED_BYTES,
    ERRORS,
    ROWS,
    ROWS_REFUSED,
    SOURCE_BYTES,
    UNITS,
    MetricShape,
)

Report = (
    IngestReport | UpdateReport | BuildReport | AssessmentReport | MaintenanceReport | FoldReport
)


def measures_of(workflow: Name, report: Report, clock: Clock) -> RunMeasures:
    return RunMeasures(
        workflow, clock, lambda: totals_of(report), lambda: report.partial,
        run_id=report.run_id, more=lambda: _rows_told_elsewhere(report),
    )  # fmt: skip


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
        case FoldReport():
            # Its rows were told when they came into the hot tables.
            done, failed = report.files, len(report.unreadable)
        case MaintenanceReport():
            failed = len(report.failed) + sum(bool(table.failed) for table in report.tables)
            done = len(report.tables) - sum(bool(table.failed) for table in report.tables)
    return totals | {
        (UNITS, ("done",)): float(done),
        (UNITS, ("refused",)): float(refused),
        (UNITS, ("failed",)): float(failed),
    }


def _rows_told_elsewhere(report: Report) -> Mapping[str, int]:
    match report:
        case UpdateReport():
            return {"rows": report.rows, "rows_refused": report.rows_quarantined}
        case FoldReport():
            return {"rows": report.rows}
        case _:
            return {}


def _reasons(report: Report) -> Mapping[str, int]:
    return {} if isinstance(report, MaintenanceReport | FoldReport) else report.reasons
