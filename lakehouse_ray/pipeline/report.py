"""What a bulk ingestion did, and who is told meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from lakehouse_ray.bronze.plan import Plan
from lakehouse_ray.model.work import ObjectResult
from lakehouse_ray.runtime.allocator import Allocation

# Reasons and examples are shown, not listed to the end.
EXAMPLES_MAX = 20


@dataclass
class IngestReport:
    """Counts of one run.

    files: Objects whose rows are in silver now and were not before.
    bytes: Of all objects transferred.
    rows: Rows whose key is new to silver. rows_replaced: Rows that took another's place.
    live_rows: Rows of REST and streams whose place the archive's took; live_rows_different: those
        of which some value was another (`gold.live_differences`).
    from_bronze: Objects merged again from bronze, since a file that shares rows with them changed.
    skipped: Objects that were there already or that a monthly file made needless.
    left_alone: Objects refused in earlier runs that wait for a change.
    quarantined: Objects refused in this run. rows_quarantined: Single rows.
    failed: Objects that could not be fetched; the next run tries again.
    seconds: The whole run. work_seconds: From the first task accepted to the last commit.
    work_cpu_seconds: In that time, of this process and all its children (an own local Ray's too).
    worker_rss_bytes_max, driver_rss_bytes_max: Most memory one of them has had.
    actors: Workers at the start. decisions: How the pool grew and shrank since then, the latest ones.
    requeued: Units given to another worker, because theirs was lost or late.
    """

    run_id: str = ""
    market: str = ""
    dataset: str = ""
    interval: str | None = None
    files: int = 0
    bytes: int = 0
    csv_bytes: int = 0
    rows: int = 0
    rows_replaced: int = 0
    live_rows: int = 0
    live_rows_different: int = 0
    from_bronze: int = 0
    skipped: int = 0
    left_alone: int = 0
    quarantined: int = 0
    rows_quarantined: int = 0
    duplicate_rows: int = 0
    failed: int = 0
    unrecognised: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    work_seconds: float = 0.0
    work_cpu_seconds: float = 0.0
    driver_rss_bytes_max: int = 0
    worker_rss_bytes_max: int = 0
    commits: int = 0
    conflicts: int = 0
    executor: str = ""
    actors: int = 0
    workers_lost: int = 0
    requeued: int = 0
    decisions: tuple[str, ...] = ()
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)

    @property
    def partial(self) -> bool:
        """Something asked for is not in silver."""
        return bool(self.quarantined or self.failed or self.rows_quarantined)

    def count(self, result: ObjectResult) -> None:
        """Take in what became of one object, once that is committed."""
        self.bytes += result.fetched_bytes
        self.csv_bytes += result.csv_bytes
        if result.state == "built":
            if result.task.role == "stored":
                self.from_bronze += 1
            else:
                self.files += 1
            self.rows_quarantined += result.rows_quarantined
            self.duplicate_rows += result.duplicates
            if result.rows_quarantined:
                self.note("BAD_ROWS", result.task.key, f"{result.rows_quarantined} rows refused")
        elif result.state == "skipped":
            self.skipped += 1
        elif result.state == "quarantined":
            self.quarantined += 1
            self.note(result.reason, result.task.key, result.detail)
        else:
            self.failed += 1
            self.note(result.reason, result.task.key, result.detail)

    def conflicting(self, rows: int, key: str) -> None:
        """Take in rows that lost to another file of their kind."""
        if rows:
            self.rows_quarantined += rows
            self.note("CONFLICTING_KEY", key, f"{rows} rows clash with another file's")

    def note(self, reason: str, key: str, detail: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append({"reason": reason, "key": key, "detail": detail[:300]})

    def as_dict(self) -> dict[str, object]:
        """For `--json`: stable names."""
        seconds = {
            name: round(getattr(self, name), 3)
            for name in ("seconds", "start_seconds", "work_seconds", "work_cpu_seconds")
        }
        megabytes = self.csv_bytes / 1e6
        return {
            **{k: v for k, v in vars(self).items() if k not in ("reasons", "examples")},
            **seconds,
            "mb_per_second": round(megabytes / self.work_seconds, 1) if self.work_seconds else 0.0,
            "reasons": dict(self.reasons),
            "examples": self.examples,
        }


class Observer(Protocol):
    """Who is told how a run goes on. All calls come from the run's own thread."""

    def listing(self, keys: int) -> None: ...

    def planned(self, plan: Plan, allocation: Allocation) -> None: ...

    def started(self, seconds: float) -> None:
        """Workers are up."""

    def advanced(self, report: IngestReport, objects: int) -> None:
        """`objects` more of the plan are done with."""


class Silent:
    """Tells nobody."""

    def listing(self, keys: int) -> None: ...

    def planned(self, plan: Plan, allocation: Allocation) -> None: ...

    def started(self, seconds: float) -> None: ...

    def advanced(self, report: IngestReport, objects: int) -> None: ...
