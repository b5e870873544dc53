"""Looking after the tables: what is no longer needed goes, under running readers and writers.

Each step is a commit, or deletes what no commit can bring back into use. A run that dies between
two of them has done less, and nothing wrong; the next one goes on.
"""

from __future__ import annotations

import difflib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, get_args

from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import BadDataError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.model.table import Table
from lakehouse_ray.pipeline.compacting import compact_table, plan_table
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.pipeline.maintenance_report import (
    EXAMPLES_MAX,
    MaintenanceObserver,
    MaintenanceReport,
    SilentMaintenance,
    TableReport,
)
from lakehouse_ray.pipeline.measured import measures_of
from lakehouse_ray.query.views import TABLES
from lakehouse_ray.storage.compaction import CompactionPolicy
from lakehouse_ray.storage.expiry import expire, give_up, plan_expiry, plan_giving_up
from lakehouse_ray.storage.orphans import Guard, clock_ahead_us, find_orphans, sweep
from lakehouse_ray.storage.retention import DAY_MS, Retention
from lakehouse_ray.storage.rewriting import manifest_count, rewrite_manifests

Step = Literal["fold", "compact", "manifests", "expire", "sweep"]
# In this order: what one leaves, the next may take.
STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True)
class MaintenanceRequest:
    """What to look after. Empty: all tables, all steps."""

    tables: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    dry_run: bool = False

    def shapes(self) -> list[Table]:
        """Raises InvalidError for a table that there is none of."""
        for name in self.tables:
            if name not in TABLES:
                near = difflib.get_close_matches(name, TABLES, n=1)
                raise InvalidError(
                    f"there is no table {name[:100]!r}",
                    f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(TABLES))}",
                )
        return [TABLES[name] for name in self.tables or sorted(TABLES)]


def parse_steps(names: Sequence[str]) -> tuple[Step, ...]:
    """Raises InvalidError for a step that there is not."""
    for name in names:
        if name not in STEPS:
            raise InvalidError(
                f"no step of maintenance: {name[:40]!r}", f"one of {', '.join(STEPS)}"
            )
    return tuple(step for step in STEPS if step in names)


def maintain(
    writer: Writer,
    request: MaintenanceRequest,
    observer: MaintenanceObserver | None = None,
    *,
    clock: Clock | None = None,
) -> MaintenanceReport:
    """Look after tables; running it again at once changes nothing.

    What concerns one table (others keep coming first, its metadata cannot be read) is in its
    report, and the other tables are looked after. Raises LakehouseError for the rest.
    """
    observer = observer or SilentMaintenance()
    started_s = time.monotonic()
    run = _Run(writer, request, observer, clock or writer.clock)
    measures = measures_of("maintain", run.report, writer.clock)
    shapes = request.shapes()
    # Looking must not make a catalog.
    path = writer.access.sqlite_path
    if path is None or path.is_file():
        with measures:
            there = set(writer.catalog.names())
            found = [shape for shape in shapes if shape.name in there]
            observer.planned(len(found))
            if any(shape.live for shape in found):
                run.fold()
            for shape in found:
                run.table(shape)
                measures.advanced()
    run.report.seconds = time.monotonic() - started_s
    return run.report


