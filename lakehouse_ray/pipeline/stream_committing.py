"""From spool to tables: a worker's segments, one after the other, each until it is committed."""

from __future__ import annotations

import json
import queue
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import polars as pl
import structlog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import BadDataError, ResourceError, UnavailableError
from lakehouse_ray.model.venue import Market, parse_market
from lakehouse_ray.pipeline.stream_commits import CaptureTally, SegmentCommits
from lakehouse_ray.silver.stream_aside import set_aside
from lakehouse_ray.silver.stream_books import Books
from lakehouse_ray.silver.stream_segment import (
    CaptureState,
    SegmentWork,
    streams_of,
    work_segment,
)
from lakehouse_ray.sources.binance.streams.decode import FrameReader
from lakehouse_ray.sources.binance.streams.names import Stream
from lakehouse_ray.storage.spool import FULL, Segment, count_bad, keep_bad, read_segment

# A commit that fails because a service is down is tried again so long after.
_AGAIN_S = 2.0
_LAST_TRIES = 5
# Segments that are set aside are kept on the disk, too, up to so many.
_BAD_KEPT_MAX = 100
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
        self._book_rules = settings.book_levels, settings.book_every_ms * 1000
        self._books = Books(market, *self._book_rules)
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
            log.error("segment cannot be read", path=str(keep_bad(path)), why=str(error))
            return
        if segment.number <= state.segment or not segment.records:
            return
        try:
            work, after = self._work(segment, state)
        except (MemoryError, OSError):
            # The machine's fault: the segment waits until that is mended.
            raise
        except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 - told in the tables
            work, after = self._set_aside(path, segment, state, error)
        if segment.torn_bytes and path.suffix == ".seg":
            work.losses.append(f"{segment.torn_bytes} bytes at the end cannot be read")
        for loss in work.losses:
            log.error("frames were lost", segment=segment.number, loss=loss)
        self._commit(work, after)
        self.snapshots_wanted = work.snapshots_wanted

    def _work(self, segment: Segment, state: CaptureState) -> tuple[SegmentWork, CaptureState]:
        names = json.loads(segment.header)["streams"]
        streams, reader = self._streams, self._reader
        if names != [stream.name for stream in streams]:
            streams = header_streams(segment.header)
            reader = FrameReader(self._market, streams)
        return work_segment(
            self._market, streams, segment.number, segment.records, state, self._books,
            wait_us=self._wait_us, reader=reader,
        )  # fmt: skip

    def _set_aside(
        self, path: Path, segment: Segment, state: CaptureState, error: BaseException
    ) -> tuple[SegmentWork, CaptureState]:
        """What nobody foresaw must not stop all that comes behind it, now and at every start."""
        # A part of it may be in the books: each begins anew with a snapshot.
        self._books = Books(self._market, *self._book_rules)
        try:
            streams = header_streams(segment.header)
        except BadDataError:
            streams = []
        work, after = set_aside(streams, segment.number, segment.records, state, error)
        # A fault that comes with every segment must not fill the disk with what bronze has.
        keep = bool(work.losses) or count_bad(path.parent) < _BAD_KEPT_MAX
        log.error(
            "segment is set aside", segment=segment.number, why=work.set_aside,
            path=str(keep_bad(path)) if keep else "", exc_info=error,
        )  # fmt: skip
        return work, after

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


def header_streams(header: bytes) -> list[Stream]:
    """The streams that a segment is of. Raises BadDataError (SPOOL_CORRUPT) where nobody can tell."""
    try:
        told = json.loads(header)
        return streams_of(parse_market(told["market"]), told["streams"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadDataError("SPOOL_CORRUPT", f"a header that names no streams: {error}") from error
