"""Capture of the exchange's websocket: which worker has what, kept alive until it is to end.

recover what an earlier run left -> start workers -> replace those that die -> stop, commit, report
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.errors import BadDataError, DeniedError, InvalidError, UnavailableError
from lakehouse_ray.model.streams import GapState
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.execution import open_account, planning
from lakehouse_ray.pipeline.hourly_fold import HourlyFold
from lakehouse_ray.pipeline.run_measures import RunMeasures, Totals
from lakehouse_ray.pipeline.stream_commits import CaptureTally
from lakehouse_ray.pipeline.stream_filling import FillTask, GapFiller, fill_gaps
from lakehouse_ray.pipeline.stream_worker import (
    CaptureStatus,
    CaptureTask,
    capture,
    recover,
    stream_base,
)
from lakehouse_ray.runtime.keepers import Ended, Keeper, LocalKeeper, Told
from lakehouse_ray.runtime.kept_actors import RayKeeper
from lakehouse_ray.runtime.session import connect, inside_job
from lakehouse_ray.sources.binance.streams.names import Stream
from lakehouse_ray.telemetry.meter import set_to
from lakehouse_ray.telemetry.metrics import (
    ROWS,
    ROWS_REFUSED,
    SOURCE_BYTES,
    STREAM_COMMITTED_AT,
    STREAM_FAILED,
    STREAM_FRAMES,
    STREAM_GAPS,
    STREAM_LOST,
    STREAM_OPENED,
    STREAM_REPLACED,
    STREAM_SPOOLED,
    STREAM_UP,
)

# A worker that dies so often without having committed anything in between has a fault that no
# further try will mend.
_DEATHS_MAX = 5
_REPLACE_AFTER_S = 0.2
_POLL_S = 0.25
# How long workers may take to commit what they have when they are told to stop.
_STOP_TIMEOUT_S = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CaptureRequest:
    """What to capture. duration_s: None: until told to stop."""

    market: Market
    streams: tuple[Stream, ...]
    duration_s: float | None = None


@dataclass
class CaptureReport:
    """What a capture did, all its workers together.

    recovered_segments: That an earlier run had left. replaced: Workers that died and were replaced.
    gaps_ended: By state, gaps (also of earlier runs) that have come to it; gaps_open: That had not when
        REST was last asked. rows_filled: That REST brought of them.
    """

    run_id: str
    market: Market
    workers: int
    streams: int
    seconds: float = 0.0
    recovered_segments: int = 0
    replaced: int = 0
    gaps_ended: Counter[GapState] = field(default_factory=Counter)
    gaps_open: int = 0
    rows_filled: int = 0
    status: CaptureStatus = field(default_factory=lambda: CaptureStatus(CaptureTally()))

    def as_dict(self) -> dict[str, Any]:
        status = asdict(self.status)
        tally = status.pop("tally")
        return {
            "run_id": self.run_id,
            "market": self.market,
            "workers": self.workers,
            "streams": self.streams,
            "seconds": round(self.seconds, 3),
            "recovered_segments": self.recovered_segments,
            "replaced": self.replaced,
            "gaps_ended": dict(self.gaps_ended),
            "gaps_open": self.gaps_open,
            "rows_filled": self.rows_filled,
            **tally,
            "received": status.pop("frames"),
            **status,
        }


def capture_streams(
    writer: Writer, request: CaptureRequest, progress: Callable[[CaptureReport], None]
) -> CaptureReport:
    """Capture until the time is over, or until an exception (of a signal) ends it.

    Either way what came is committed before this returns or raises.

    Raises InvalidError for streams that cannot be captured, UnavailableError where workers find no
    place or die again and again, another capture holds the spool, or no connection was ever opened.
    """
    clock = writer.clock
    started_s = clock.monotonic_s()
    run_id = _run_id(writer.settings.spool_folder / request.market)
    report = CaptureReport(run_id, request.market, 0, len(request.streams))
    measures = RunMeasures("stream", clock, lambda: totals_of_capture(report), run_id=report.run_id)
    with measures, ExitStack() as stack:
        with planning(writer, measures):
            tasks = plan_capture(writer, request)
            report.workers = len(tasks)
            for task in left_over(writer, tasks):
                report.recovered_segments += recover(task).segments
        if writer.settings.hot.fold:
            stack.enter_context(HourlyFold(writer))
        here = _works_here(writer, stack)
        # Processes of one machine share an account by its file; actors are handed the cluster's.
        account = None if here else stack.enter_context(open_account(writer, local=False))
        tasks = [replace(task, account=account) for task in tasks]
        keeper: Keeper = (
            LocalKeeper(capture)
            if here
            else RayKeeper(capture, start_timeout_s=writer.settings.compute.worker_timeout_s)
        )
        watch = _Watch(writer, keeper, tasks, report, progress, measures)
        stack.callback(keeper.kill)
        stack.enter_context(measures.heard())
        if writer.settings.stream.fill_gaps:
            watch.filler = _filler(writer, request.market, account)
            stack.callback(watch.filler.kill)
        try:
            watch.start()
            while (
                request.duration_s is None or clock.monotonic_s() - started_s < request.duration_s
            ):
                watch.step()
                report.seconds = clock.monotonic_s() - started_s
        finally:
            watch.stop()
            report.seconds = clock.monotonic_s() - started_s
        if watch.never_up is not None:
            raise watch.never_up
        if not report.status.opened:
            raise _never_connected(writer, report)
    return report


def _never_connected(writer: Writer, report: CaptureReport) -> UnavailableError:
    """Nothing was received: whoever waits for rows is not to take that for a quiet market."""
    status = report.status
    url = stream_base(writer, report.market)
    why = (
        f"all {status.failed:,} attempts failed, at last with {status.connect_error}"
        if status.failed
        else "none had its turn, or was answered, in that time"
    )
    return UnavailableError(
        f"no connection to {url} was opened in {report.seconds:,.0f} s: {why}. Nothing was "
        "received. See that this machine reaches that address (`lakehouse config show` has it "
        "under `binance`), or give the capture more time, then run it again"
    )


def plan_capture(writer: Writer, request: CaptureRequest) -> list[CaptureTask]:
    """Spread streams over workers, all of a symbol on one."""
    _check(request)
    symbols = list(dict.fromkeys(stream.symbol for stream in request.streams))
    workers = min(writer.settings.stream.workers, len(symbols))
    place = {symbol: index % workers for index, symbol in enumerate(sorted(symbols))}
    root = writer.settings.spool_folder / request.market
    run_id = _run_id(root)
    return [
        CaptureTask(
            writer,
            request.market,
            tuple(s.name for s in request.streams if place[s.symbol] == number),
            run_id,
            root / str(number),
            number,
            workers,
        )
        for number in range(workers)
    ]


def left_over(writer: Writer, tasks: Sequence[CaptureTask]) -> list[CaptureTask]:
    """Workers of an earlier run, to be recovered before their series go on elsewhere."""
    first = tasks[0]
    root = first.folder.parent
    numbers = sorted(int(path.name) for path in root.iterdir() if path.name.isdigit())
    return [
        CaptureTask(
            writer, first.market, first.names, first.run_id, root / str(number), number, 1
        )
        for number in numbers
    ]  # fmt: skip


def _check(request: CaptureRequest) -> None:
    if not request.streams:
        raise InvalidError("no streams are given", "name --symbols and --streams")
    for stream in request.streams:
        if stream.market == "spot" and stream.kind == "bookTicker":
            raise InvalidError(
                "spot's bookTicker tells no times, so its messages are no rows",
                "depth keeps the best levels, with the times of their changes",
            )


def _run_id(root: Path) -> str:
    """The name of a spool's captures: one for all of them, so that a repetition is known as such."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "capture.json"
    try:
        return str(json.loads(path.read_text())["run_id"])
    except FileNotFoundError:
        run_id = f"stream-{uuid.uuid4().hex[:12]}"
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataError("SPOOL_CORRUPT", f"{path} does not name a capture") from error
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps({"run_id": run_id}))
    aside.rename(path)
    return run_id


