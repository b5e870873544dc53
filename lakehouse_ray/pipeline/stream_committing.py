"""From spool to tables: a worker's segments, one after the other, each until it is committed."""

from __future__ import annotations

import json
import queue
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import BadDataError, ResourceError, UnavailableError
from lakehouse_ray.model.venue import Market, parse_market
from lakehouse_ray.pipeline.stream_commits import CaptureTally, SegmentCommits
from lakehouse_ray.silver.stream_books import Books
from lakehouse_ray.silver.stream_segment import (
    CaptureState,
    SegmentWork,
    streams_of,
    work_segment,
)
from lakehouse_ray.sources.binance.streams.decode import FrameReader
from lakehouse_ray.sources.binance.streams.names import Stream
from lakehouse_ray.storage.spool import FULL, read_segment

# A commit that fails because a service is down is tried again so long after.
_AGAIN_S = 2.0
_LAST_TRIES = 5
_END = None

log = structlog.get_logger(__name__)


class Committing:
    """What reads segments and commits what they say.

    calm: Is called between two segments, when nothing of them is alive.
    stop: Set where nobody waits for a service that is down; and by a fault, which is in `failure`.
    """

    def __init__(
        self,
        writer: Writer,
        market: Market,
        streams: list[Stream],
        commits: SegmentCommits,
        stop: threading.Event,
    ) -> None:
        settings = writer.settings.stream
        self._clock = writer.clock
        self._market = market
        self._streams = streams
        self._commits = commits
        self._stop = stop
        self.calm: Callable[[], None] = lambda: None
        self._wait_us = settings.reorder_ms * 1000
        self._books = Books(
            market, levels=settings.book_levels, every_us=settings.book_every_ms * 1000
        )
        self._reader = FrameReader(market, streams)
        self.segments: queue.Queue[Path | None] = queue.Queue()
        self.acknowledged: deque[Path] = deque()
        self.snapshots_wanted: list[str] = []
        self.commit_error = ""
        self.failure: BaseException | None = None

    @property
    def tally(self) -> CaptureTally:
        return self._commits.tally

    @property
    def next_number(self) -> int:
        """Of the first segment that is not committed."""
        return self._commits.state.capture.segment + 1

    @property
    def waiting(self) -> bool:
        """Messages wait for others: they want a segment even if nothing comes."""
        return bool(self._commits.state.capture.carried)

    def end(self) -> None:
        """Let `serve` return when it has come so far."""
        self.segments.put(_END)

    def serve(self) -> None:
        """Commit segments until the end is put into the queue."""
        try:
            while (path := self.segments.get()) is not _END:
                self.take(path)
                self.calm()
                self.acknowledged.append(path)
                self.segments.task_done()
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            self.failure = error
            self._stop.set()

    def take(self, path: Path) -> None:
        """Commit a segment, again and again while a service is down; nothing where it was before."""
        state = self._commits.state.capture
        try:
            segment = read_segment(path)
        except BadDataError as error:
            # What cannot be read is kept for people, out of the way.
            log.error("segment cannot be read", path=str(path), why=str(error))
            path.with_suffix(".bad").write_bytes(path.read_bytes())
            return
        if segment.number <= state.segment or not segment.records:
            return
        header = json.loads(segment.header)
        streams, reader = self._streams, self._reader
        if header["streams"] != [stream.name for stream in streams]:
            streams = streams_of(parse_market(header["market"]), header["streams"])
            reader = FrameReader(self._market, streams)
        work, after = work_segment(
            self._market, streams, segment.number, segment.records, state, self._books,
            wait_us=self._wait_us, reader=reader,
        )  # fmt: skip
        if segment.torn_bytes and path.suffix == ".seg":
            work.losses.append(f"{segment.torn_bytes} bytes at the end cannot be read")
        for loss in work.losses:
            log.error("frames were lost", segment=segment.number, loss=loss)
        self._commit(work, after)
        self.snapshots_wanted = work.snapshots_wanted

    def _commit(self, work: SegmentWork, after: CaptureState) -> None:
        """Commit until it is done. Once told to stop, the segment may stay for who comes next."""
        tries_left = _LAST_TRIES
        while True:
            try:
                self._commits.commit(work, after)
                self.commit_error = ""
                return
            except (UnavailableError, ResourceError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in FULL:
                    raise
                tries_left -= self._stop.is_set()
                if not tries_left:
                    raise
                self.commit_error = str(error)
                log.warning("commit failed, will be tried again", why=self.commit_error)
                self._clock.sleep(_AGAIN_S)
