"""Large answers in the lake's own store, below `cache/answers`.

One object per answer, under its key: written whole or not at all, never changed, and only ever
removed. So several processes may write, read and remove here at once, and one that is killed leaves
nothing but room taken, which any of them frees.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import fs as pafs

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import LakehouseError, NotFoundError
from lakehouse_ray.serve.cache.breaker import Breaker
from lakehouse_ray.serve.cache.level import SMALL_BYTES_MAX, Counts
from lakehouse_ray.serve.cache.stored import (
    BESIDE_BYTES_MAX,
    DamagedError,
    Head,
    Written,
    read_head,
    spell_head,
)
from lakehouse_ray.serve.formats import MEMORY_BYTES, Format, Whole
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.paths import ANSWERS, answer_path

_READ_BYTES = 8 << 20
# Longer than this an answer is made anew: 256 MiB at a modest 25 MB/s.
_READ_TIMEOUT_S = 10.0
# What was begun and has not ended for so long belongs to a process that was killed.
_ABANDONED_US = 3_600_000_000
# After making room there is some to spare, so that not each answer has to make its own.
_SPARE = 8


@dataclass(frozen=True)
class Kept:
    """An object of ours. written_us: By the store's clock."""

    path: str
    size: int
    written_us: int


def to_remove(
    kept: Sequence[Kept], now_us: int, *, bytes_max: int, ttl_us: int, wanted: int = 0
) -> list[Kept]:
    """What has to go so that `wanted` more bytes fit: all that is older than `ttl_us`, then the
    oldest until some room is to spare."""
    old = [one for one in kept if one.written_us + ttl_us <= now_us]
    left = sorted(set(kept).difference(old), key=lambda one: (one.written_us, one.path))
    total = sum(one.size for one in left)
    if total + wanted <= bytes_max:
        return old
    room = bytes_max - bytes_max // _SPARE
    for one in left:
        if total + wanted <= room:
            break
        old.append(one)
        total -= one.size
    return old