def _works_here(writer: Writer, stack: ExitStack) -> bool:
    """Whether processes of this machine do the work: not where a cluster is named, or runs this as
    its job."""
    address = writer.settings.ray.address
    if not address and not inside_job():
        return True
    stack.enter_context(
        connect(address, object_store_bytes=writer.settings.compute.object_store_mb << 20)
    )
    return False


def _filler(writer: Writer, market: Market, account: KeptBudget | None) -> GapFiller:
    keeper: Keeper = LocalKeeper(fill_gaps)
    if account is not None:
        # It waits for the exchange more than it works.
        keeper = RayKeeper(fill_gaps, cpus=0.0)
    task = FillTask(writer, market, account)
    return GapFiller(keeper, task, writer.clock, after_s=writer.settings.stream.fill_after_s)


def totals_of_capture(report: CaptureReport) -> Totals:
    """What a capture has counted so far; all of it is of one market."""
    market, status, tally = report.market, report.status, report.status.tally
    return {
        (STREAM_FRAMES, (market,)): status.frames,
        (STREAM_LOST, (market,)): status.lost,
        (STREAM_GAPS, (market,)): tally.gaps,
        (STREAM_OPENED, (market,)): status.opened,
        (STREAM_FAILED, (market,)): status.failed,
        (STREAM_REPLACED, (market,)): report.replaced,
        (SOURCE_BYTES, (market, "streams")): tally.bronze_bytes,
        (ROWS_REFUSED, (market, "streams")): tally.refused,
        **{(ROWS, (market, dataset)): n for dataset, n in tally.rows.items()},
    }


