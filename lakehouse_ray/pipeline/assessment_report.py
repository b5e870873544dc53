"""What an assessment did, and who is told meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from lakehouse_ray.pipeline.report import EXAMPLES_MAX
from lakehouse_ray.runtime.allocator import Allocation


@dataclass
class AssessmentReport:
    """Counts of one run.

    series: All that were asked for. current: Those whose files are as they were at their last
        assessment. failed: Those whose findings of before stay; the next run tries again.
    rows, days, gaps, differences, anomalies, alerts: Of the series assessed.
    alerts_sent: Taken by the webhook's receiver, raised by this run or before. alerts_waiting: Not
        taken; the next run sends them.
    seconds: The whole run. work_seconds: From the first task to the last commit.
    """

    run_id: str = ""
    series: int = 0
    current: int = 0
    assessed: int = 0
    failed: int = 0
    rows: int = 0
    days: int = 0
    gaps: int = 0
    differences: int = 0
    anomalies: int = 0
    alerts: int = 0
    alerts_sent: int = 0
    alerts_waiting: int = 0
    seconds: float = 0.0
    work_seconds: float = 0.0
    driver_rss_bytes_max: int = 0
    worker_rss_bytes_max: int = 0
    commits: int = 0
    executor: str = ""
    actors: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)
    # What went wrong with telling others of it: the run is as good as without.
    warnings: list[str] = field(default_factory=list)

    @property
    def partial(self) -> bool:
        """Something asked for was not assessed."""
        return self.failed > 0

    def fail(self, series: str, reason: str, detail: str) -> None:
        self.failed += 1
        self.reasons[reason] += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append({"reason": reason, "series": series, "detail": detail[:300]})

    def warn(self, text: str) -> None:
        """Say something once, however often it is true."""
        if text not in self.warnings:
            self.warnings.append(text)

    def as_dict(self) -> dict[str, object]:
        """For `--json`: stable names."""
        return vars(self) | {
            "reasons": dict(self.reasons),
            "seconds": round(self.seconds, 3),
            "work_seconds": round(self.work_seconds, 3),
        }


class AssessmentObserver(Protocol):
    """Who is told how a run goes on. Calls come from the run's threads, one at a time."""

    def allocated(self, series: int, allocation: Allocation) -> None:
        """So many series are to be assessed, with these workers."""

    def started(self, seconds: float) -> None:
        """Workers are up."""

    def advanced(self, report: AssessmentReport, series: int) -> None:
        """`series` more are done with."""


class SilentAssessment:
    """Tells nobody."""

    def allocated(self, series: int, allocation: Allocation) -> None: ...

    def started(self, seconds: float) -> None: ...

    def advanced(self, report: AssessmentReport, series: int) -> None: ...
