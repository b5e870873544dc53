"""Progress of long work on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

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

from lakehouse_ray.bronze.plan import Plan
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.runtime.allocator import Allocation

LINE_EVERY_S = 10.0


class IngestProgress:
    """Shows how an ingestion goes on. `pipeline.report.Observer`."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._bars = enabled and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0
        self._done = 0
        self._said_s = time.monotonic()

    def __enter__(self) -> IngestProgress:
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
            self._task = self._progress.add_task("listing", total=None, note="")
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

    def listing(self, keys: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=f"{keys:,} keys")
        else:
            self._line(f"listing: {keys:,} keys")

    def planned(self, plan: Plan, allocation: Allocation) -> None:
        self._total = plan.todo.height
        text = (
            f"{plan.files:,} files, {plan.compressed_bytes / 1e6:,.1f} MB; "
            + (allocation.explain()[0])
        )
        if self._progress is not None and self._task is not None:
            self._progress.console.print(text)
            self._progress.update(
                self._task, description="starting", total=max(1, self._total), note=""
            )
        else:
            self._line(text, now=True)

    def started(self, seconds: float) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description="ingesting")
        else:
            self._line(f"workers are up after {seconds:.1f} s", now=True)

    def advanced(self, report: IngestReport, objects: int) -> None:
        self._done += objects
        note = f"{report.rows:,} rows, {report.bytes / 1e6:,.0f} MB"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done, note=note)
        else:
            self._line(f"{self._done:,} of {self._total:,} files, {note}")

    def _line(self, text: str, *, now: bool = False) -> None:
        if not self._enabled:
            return
        if now or time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            print(text, file=sys.stderr, flush=True)  # noqa: T201
