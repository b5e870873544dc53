"""Folding beside a capture: when an hour is over, its live rows go to the main tables.

In a thread of the process that watches the workers, which are processes of their own: sockets, spool
and commits of a capture do not wait for it.
"""

from __future__ import annotations

import threading
from types import TracebackType

import structlog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.pipeline.folding import closed_until_us, fold

# Between two looks at the clock.
_LOOK_S = 15.0
# A capture that ends waits so long for the batch under way; what is left is folded the next time.
_END_TIMEOUT_S = 20.0

_log = structlog.get_logger(__name__)


class HourlyFold:
    """Folds while the context is open, from the next hour that ends on."""

    def __init__(self, writer: Writer, *, look_s: float = _LOOK_S) -> None:
        self._writer = writer
        self._look_s = look_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fold", daemon=True)

    def __enter__(self) -> HourlyFold:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(_END_TIMEOUT_S)

    def _run(self) -> None:
        folded_us = closed_until_us(self._writer)
        while not self._over.wait(self._look_s):
            until_us = closed_until_us(self._writer)
            if until_us <= folded_us:
                continue
            try:
                report = fold(self._writer, until_us, stopped=self._over.is_set)
            except LakehouseError as error:
                # Rows are where they were, and are seen: it is tried again at the next look.
                _log.warning("live rows are not folded yet", reason=str(error))
                continue
            for one in report.unreadable:
                _log.error("live rows cannot be read", file=one)
            folded_us = until_us
