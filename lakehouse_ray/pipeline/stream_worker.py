"""One capture worker: sockets to spool in one thread, spool to tables in another.

Between the two is the disk, so that commits that are slow or fail for a while cost nothing but room
there. A worker that starts first finishes what the one before it left.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from lakehouse_ray.assembly.logs import configure_logs
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.clock import Onward
from lakehouse_ray.errors import BadDataError, LakehouseError, UnavailableError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.stream_commits import (
    CaptureTally,
    SegmentCommits,
    tables_of_capture,
)
from lakehouse_ray.pipeline.stream_committing import Committing, header_streams
from lakehouse_ray.pipeline.stream_state import inherit_series, load_state
from lakehouse_ray.runtime.memory import RareCollection, keep_freed_memory
from lakehouse_ray.silver.stream_frames import SNAPSHOT
from lakehouse_ray.silver.stream_segment import (
    spell_unheard,
    streams_of,
)
from lakehouse_ray.sources.binance.streams.connections import Connections
from lakehouse_ray.sources.binance.streams.names import Stream
from lakehouse_ray.sources.binance.streams.session import ConnectPace, SessionRules
from lakehouse_ray.sources.turns import Turns
from lakehouse_ray.storage.records import FRAME, MARK
from lakehouse_ray.storage.spool import Spool, list_segments, read_segment

# Levels of a snapshot, and how long between two: 1000 levels weigh 50 of spot's 6,000 a minute and
# 20 of the futures' 2,400, so a quarter of the limit is used at most, and only while books are made.
_SNAPSHOT_LEVELS = 1000
_SNAPSHOT_SPACING_S = 2.0
_SNAPSHOT_WAIT_MAX_S = 60.0
# How long a worker waits for the one before it to leave its folder.
_LOCK_TIMEOUT_S = 60.0
_STATUS_S = 0.5
# A segment is worked on in memory, where it takes some 7 times its bytes.
_SEGMENT_BYTES_MAX = 64 << 20
# Looking for circles of objects stops everything meanwhile; there are few, of commits alone.
_COLLECT_EVERY_S = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CaptureTask:
    """What one worker captures. Pickles.

    names: Of its streams. folder: Of its spool, on the disk of the machine that it runs on.
    number, workers: Which of how many; they take turns at connecting.
    account: Of the cluster; None: this machine's.
    """

    writer: Writer
    market: Market
    names: tuple[str, ...]
    run_id: str
    folder: Path
    number: int
    workers: int
    account: KeptBudget | None = None

    @property
    def name(self) -> str:
        """Of this worker's segments, in bronze and in the ledger."""
        return f"{self.run_id}-{self.number}"


@dataclass(frozen=True)
class CaptureStatus:
    """How a worker does. pending_bytes: In its spool, not committed. connect_error: Of the last
    connection that could not be opened."""

    tally: CaptureTally
    frames: int = 0
    connections: int = 0
    groups: int = 0
    opened: int = 0
    failed: int = 0
    pending_bytes: int = 0
    lost: int = 0
    commit_error: str = ""
    connect_error: str = ""


def capture(
    task: CaptureTask, stop: threading.Event, tell: Callable[[CaptureStatus], None]
) -> None:
    """Capture until told to stop; then commit what is there. The work of a `runtime.keepers.Keeper`.

    Raises LakehouseError for what another try would not mend.
    """
    configure_logs(task.writer.settings, run_id=task.run_id, worker=task.name)
    keep_freed_memory()
    streams = streams_of(task.market, task.names)
    tables = tables_of_capture(streams)
    with (
        _own(task),
        open_committers(task.writer, tables, task.run_id, local=True) as committers,
    ):
        state = load_state(task.folder)
        inherit_series(state, task.folder.parent, task.folder)
        commits = SegmentCommits(
            task.writer, committers, market=task.market, folder=task.folder,
            name=task.name, run_id=task.run_id, url=stream_base(task.writer, task.market), state=state,
        )  # fmt: skip
        committing = Committing(task.writer, task.market, streams, commits, stop)
        commits.write_ledger()
        for _, path in list_segments(task.folder):
            committing.take(path)
            path.unlink(missing_ok=True)
        capturing = _Capturing(task, streams, committing, stop, tell)
        with RareCollection(task.writer.clock, _COLLECT_EVERY_S) as collection:
            committing.calm = collection.moment
            asyncio.run(capturing.run())
        commits.write_ledger()
        tell(capturing.status())