class _Run:
    """The state of one run."""

    def __init__(
        self,
        writer: Writer,
        request: MaintenanceRequest,
        observer: MaintenanceObserver,
        clock: Clock,
    ) -> None:
        self._writer = writer
        self._request = request
        self._observer = observer
        self._clock = clock
        self._steps = request.steps or STEPS
        settings = writer.settings.maintain
        self._retention = Retention(
            round(settings.snapshot_age_days * DAY_MS),
            settings.snapshots_min,
            settings.daily_snapshots_days,
            round(settings.reader_age_s * 1000),
        )
        self._guard = Guard(
            round(settings.orphan_age_hours * 3_600_000_000),
            round(settings.reader_age_s * 1_000_000),
        )
        self._compaction = CompactionPolicy(
            settings.small_file_bytes, settings.small_files_min, settings.compact_bytes_max
        )
        self.report = MaintenanceReport(
            request.dry_run, f"{clock.now_us():x}-{uuid.uuid4().hex[:8]}"
        )

    def fold(self) -> None:
        """Live rows of closed hours into the main tables: their files are the smallest of all."""
        if "fold" not in self._steps:
            return
        self._observer.table("hot tables", "fold")
        try:
            folded = fold(self._writer, dry_run=self._request.dry_run)
        except UnavailableError as error:
            self.report.failed.append(f"fold: {error}")
            return
        self.report.folded = folded
        self.report.failed += [f"fold: cannot be read: {one}" for one in folded.unreadable]

    def table(self, shape: Table) -> None:
        told = TableReport(shape.name)
        self.report.tables.append(told)
        try:
            table = self._writer.catalog.find(shape.name)
            assert table is not None, "tables are not taken away"
            told.snapshots = len(table.metadata.snapshots)
        except (UnavailableError, NotFoundError, BadDataError) as error:
            told.failed.append(f"its metadata cannot be read: {error}")
            self._observer.advanced(self.report)
            return
        work: dict[Step, Callable[[IcebergTable, TableReport], None]] = {
            "compact": partial(self._compact, shape),
            "manifests": self._rewrite_manifests,
            "expire": partial(self._expire, shape),
            "sweep": self._sweep,
        }
        for step in (step for step in self._steps if step in work):
            self._observer.table(shape.name, step)
            try:
                work[step](table, told)
            except (UnavailableError, BadDataError, NotFoundError) as error:
                told.failed.append(f"{step}: {error}")
        self._observer.advanced(self.report)

    def _compact(self, shape: Table, table: IcebergTable, told: TableReport) -> None:
        if self._request.dry_run:
            tasks = plan_table(shape, table, self._compaction)
            told.compacted = sum(len(task.files) for task in tasks)
            told.compacted_bytes = sum(task.size_bytes for task in tasks)
            return
        done = compact_table(self._writer, shape, table, self._compaction, self.report.run_id)
        told.compacted, told.compacted_bytes = done.files, done.size_bytes
        told.written, told.written_bytes = done.written, done.written_bytes
        told.overtaken = done.overtaken
        told.failed += [f"compact: {why}" for why in done.failed]

    def _rewrite_manifests(self, table: IcebergTable, told: TableReport) -> None:
        limit = self._writer.settings.maintain.manifests_max
        if self._request.dry_run:
            told.manifests = manifest_count(table)
            told.manifests_left = (
                min(told.manifests, 1) if told.manifests > limit else told.manifests
            )
            return
        told.manifests, told.manifests_left = rewrite_manifests(table, limit, self._clock)

    def _expire(self, shape: Table, table: IcebergTable, told: TableReport) -> None:
        clock, reader_ms = self._clock, self._retention.reader_ms
        now_ms = clock.now_us() // 1000
        kept_ms = round(self._writer.settings.hot.snapshots_kept_s * 1000)
        if self._request.dry_run and shape.live:
            found = plan_giving_up(table.metadata, kept_ms, reader_ms, now_ms)
        elif self._request.dry_run:
            found = plan_expiry(table.metadata, self._retention, now_ms)
        elif shape.live:
            found = give_up(table, kept_ms, reader_ms, clock)
        else:
            found = expire(table, self._retention, clock)
        told.expired = len(found.expired)

    def _sweep(self, table: IcebergTable, told: TableReport) -> None:
        store, clock = self._writer.store, self._clock
        if self._request.dry_run:
            # Asking the store what time it is would write something.
            found = find_orphans(store, table, self._guard, clock.now_us)
        else:
            found = sweep(store, table, self._dated_guard, clock.now_us, clock.sleep)
        told.orphans, told.orphan_bytes = len(found.files), found.size_bytes
        told.young, told.young_bytes = found.young, found.young_bytes
        told.first_orphans = [file.path for file in found.files[:EXAMPLES_MAX]]

    @cached_property
    def _dated_guard(self) -> Guard:
        ahead_us = clock_ahead_us(self._writer.store, self._writer.clock)
        return replace(self._guard, store_ahead_us=ahead_us)
