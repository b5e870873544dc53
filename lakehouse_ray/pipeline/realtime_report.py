"""What a real-time update did, and who is told meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from lakehouse_ray.bronze.fill_plan import FillPlan
from lakehouse_ray.model.streams import GapState
from lakehouse_ray.pipeline.fold_report import FoldReport
from lakehouse_ray.pipeline.gold_report import BuildReport
from lakehouse_ray.pipeline.report import EXAMPLES_MAX
from lakehouse_ray.runtime.allocator import Allocation


@dataclass
class UpdateReport:
    """Counts of one run.

    series: Series that were looked at. current: Those that lacked nothing.
    gaps, tails: Ranges asked for between stored rows, and after the last one.
    stream_gaps: Ranges and numbers asked for that captures of streams have missed.
    stream_gaps_ended: By state, gaps of captures that have come to it. stream_gaps_open: That have
        not come to any.
    fills: Ranges of which the exchange told all it has. resumed: Of them, those whose answers an
        earlier run had left in bronze.
    requests: Answers that were kept. bytes: Of their packs in bronze.
    rows: Rows whose key is new to silver. rows_replaced: Rows that took another's place.
    rows_known: Rows that changed nothing.
    rows_quarantined: Records that were refused.
    left_open: Bars that were not over yet.
    absent_seconds: Time in which the exchange has no bar or sample, asked twice.
    skipped: By reason, what was not asked for. refused: Fills that the exchange refused for good.
    failed: Fills that were not ended; the next run goes on.
    folded: What became of live rows that waited. built: What became of derived tables.
    seconds: The whole run. work_seconds: From the first task accepted to the last commit.
    """

    run_id: str = ""
    series: int = 0
    current: int = 0
    gaps: int = 0
    tails: int = 0
    stream_gaps: int = 0
    stream_gaps_open: int = 0
    fills: int = 0
    resumed: int = 0
    requests: int = 0
    bytes: int = 0
    rows: int = 0
    rows_replaced: int = 0
    rows_known: int = 0
    rows_quarantined: int = 0
    left_open: int = 0
    absent_seconds: int = 0
    refused: int = 0
    failed: int = 0
    commits: int = 0
    conflicts: int = 0
    seconds: float = 0.0
    work_seconds: float = 0.0
    executor: str = ""
    actors: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    stream_gaps_ended: Counter[GapState] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    folded: FoldReport | None = None
    built: BuildReport | None = None

    @property
    def partial(self) -> bool:
        """Something of what REST may have is not in silver, or derived tables are behind."""
        behind = self.built is not None and self.built.partial
        return bool(self.failed or self.rows_quarantined or behind or self._broken)

    @property
    def _broken(self) -> int:
        """A symbol that the exchange does not know is skipped; all else that it refuses is told."""
        return sum(n for reason, n in self.reasons.items() if reason != "INVALID_SYMBOL")

    def note(self, reason: str, key: str, detail: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append({"reason": reason, "key": key, "detail": detail[:300]})

    def as_dict(self) -> dict[str, object]:
        """For `--json`: stable names."""
        plain = {k: v for k, v in vars(self).items() if k not in ("folded", "built")}
        return {
            **plain,
            "seconds": round(self.seconds, 3),
            "work_seconds": round(self.work_seconds, 3),
            "skipped": dict(self.skipped),
            "stream_gaps_ended": dict(self.stream_gaps_ended),
            "reasons": dict(self.reasons),
            "notes": dict(self.notes),
            "folded": None if self.folded is None else self.folded.as_dict(),
            "built": None if self.built is None else self.built.as_dict(),
        }


class UpdateObserver(Protocol):
    """Who is told how a run goes on. All calls come from the run's own thread."""

    def planned(self, plan: FillPlan, allocation: Allocation) -> None: ...

    def advanced(self, report: UpdateReport, requests: int) -> None:
        """So many more of the plan's requests are done with."""


class SilentUpdate:
    """Tells nobody."""

    def planned(self, plan: FillPlan, allocation: Allocation) -> None: ...

    def advanced(self, report: UpdateReport, requests: int) -> None: ...