def recover(task: CaptureTask) -> CaptureTally:
    """Commit what a worker left in its spool, without capturing anything."""
    with _own(task):
        return _recover(task)


def _recover(task: CaptureTask) -> CaptureTally:
    found = list_segments(task.folder)
    names: dict[str, None] = {}
    for _, path in found:
        try:
            header = read_segment(path).header
            names |= dict.fromkeys(stream.name for stream in header_streams(header))
        except BadDataError:
            continue
    if not found and not load_state(task.folder).unlogged:
        return CaptureTally()
    streams = streams_of(task.market, list(names) or task.names)
    with open_committers(
        task.writer, tables_of_capture(streams), task.run_id, local=True
    ) as committers:
        commits = SegmentCommits(
            task.writer, committers, market=task.market, folder=task.folder,
            name=task.name, run_id=task.run_id, url=stream_base(task.writer, task.market),
            state=load_state(task.folder),
        )  # fmt: skip
        commits.write_ledger()
        # Nobody waits for a service that is down: the segments stay for the next start.
        no_patience = threading.Event()
        no_patience.set()
        committing = Committing(task.writer, task.market, streams, commits, no_patience)
        for _, path in found:
            committing.take(path)
            path.unlink(missing_ok=True)
        commits.write_ledger()
        return commits.tally


