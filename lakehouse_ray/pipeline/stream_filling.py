"""Gaps of a running capture are asked for by REST soon after they were found.

In a process (or actor) of its own, started when there is something to ask for: neither sockets nor
commits of the capture wait for it, and it may die at any moment, since the next one goes on.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from lakehouse_ray.assembly.logs import configure_logs
from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.model.streams import GapState
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.realtime_plan import UpdateRequest
from lakehouse_ray.pipeline.realtime_update import new_run_id, update
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.pinned import Pinned
from lakehouse_ray.query.stream_gaps import states_told
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.runtime.keepers import Ended, Keeper, Told

# What REST did not have yet, or could not be asked for, is asked for again after the first, then
# after twice as long each time.
_AGAIN_S = 60.0
_AGAIN_MAX_S = 900.0
_NUMBER = 0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class FillTask:
    """Whose gaps. Pickles. account: Of the cluster; None: this machine's. run_id: Of the update."""

    writer: Writer
    market: Market
    account: KeptBudget | None = None
    run_id: str = ""


def _end_when_told(stop: threading.Event) -> None:
    """It may wait for the end of a ban; whoever asks next does again what is not ended."""
    stop.wait()
    os._exit(0)


@dataclass(frozen=True)
class FillStatus:
    """What one go came to. ended: Gaps by the state that they have come to. open: That are left."""

    ended: Counter[GapState] = field(default_factory=Counter)
    rows: int = 0
    open: int = 0


def fill_gaps(task: FillTask, stop: threading.Event, tell: Callable[[FillStatus], None]) -> None:
    """Ask once for all gaps of a market that are open. The work of a `runtime.keepers.Keeper`."""
    configure_logs(task.writer.settings)
    threading.Thread(target=_end_when_told, args=(stop,), name="told-to-end", daemon=True).start()
    request = UpdateRequest(Asked(market=task.market), build=False, stream_gaps_only=True)
    report = update(task.writer, request, here=True, account=task.account, run_id=task.run_id)
    tell(FillStatus(report.stream_gaps_ended, report.rows, report.stream_gaps_open))


def told_by(writer: Writer, run_id: str) -> Counter[GapState]:
    """Of how many gaps an update has told which state, whether it lived to say so or not."""
    pinned = Pinned(Reader(writer.settings).lake, [VIEWS["silver.stream_gaps"]])
    return Counter(states_told(pinned, run_id))


class GapFiller:
    """When to ask. Has to be stepped a few times a second.

    keeper: Of `fill_gaps`. after_s: From when a gap was found until REST is asked: it has the rows by
        then, and gaps that arise together are asked for together.
    """

    def __init__(self, keeper: Keeper, task: FillTask, clock: Clock, *, after_s: float) -> None:
        self._keeper = keeper
        self._task = task
        self._clock = clock
        self._after_s = after_s
        # An earlier capture may have left some.
        self._due_s: float | None = clock.monotonic_s() + after_s
        self._again_s = _AGAIN_S
        self._seen = 0
        self._running = False
        self._uncounted = ""  # a run that has not said what it came to
        self.ended: Counter[GapState] = Counter()
        self.rows = 0
        self.open = 0

    def step(self, gaps: int) -> None:
        """gaps: How many the capture has found so far."""
        now_s = self._clock.monotonic_s()
        if gaps > self._seen:
            self._seen = gaps
            self._again_s = _AGAIN_S
            soon_s = now_s + self._after_s
            self._due_s = soon_s if self._due_s is None else min(self._due_s, soon_s)
        if self._running:
            for event in self._keeper.poll(0.0):
                self._hear(event)
        elif self._due_s is not None and now_s >= self._due_s:
            self._due_s = None
            self._running = True
            self._uncounted = new_run_id(self._clock)
            self._keeper.start(_NUMBER, replace(self._task, run_id=self._uncounted))

    def kill(self) -> None:
        """End what is under way: it is done anew by whoever asks next."""
        self._keeper.kill()

    def stop(self) -> None:
        """End what is under way, and count what it has told in the tables by then."""
        if self._running:
            for event in self._keeper.poll(0.0):
                self._hear(event)
        self._keeper.kill()
        self._running = False
        self._count()

    def _count(self) -> None:
        """Of a run that died before it could say so, what it has told in the tables."""
        if not self._uncounted:
            return
        try:
            told = told_by(self._task.writer, self._uncounted)
        except LakehouseError as error:
            log.warning("gaps that were filled at last are not counted", why=str(error))
            return
        finally:
            self._uncounted = ""
        self.ended.update(told)
        self.open = max(0, self.open - told.total())

    def _hear(self, event: Told | Ended) -> None:
        if isinstance(event, Told):
            status: FillStatus = event.status
            self.ended.update(status.ended)
            self.rows += status.rows
            self.open = status.open
            self._uncounted = ""
            if not self.open:
                self._again_s = _AGAIN_S
            return
        self._running = False
        self._count()
        if event.error is not None:
            log.warning("gaps were not filled, will be tried again", why=str(event.error))
        if (event.error is not None or self.open) and self._due_s is None:
            self._due_s = self._clock.monotonic_s() + self._again_s
            self._again_s = min(_AGAIN_MAX_S, 2 * self._again_s)
