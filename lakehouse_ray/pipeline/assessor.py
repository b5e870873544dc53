"""What a worker does: assess some symbols of one kind of series, and write what it found to files.

Nothing is visible before the driver commits it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import Clock
from lakehouse_ray.model.alerts import Thresholds
from lakehouse_ray.model.assessment import (
    ASSESSMENT_LOG,
    LOGS,
)
from lakehouse_ray.pipeline.execution import concerns_all
from lakehouse_ray.pipeline.findings import SEEN, AssessTask, Findings, Means
from lakehouse_ray.query.daily_monthly import Bronze
from lakehouse_ray.query.pinned import Pinned
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import log_request


@dataclass(frozen=True)
class Failure:
    """A symbol that could not be assessed; what was known of it stays."""

    symbol: str
    reason: str
    detail: str


@dataclass
class Assessed:
    """requests: By table, written and not committed. assessments: Rows of ASSESSMENT_LOG."""

    requests: dict[str, list[CommitRequest]] = field(default_factory=dict)
    assessments: pl.DataFrame = field(
        default_factory=lambda: frame_schema(ASSESSMENT_LOG).to_frame()
    )
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Assessed) -> None:
        for name, requests in other.requests.items():
            self.requests.setdefault(name, []).extend(requests)
        self.assessments = pl.concat([self.assessments, other.assessments])
        self.failures += other.failures


class Assessor:
    """Assesses groups of symbols at pinned snapshots. For several threads.

    lanes: Groups looked at at once; others wait.
    """

    def __init__(
        self,
        writer: Writer,
        snapshots: Mapping[str, int | None],
        run_id: str,
        *,
        thresholds: Thresholds,
        lanes: int,
    ) -> None:
        self._writer = writer
        self._snapshots = snapshots
        self._run_id = run_id
        bronze = Bronze(writer.store, writer.decoder)
        self._means = Means(thresholds, bronze, writer.settings.quality.forest)
        self._lanes = threading.Semaphore(lanes)

    @cached_property
    def _pinned(self) -> Pinned:
        return Pinned(Reader(self._writer.settings).lake, SEEN, snapshots=self._snapshots)

    def assess(self, task: AssessTask) -> Assessed:
        """Assess a group; where that fails, each of its symbols by itself."""
        with self._lanes:
            return self._assess(task)

    def _assess(self, task: AssessTask) -> Assessed:
        try:
            findings = Findings.of(self._pinned, task, self._means)
            return self._written(task, findings)
        except Exception as error:
            if concerns_all(error):
                raise
            if len(task.symbols) == 1:
                failure = Failure(task.symbols[0], type(error).__name__, str(error))
                return Assessed(failures=[failure])
        found = Assessed()
        for symbol in task.symbols:
            found.add(self._assess(task.only(symbol)))
        return found

    def _written(self, task: AssessTask, found: Findings) -> Assessed:
        clock: Clock = self._writer.clock
        moment = pl.lit(clock.now_us(), dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
        stamped = {
            table.name: rows.with_columns(
                run_id=pl.lit(self._run_id), scored_at=moment, found_at=moment, raised_at=moment,
                assessed_at=moment,
            ).select(pl.col(name).cast(kind) for name, kind in frame_schema(table).items())
            for table, rows in found.tables(task)
        }  # fmt: skip
        result = Assessed(assessments=stamped[ASSESSMENT_LOG.name])
        partition = task.kind.market, task.kind.dataset.name
        for table in LOGS:
            rows = stamped[table.name]
            if rows.height:
                request_id = uuid.uuid4().hex[:16]
                request = log_request(table, self._writer.store, rows, partition, request_id)
                result.requests[table.name] = [request]
        return result