@contextmanager
def _own(task: CaptureTask) -> Iterator[None]:
    """Be alone in a worker's folder: a worker that is being replaced may still be at work there.

    Raises UnavailableError where another one does not leave it.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    clock = task.writer.clock
    until_s = clock.monotonic_s() + _LOCK_TIMEOUT_S
    with (task.folder / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.monotonic_s() > until_s:
                    raise UnavailableError(
                        f"another capture works in {task.folder}: one a market and spool"
                    ) from None
                clock.sleep(0.1)
        yield


class _Capturing:
    """The half that reads sockets and writes the spool. A Sink."""

    def __init__(
        self,
        task: CaptureTask,
        streams: list[Stream],
        committing: Committing,
        stop: threading.Event,
        tell: Callable[[CaptureStatus], None],
    ) -> None:
        settings = task.writer.settings.stream
        self._task = task
        self._committing = committing
        self._stop = stop
        self._tell = tell
        self._clock = task.writer.clock
        header = {"v": 1, "market": task.market, "streams": [stream.name for stream in streams]}
        self._spool = Spool(
            task.folder,
            json.dumps(header, ensure_ascii=False).encode(),
            bytes_max=settings.spool_bytes_max // task.workers,
            number_from=committing.next_number,
        )
        self._interval_s = settings.commit_interval_s
        self._sealed_s = self._told_s = self._snapshot_s = self._clock.monotonic_s()
        # The machine's clock may be set back; the order of what came may not.
        self._received = Onward(self._clock)
        self._latest_us = 0
        self._stopping = asyncio.Event()
        rng = random.Random()
        self._account = task.account or task.writer.budget()
        self._connections = Connections(
            stream_base(task.writer, task.market), task.market, streams, self,
            per_connection_max=settings.streams_per_connection,
            rules=SessionRules(
                life_s=settings.connection_life_h * 3600, overlap_s=settings.overlap_s,
                silence_s=settings.silence_s, ping_s=settings.silence_s / 3,
                stall_s=settings.stall_s,
            ),
            pace=ConnectPace(settings.connect_spacing_s * task.workers),
            turns=Turns(self._account, rng),
            clock=self._clock, rng=rng, microseconds=settings.microseconds,
        )  # fmt: skip
        self._snapshots: list[tuple[int, bytes]] = []
        self._snapshot_waits: dict[str, tuple[float, float]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Capture until told to stop; return when all that came is committed."""
        thread = threading.Thread(target=self._committing.serve, name="commits", daemon=True)
        thread.start()
        try:
            await self._connections.run(self._stopping)
        finally:
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.gather(self._asking, return_exceptions=True)
            if self._task.account is None:
                await asyncio.to_thread(self._account.close)
            path = self._spool.seal()
            if path is not None:
                self._committing.segments.put(path)
            self._committing.end()
            await asyncio.to_thread(thread.join)
            self._drop_committed()
        if self._committing.failure is not None:
            raise self._committing.failure

    def frames(self, received_us: list[int], connections: list[int], data: list[bytes]) -> None:
        if not self._forward(received_us):
            for came in zip(received_us, connections, data, strict=True):
                self._keep(*came, FRAME)
            return
        self._latest_us = received_us[-1]
        self._spool.extend(received_us, connections, data)

    def mark(self, received_us: int, connection: int, what: str) -> None:
        self._keep(received_us, connection, f"connection {connection} {what}".encode(), MARK)

    def unheard(self, received_us: int, connection: int, since_us: int, names: list[str]) -> None:
        self._keep(received_us, connection, spell_unheard(since_us, names).encode(), MARK)

    def _forward(self, received_us: list[int]) -> bool:
        """Whether the clock has not been set back meanwhile."""
        times = np.array([self._latest_us, *received_us], np.int64)
        return bool((times[1:] >= times[:-1]).all())

    def _keep(self, received_us: int, connection: int, data: bytes, kind: int) -> None:
        if received_us < self._latest_us:
            received_us = max(self._latest_us, self._received.us(received_us))
        self._latest_us = received_us
        self._spool.append(received_us, connection, data, kind)

    def tick(self) -> None:
        if self._stop.is_set():
            self._stopping.set()
        now_s = self._clock.monotonic_s()
        self._received.us(self._clock.now_us())
        self._keep_snapshots()
        self._spool.flush()
        self._drop_committed()
        # While a commit is slow, the next segment takes all that comes, as far as memory allows.
        idle = not self._committing.segments.unfinished_tasks
        due = idle and now_s - self._sealed_s >= self._interval_s
        if due or self._spool.segment_bytes >= _SEGMENT_BYTES_MAX:
            self._sealed_s = now_s
            if self._committing.waiting:
                self.mark(self._clock.now_us(), 0, "tick")
            path = self._spool.seal()
            if path is not None:
                self._committing.segments.put(path)
        self._ask_for_snapshots(now_s)
        if now_s - self._told_s >= _STATUS_S:
            self._told_s = now_s
            self._tell(self.status())

    def status(self) -> CaptureStatus:
        tally = self._connections.tally
        return CaptureStatus(
            CaptureTally(**asdict(self._committing.tally)), tally.frames, self._connections.up,
            self._connections.groups, tally.opened, tally.failed, self._spool.bytes_kept,
            self._spool.lost_total, self._committing.commit_error, tally.failure,
        )  # fmt: skip

    def _drop_committed(self) -> None:
        while self._committing.acknowledged:
            self._spool.acknowledge(self._committing.acknowledged.popleft())

    def _ask_for_snapshots(self, now_s: float) -> None:
        spacing_s = _SNAPSHOT_SPACING_S * self._task.workers
        if self._asking is not None and not self._asking.done():
            return
        wanted = self._committing.snapshots_wanted
        if not wanted or now_s - self._snapshot_s < spacing_s:
            return
        symbol = next((one for one in wanted if self._may_ask(one, now_s)), None)
        if symbol is None:
            return
        self._snapshot_s = now_s
        self._asking = asyncio.create_task(self._fetch_snapshot(symbol))

    def _may_ask(self, symbol: str, now_s: float) -> bool:
        """Whether a symbol's snapshot is to be asked for: one that is of no use is asked for again
        after twice as long each time."""
        due_s, wait_s = self._snapshot_waits.get(symbol, (0.0, _SNAPSHOT_SPACING_S))
        if now_s < due_s:
            return False
        if now_s > due_s + _SNAPSHOT_WAIT_MAX_S:
            wait_s = _SNAPSHOT_SPACING_S
        self._snapshot_waits[symbol] = now_s + wait_s, min(2 * wait_s, _SNAPSHOT_WAIT_MAX_S)
        return True

    async def _fetch_snapshot(self, symbol: str) -> None:
        client = self._task.writer.rest_client()
        rest = self._task.writer.rest(client, self._account)
        try:
            body = await rest.book(self._task.market, symbol, _SNAPSHOT_LEVELS)
        except LakehouseError as error:
            log.warning("no snapshot of a book", symbol=symbol, why=str(error))
            return
        finally:
            await client.close()
        self._snapshots.append((self._clock.now_us(), symbol.encode() + b"\n" + body))

    def _keep_snapshots(self) -> None:
        """Behind the frames that came before them, which are handed over now and then."""
        for received_us, data in self._snapshots:
            self._keep(received_us, 0, data, SNAPSHOT)
        self._snapshots.clear()


def stream_base(writer: Writer, market: Market) -> str:
    """Where a market's websocket is."""
    binance = writer.settings.binance
    base: dict[Market, Any] = {
        "spot": binance.stream_url, "um": binance.um_stream_url, "cm": binance.cm_stream_url,
    }  # fmt: skip
    return str(base[market])