class _Watch:
    """Workers, how they do, and what those that died have done."""

    def __init__(
        self,
        writer: Writer,
        keeper: Keeper,
        tasks: Sequence[CaptureTask],
        report: CaptureReport,
        progress: Callable[[CaptureReport], None],
        measures: RunMeasures,
    ) -> None:
        self._clock = writer.clock
        self._keeper = keeper
        self._tasks = {task.number: task for task in tasks}
        self._report = report
        self._progress = progress
        self._status: dict[int, CaptureStatus] = {}
        self._past: list[CaptureStatus] = []
        self._deaths: dict[int, int] = {}
        self._due_s: dict[int, float] = {}
        self._running: set[int] = set()
        self._committed_us = 0
        self._were_up: set[int] = set()
        self.never_up: Exception | None = None  # of one that had not come up when all was over
        self.filler: GapFiller | None = None
        self.measures = measures

    def start(self) -> None:
        # What never commits anything is to be seen, too.
        set_to(STREAM_COMMITTED_AT, self._clock.now_us() / 1e6, self._report.market)
        for number in self._tasks:
            self._start(number)

    def step(self) -> None:
        """Hear from workers; replace those that have ended."""
        for event in self._keeper.poll(_POLL_S):
            self._hear(event, stopping=False)
        if not self._running:
            self._clock.sleep(_POLL_S)
        for number in [n for n, due_s in self._due_s.items() if self._clock.monotonic_s() >= due_s]:
            del self._due_s[number]
            self._report.replaced += 1
            self._start(number)
        self._tell()
        if self.filler is not None:
            self.filler.step(self._report.status.tally.gaps)

    def stop(self) -> None:
        """Let workers commit what they have."""
        self._keeper.stop()
        until_s = self._clock.monotonic_s() + _STOP_TIMEOUT_S
        while self._running and self._clock.monotonic_s() < until_s:
            for event in self._keeper.poll(_POLL_S):
                self._hear(event, stopping=True)
        if self.filler is not None:
            self.filler.stop()
        self._tell()

    def _start(self, number: int) -> None:
        self._keeper.start(number, self._tasks[number])
        self._running.add(number)

    def _hear(self, event: Told | Ended, *, stopping: bool) -> None:
        if isinstance(event, Told):
            self._were_up.add(event.number)
            self._status[event.number] = event.status
            return
        number = event.number
        self._running.discard(number)
        status = self._status.pop(number, None)
        if status is not None:
            self._past.append(status)
        if not event.came_up and number not in self._were_up and event.error is not None:
            # There is no place for it, which no further try mends.
            if not stopping:
                raise event.error
            self.never_up = event.error
        if stopping:
            if event.error is not None:
                log.warning("worker ended by an error", worker=number, why=str(event.error))
            return
        if isinstance(event.error, InvalidError | DeniedError | BadDataError):
            raise event.error
        progressed = status is not None and status.tally.segments > 0
        self._deaths[number] = 1 if progressed else self._deaths.get(number, 0) + 1
        log.error("worker is replaced", worker=number, why=str(event.error))
        if self._deaths[number] > _DEATHS_MAX:
            raise UnavailableError(
                f"capture worker {number} ended {_DEATHS_MAX + 1} times without a commit: "
                f"{event.error}"
            ) from event.error
        wait_s = _REPLACE_AFTER_S * 2 ** (self._deaths[number] - 1)
        self._due_s[number] = self._clock.monotonic_s() + wait_s

    def _tell(self) -> None:
        report = self._report
        report.status = _sum([*self._past, *self._status.values()], self._status.values())
        if self.filler is not None:
            report.gaps_ended, report.rows_filled = self.filler.ended, self.filler.rows
            report.gaps_open = self.filler.open
        self._progress(self._report)
        self._measure()

    def _measure(self) -> None:
        report, status = self._report, self._report.status
        set_to(STREAM_UP, status.connections, report.market, "up")
        set_to(STREAM_UP, status.groups, report.market, "wanted")
        set_to(STREAM_SPOOLED, status.pending_bytes, report.market)
        committed_us = status.tally.last_received_us
        if committed_us != self._committed_us:
            # It gets on as long as it commits: frames that stay in the spool are no progress.
            self._committed_us = committed_us
            set_to(STREAM_COMMITTED_AT, committed_us / 1e6, report.market)
            self.measures.advanced()
        else:
            self.measures.tell()


def _sum(every: Sequence[CaptureStatus], now: Any) -> CaptureStatus:
    """What workers did, those that have died too; and how those that run are."""
    tally = CaptureTally()
    for status in every:
        for name, value in vars(status.tally).items():
            if name == "rows":
                for dataset, count in value.items():
                    tally.rows[dataset] = tally.rows.get(dataset, 0) + count
            elif name == "last_received_us":
                tally.last_received_us = max(tally.last_received_us, value)
            else:
                setattr(tally, name, getattr(tally, name) + value)
    running = list(now)
    return CaptureStatus(
        tally,
        sum(s.frames for s in every),
        sum(s.connections for s in running),
        sum(s.groups for s in running),
        sum(s.opened for s in every),
        sum(s.failed for s in every),
        sum(s.pending_bytes for s in running),
        sum(s.lost for s in every),
        "; ".join(s.commit_error for s in running if s.commit_error),
        "; ".join(dict.fromkeys(s.connect_error for s in every if s.connect_error)),
    )