class StoreLevel:
    """For one event loop; the store is read and written in threads of its own."""

    name = "store"

    def __init__(
        self, store: ObjectStore, temp: Path, clock: Clock, *, bytes_max: int, ttl_s: int
    ) -> None:
        """temp: Folder for what is about to be moved into the store.

        bytes_max: Of all answers there; processes that write at the same time may go beyond it by
            an answer each, until the next one is written. One answer may have a quarter.
        ttl_s: Life of an answer.
        """
        self.counts = Counts()
        self.size = 0
        self._store = store
        self._temp = temp
        self._clock = clock
        self._bytes_max = bytes_max
        self._ttl_us = ttl_s * 1_000_000
        self._reading = Breaker("reading answers from the store", clock)
        self._writing = Breaker("writing answers to the store", clock)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="kept-answers")
        # One at a time: what is written is on disk, and waits for its turn there.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="keep-answers")

    @property
    def up(self) -> bool:
        return self._reading.closed

    def takes(self, size_bytes: int) -> bool:
        return SMALL_BYTES_MAX < size_bytes <= self._bytes_max // 4

    async def get(self, key: str, form: Format) -> Written | None:
        if not self._reading.allows():
            self.counts.skipped += 1
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                found = await loop.run_in_executor(self._readers, self._read, key, form)
        except NotFoundError:
            self._reading.succeeded()
            self.counts.misses += 1
            return None
        except DamagedError:
            self._reading.succeeded()
            self.counts.damaged += 1
            return None
        except (LakehouseError, OSError, pa.ArrowException) as error:
            self.counts.errors += 1
            self._reading.failed(type(error).__name__)
            return None
        self._reading.succeeded()
        self.counts.hits += 1
        self.counts.read_bytes += found.whole.size
        return found

    async def put(self, key: str, stored: Written) -> None:
        if not self._writing.allows():
            self.counts.skipped += 1
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writer, self._write, key, stored)
        except (LakehouseError, OSError, pa.ArrowException) as error:
            self.counts.errors += 1
            self._writing.failed(type(error).__name__)
            return
        self._writing.succeeded()
        self.counts.written_bytes += stored.whole.size

    async def close(self) -> None:
        for pool in (self._readers, self._writer):
            pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, key: str, form: Format) -> Written:
        """Raises NotFoundError, DamagedError, or what the store raises."""
        path = answer_path(key)
        try:
            with self._store.filesystem.open_input_file(self._store.locate(path)) as stream:
                return self._checked(stream, stream.size(), key, form)
        except DamagedError:
            # It would be found again and again, until it is as old as it may be.
            with suppress(LakehouseError):
                self._store.delete(path)
            raise
        except OSError as error:
            raise explain(error, f"reading {path}") from error

    def _checked(self, stream: Any, size: int, key: str, form: Format) -> Written:
        first = stream.read(BESIDE_BYTES_MAX)
        head, begins = read_head(first, key, form)
        if size != begins + head.size:
            raise DamagedError("shorter or longer than it says")
        stream.seek(begins)
        if head.size <= MEMORY_BYTES:
            return head.holding(stream.read(head.size))
        file = tempfile.TemporaryFile()  # noqa: SIM115 - handed on
        try:
            _copy(stream, file, head)
        except BaseException:
            file.close()
            raise
        whole = Whole(head.form, head.rows, head.size, head.sha256, None, file)
        return Written(whole, head.following)

    def _write(self, key: str, stored: Written) -> None:
        head = spell_head(key, stored)
        self._make_room(len(head) + stored.whole.size)
        self._temp.mkdir(parents=True, exist_ok=True)
        # A process that is killed now leaves it there; `_make_room` frees it.
        descriptor, name = tempfile.mkstemp(prefix="answer-", dir=self._temp)
        aside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(head)
                for piece in pieces(stored.whole, _READ_BYTES):
                    file.write(piece)
            self._store.put_file(answer_path(key), aside)
        finally:
            aside.unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> None:
        now_us = self._clock.now_us()
        for left in self._temp.glob("answer-*"):
            with suppress(FileNotFoundError):
                if left.stat().st_mtime * 1e6 + _ABANDONED_US < now_us:
                    left.unlink()
        kept = list(self._list(now_us))
        removed = to_remove(
            kept, now_us, bytes_max=self._bytes_max, ttl_us=self._ttl_us, wanted=wanted
        )
        for one in removed:
            self._store.delete(one.path)
        self.size = sum(one.size for one in kept) - sum(one.size for one in removed) + wanted

    def _list(self, now_us: int) -> Iterator[Kept]:
        """All that lies there, also what was never finished and never will be."""
        selector = pafs.FileSelector(self._store.locate(ANSWERS), allow_not_found=True)
        try:
            found = self._store.filesystem.get_file_info(selector)
        except OSError as error:
            raise explain(error, f"listing {ANSWERS}") from error
        for info in found:
            if info.type != pafs.FileType.File:
                continue
            written_us = (info.mtime_ns or 0) // 1000
            if info.base_name.endswith(".part"):
                if written_us + _ABANDONED_US > now_us:
                    continue
                written_us = 0
            yield Kept(f"{ANSWERS}/{info.base_name}", info.size, written_us)


def _copy(stream: Any, file: IO[bytes], head: Head) -> None:
    """Raises DamagedError where what is copied is not what the head says."""
    found = hashlib.sha256()
    left = head.size
    while left and (piece := stream.read(min(left, _READ_BYTES))):
        found.update(piece)
        file.write(piece)
        left -= len(piece)
    if left or found.digest() != head.sha256:
        raise DamagedError("the body is not the one that was kept")
    file.flush()


def pieces(whole: Whole, size_bytes: int) -> Iterator[bytes]:
    """The body of an answer piece by piece. Others may read the same answer at the same time."""
    if whole.data is not None:
        view = memoryview(whole.data)
        for begins in range(0, whole.size, size_bytes):
            yield bytes(view[begins : begins + size_bytes])
        return
    assert whole.file is not None
    descriptor = whole.file.fileno()
    at = 0
    # Not by the file's own position: there is but one.
    while piece := os.pread(descriptor, size_bytes, at):
        yield piece
        at += len(piece)
