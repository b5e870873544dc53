"""What the replica exchange serves: a tree of objects named as in data.binance.vision.

`Archive` is the contract of every backend; `FolderArchive` serves a folder of real files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lakehouse_ray.errors import InvalidError

# Objects beyond this size are streamed from the disk and never held in memory.
IN_MEMORY_BYTES_MAX = 32 * 2**20
# Deeper than any key of the archive (8 segments); ends a walk through folders linked in a circle.
DEPTH_MAX = 16


@dataclass(frozen=True)
class Head:
    """What HEAD and a listing say of an object.

    etag: Without the quotes that HTTP puts around it.
    modified_s: Seconds since 1970-01-01 UTC.
    """

    size_bytes: int
    etag: str
    modified_s: int


@dataclass(frozen=True)
class Blob:
    """One version of an object: either its bytes or the file that holds them."""

    head: Head
    body: bytes = b""
    file: Path | None = None

    def bytes(self) -> bytes:
        """All of its bytes, read from the file where it is one."""
        return self.body if self.file is None else self.file.read_bytes()


class Archive(Protocol):
    """A tree of objects. Safe to use from several threads."""

    def children(self, folder: str) -> list[str]:
        """Names directly under `folder` (empty or ending in "/"), subfolders with a final "/".

        In UTF-8 byte order. A subfolder may turn out to be empty: ask `inhabited`.
        """

    def inhabited(self, folder: str) -> bool:
        """Whether any object is below `folder`. A bucket knows no empty folders, a disk does."""

    def version(self, key: str) -> Hashable | None:
        """Something that changes whenever the object's bytes do; None where there is no object.

        Cheap: asked for at every request.
        """

    def head(self, key: str) -> Head | None: ...

    def read(self, key: str) -> Blob | None: ...


def walk(
    archive: Archive, prefix: str = "", after: str = "", *, descend: bool = True
) -> Iterator[str]:
    """Yield the keys that begin with `prefix` and follow `after`, in UTF-8 byte order.

    Folders are looked at one by one as the iterator is drained, and those that end before `after`
    not at all, so the first page of a huge archive is as cheap as that of a small one.

    descend: If false, stop at the first "/" after the prefix and yield the folder (with its final
        "/") in place of the keys below it.
    """
    folder = prefix[: prefix.rfind("/") + 1]
    yield from _walk(archive, folder, prefix, after.encode(), descend)


def _walk(archive: Archive, folder: str, prefix: str, after: bytes, descend: bool) -> Iterator[str]:
    for name in archive.children(folder):
        path = folder + name
        if not path.startswith(prefix):
            continue
        raw = path.encode()
        if not name.endswith("/") or not descend:
            if raw > after and (not name.endswith("/") or archive.inhabited(path)):
                yield path
        elif raw > after or after.startswith(raw):
            yield from _walk(archive, path, prefix, after, descend)


class FolderArchive:
    """Serves the `data` folder below `root`, laid out as data.binance.vision is.

    Nothing is written, so the folder may be read-only, and nothing about the tree is remembered,
    so files that come, go or change show at the next request. ETags are md5 sums, computed once
    per (modification time, size). Names that begin with a dot are not served. Links are followed.
    """

    def __init__(self, root: Path) -> None:
        """Raise InvalidError where `root` has no folder `data`."""
        if not (root / "data").is_dir():
            raise InvalidError(
                f"{root} cannot be served: it has no folder 'data'",
                "name the folder that holds data/spot or data/futures",
            )
        self._root = os.fspath(root.absolute())
        self._etags: dict[str, tuple[tuple[int, int], str]] = {}

    def children(self, folder: str) -> list[str]:
        if folder == "":
            return ["data/"]
        path = self._path(folder.removesuffix("/"))
        if path is None or folder.count("/") > DEPTH_MAX:
            return []
        try:
            with os.scandir(path) as entries:
                names = [
                    entry.name.encode() + (b"/" if entry.is_dir() else b"")
                    for entry in entries
                    if _served(entry.name)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        names.sort()
        return [name.decode() for name in names]

    def inhabited(self, folder: str) -> bool:
        path = self._path(folder.removesuffix("/") or "data")
        return path is not None and _has_object(path, folder.count("/"))

    def version(self, key: str) -> Hashable | None:
        status = self._status(key)
        return None if status is None else (status.st_mtime_ns, status.st_size)

    def head(self, key: str) -> Head | None:
        status = self._status(key)
        if status is None:
            return None
        version = (status.st_mtime_ns, status.st_size)
        known = self._etags.get(key)
        if known is None or known[0] != version:
            with open(f"{self._root}/{key}", "rb") as file:
                etag = hashlib.file_digest(file, _md5).hexdigest()
            known = (version, etag)
            self._etags[key] = known
        return Head(status.st_size, known[1], int(status.st_mtime))

    def read(self, key: str) -> Blob | None:
        status = self._status(key)
        if status is None:
            return None
        if status.st_size > IN_MEMORY_BYTES_MAX:
            head = self.head(key)
            return None if head is None else Blob(head, file=Path(self._root, key))
        with open(f"{self._root}/{key}", "rb") as file:
            status = os.fstat(file.fileno())
            body = file.read()
        etag = _md5(body).hexdigest()
        self._etags[key] = ((status.st_mtime_ns, status.st_size), etag)
        return Blob(Head(len(body), etag, int(status.st_mtime)), body)

    def _path(self, key: str) -> str | None:
        segments = key.split("/")
        if segments[0] != "data" or "\0" in key or not all(map(_served, segments)):
            return None
        return f"{self._root}/{key}"

    def _status(self, key: str) -> os.stat_result | None:
        path = self._path(key)
        if path is None:
            return None
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # absent, too long a name, or characters no path can hold
            return None
        return status if stat.S_ISREG(status.st_mode) else None


def _has_object(path: str, depth: int) -> bool:
    if depth > DEPTH_MAX:
        return False
    folders = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not _served(entry.name):
                    continue
                if not entry.is_dir():
                    return True
                folders.append(entry.path)
    except (FileNotFoundError, NotADirectoryError):  # gone since it was listed
        return False
    return any(_has_object(folder, depth + 1) for folder in folders)


def _served(name: str) -> bool:
    # An empty segment, "." and ".." end here as well: no key leads out of the root. A name that is
    # not UTF-8 (which Python shows as lone surrogates) cannot be a key.
    return name != "" and not name.startswith(".") and name.isprintable()


def _md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)
