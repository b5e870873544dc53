"""Files of a bucket, copied to a folder of this machine: for who must not have its credentials.

A data file is never changed under its name, so that a copy is never stale. What a process has copied
is its own: nobody else reads or removes it while the process lives, and the next one removes what a
process that was killed has left.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from lakehouse_ray.errors import ResourceError, UnavailableError
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.pages import check_pages

# Of each, one piece is in memory.
FILES_AT_ONCE = 8
_PIECE_BYTES = 8 << 20
_STOPPED_EVERY_S = 0.1


class NoRoomError(ResourceError):
    """Files have more bytes than may be kept: those wanted, or together with those others use.

    wanted_bytes: Of one question. bytes_max: Of all.
    """

    def __init__(self, wanted_bytes: int, bytes_max: int) -> None:
        super().__init__(wanted_bytes, bytes_max)
        self.wanted_bytes = wanted_bytes
        self.bytes_max = bytes_max

    def __str__(self) -> str:
        return f"its files have {self.wanted_bytes:,} bytes; {self.bytes_max:,} may be copied here"


class LocalCopies:
    """Copies in a folder, at most so many bytes of them. For several threads.

    The least lately used are removed where room is needed, but none that is in use.
    """

    def __init__(self, store: ObjectStore, folder: Path, bytes_max: int) -> None:
        """folder: Where each process makes one of its own."""
        self._store = store
        self._bytes_max = bytes_max
        self._folder, self._lease = _own_folder(folder)
        # Bytes of each file that is here or on its way, the least lately used first.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._coming: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="copy")

    def close(self) -> None:
        """Remove all copies."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        _lease_of(self._folder).unlink(missing_ok=True)
        os.close(self._lease)

    @contextmanager
    def room(self) -> Iterator[Path]:
        """An empty folder for who may see nothing but what is put there; gone with the context."""
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def hold(
        self, sizes: Mapping[str, int], room: Path, stopped: Callable[[], None]
    ) -> Iterator[dict[str, str]]:
        """Copy what is not here yet, and keep all while the context lasts. Gives where each is.

        Who stops waiting leaves the copying to go on: the next one who asks has less to wait for.

        sizes: Bytes of each object by its path in the store, as its table says.
        room: Of `room`, where they are shown.
        stopped: Raises where nobody waits any more; asked every now and then.

        Raises NoRoomError where they do not fit, UnavailableError where one is not whole.
        """
        shown = {path: room / self._place(path).name for path in sizes}
        with self._lock:
            coming = self._take(sizes)
        try:
            _await(coming, stopped)
            for path, name in shown.items():
                os.link(self._place(path), name)
            yield {path: str(name) for path, name in shown.items()}
        finally:
            for name in shown.values():
                name.unlink(missing_ok=True)
            with self._lock:
                self._users -= Counter(dict.fromkeys(sizes, 1))

    def _take(self, sizes: Mapping[str, int]) -> list[Future[None]]:
        busy = {*self._users, *self._coming} - {*sizes}
        wanted = sum(sizes.values())
        if wanted + sum(self._sizes.get(path, 0) for path in busy) > self._bytes_max:
            raise NoRoomError(wanted, self._bytes_max)
        new = [path for path in sizes if path not in self._sizes]
        for path, size in sizes.items():
            self._sizes[path] = size
            self._sizes.move_to_end(path)
        self._users.update(sizes.keys())
        self._make_room(busy | {*sizes})
        for path in new:
            self._coming[path] = self._threads.submit(self._copy, path, sizes[path])
        return [self._coming[path] for path in sizes if path in self._coming]

    def _make_room(self, needed: set[str]) -> None:
        """Remove the least lately used, until what is here and what comes fits."""
        size = sum(self._sizes.values())
        for path in [path for path in self._sizes if path not in needed]:
            if size <= self._bytes_max:
                break
            size -= self._sizes.pop(path)
            self._place(path).unlink(missing_ok=True)

    def _place(self, path: str) -> Path:
        return self._folder / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.parquet"

    def _copy(self, path: str, size: int) -> None:
        place = self._place(path)
        try:
            self._fetch(path, size, place)
            # It may have been cut or changed on its way.
            check_pages(pafs.LocalFileSystem(), str(place))
        except BaseException as error:
            place.unlink(missing_ok=True)
            with self._lock:
                del self._sizes[path], self._coming[path]
            if isinstance(error, FileNotFoundError | pa.ArrowException):
                raise UnavailableError(f"{path} cannot be copied: {error}") from error
            if isinstance(error, OSError):
                raise explain(error, f"copying {path}") from error
            raise
        with self._lock:
            del self._coming[path]

    def _fetch(self, path: str, size: int, place: Path) -> None:
        with (
            self._store.filesystem.open_input_file(self._store.locate(path)) as source,
            place.open("wb") as target,
        ):
            if source.size() != size:
                raise UnavailableError(
                    f"{path} has {source.size():,} bytes, and its table says {size:,}"
                )
            for start in range(0, size, _PIECE_BYTES):
                if self._closed.is_set():
                    raise UnavailableError("the service ends")
                target.write(source.read_at(min(_PIECE_BYTES, size - start), start))
        if place.stat().st_size != size:
            raise UnavailableError(f"{path} came without its end")


def _await(coming: Sequence[Future[None]], stopped: Callable[[], None]) -> None:
    waiting: Any = set(coming)
    while waiting:
        stopped()
        done, waiting = wait(waiting, _STOPPED_EVERY_S, FIRST_EXCEPTION)
        for future in done:
            future.result()


def _own_folder(home: Path) -> tuple[Path, int]:
    """Make a folder for this process, and remove those of processes that have ended.

    Returns it and a file that is locked for as long as it is open: so that it is seen to be used.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (home / ".lock").open("w") as all_of_them:
            fcntl.flock(all_of_them, fcntl.LOCK_EX)
            for lease in home.glob("*.lease"):
                _remove_left(lease)
            folder = home / uuid.uuid4().hex
            lease_file = os.open(_lease_of(folder), os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lease_file, fcntl.LOCK_EX)
            folder.mkdir(mode=0o700)
            return folder, lease_file
    except OSError as error:
        raise explain(error, f"making a folder in {home}") from error


def _remove_left(lease: Path) -> None:
    with suppress(OSError), lease.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lease.with_suffix(""), ignore_errors=True)
        lease.unlink()


def _lease_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lease")
