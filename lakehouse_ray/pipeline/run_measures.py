"""One run of a workflow, told to a monitor and to the log from its beginning to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Literal

import structlog

from lakehouse_ray.clock import Clock
from lakehouse_ray.telemetry.meter import add, observe, set_to
from lakehouse_ray.telemetry.metrics import (
    ERRORS,
    ROWS,
    ROWS_REFUSED,
    RUN_PROGRESS_AT,
    RUN_SECONDS,
    RUNS,
    RUNS_ACTIVE,
    SOURCE_BYTES,
    STREAM_FRAMES,
    STREAM_GAPS,
    STREAM_LOST,
    UNITS,
    MetricShape,
)

Name = Literal["ingest", "update", "build", "quality", "maintain", "fold", "stream"]
# By metric and values of its labels.
Totals = Mapping[tuple[MetricShape, tuple[str, ...]], float]

_log = structlog.get_logger(__name__)
# What an event of the end of a run says of what it has counted.
_COUNTED = {
    ROWS: "rows",
    ROWS_REFUSED: "rows_refused",
    SOURCE_BYTES: "bytes",
    STREAM_FRAMES: "frames",
    STREAM_GAPS: "gaps",
    STREAM_LOST: "frames_lost",
}


class RunMeasures:
    """One run, told from its beginning to its end: a context. Safe for the threads of a run.

    It begins before anything is planned, so that what fails there is counted, too. Whatever is logged
    meanwhile has its id.

    totals: What it has counted so far; labels without `workflow`. partial: Whether something that was
    asked for was not done. run_id: As in the ledger and in snapshots. more: Counts of its end's event that are told
    elsewhere.
    """

    def __init__(
        self,
        workflow: Name,
        clock: Clock,
        totals: Callable[[], Totals],
        partial: Callable[[], bool] = lambda: False,
        *,
        run_id: str = "",
        more: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._workflow = workflow
        self._clock = clock
        self._totals = totals
        self._partial = partial
        self._told: dict[tuple[MetricShape, tuple[str, ...]], float] = {}
        self._lock = threading.Lock()
        self._begun_s = 0.0
        self._run_id = run_id
        self._more = more
        self._bound: AbstractContextManager[None] | None = None
        self._ended = False

    def __enter__(self) -> RunMeasures:
        self._begun_s = self._clock.monotonic_s()
        self._bound = structlog.contextvars.bound_contextvars(run_id=self._run_id)
        self._bound.__enter__()
        _log.info("run started", workflow=self._workflow)
        self._begun()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(error)
        if self._bound is not None:
            self._bound.__exit__(kind, error, trace)

    @property
    def run_id(self) -> str:
        return self._run_id

    @contextmanager
    def heard(self) -> Iterator[None]:
        """The part of a run in which others hear of it, as Ray's exporter does: they are told that it
        has begun, and how it ended before they leave."""
        self._begun()
        try:
            yield
        except BaseException as error:
            self.end(error)
            raise
        self.end(None)

    def end(self, error: BaseException | None) -> None:
        """Tell how it ended, once; safe to repeat. error: None where it came to its end."""
        if self._ended:
            return
        self._ended = True
        self.advanced()
        set_to(RUNS_ACTIVE, 0, self._workflow)
        if isinstance(error, Exception):
            add(ERRORS, 1, self._workflow, type(error).__name__)
        outcome = "failed" if isinstance(error, Exception) else "stopped"
        if error is None:
            outcome = "partial" if self._partial() else "ok"
        add(RUNS, 1, self._workflow, outcome)
        seconds = self._clock.monotonic_s() - self._begun_s
        observe(RUN_SECONDS, seconds, self._workflow)
        said = {"workflow": self._workflow, "state": outcome, "seconds": round(seconds, 3)}
        if isinstance(error, Exception):
            said |= {"error_kind": type(error).__name__, "error": str(error)}
            _log.warning("run failed", **said, **self._counts())
        else:
            _log.info("run ended", **said, **self._counts())

    def _begun(self) -> None:
        set_to(RUNS_ACTIVE, 1, self._workflow)
        set_to(RUN_PROGRESS_AT, self._clock.now_us() / 1e6, self._workflow)

    def _counts(self) -> dict[str, int]:
        """What it has counted, over all markets and data sets, as fields of an event."""
        counts: dict[str, int] = {}
        for (shape, labels), total in self._totals().items():
            name = f"units_{labels[-1]}" if shape is UNITS else _COUNTED.get(shape)
            if name is not None:
                counts[name] = counts.get(name, 0) + round(total)
        return counts | dict(self._more())

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
