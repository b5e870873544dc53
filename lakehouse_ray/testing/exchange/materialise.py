"""Writes an archive, or part of it, into a folder: the same bytes, names and dates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from lakehouse_ray.testing.exchange.archive import Archive, walk

# Keys that are out at once: enough to keep the threads busy, few enough to bound what is held.
_BATCH = 64


@dataclass(frozen=True)
class Written:
    """What came to lie in the folder, CHECKSUM files included."""

    objects: int
    size_bytes: int


def write_archive(
    archive: Archive, folder: Path, prefix: str = "", match: str = "*", threads: int | None = None
) -> Written:
    """Write the objects whose key begins with `prefix` and fits the glob `match`.

    `folder` can then be served as a FolderArchive. Each file appears whole, with the archive's
    Last-Modified; writing again replaces it. The CHECKSUM of a zip goes with it, so `match` need
    only fit the zip.

    threads: By default one for each CPU.
    """
    objects = size_bytes = 0
    keys = _wanted(archive, prefix, match)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        while batch := list(islice(keys, _BATCH)):
            for size in pool.map(lambda key: _write(archive, folder, key), batch):
                objects += 1
                size_bytes += size
    return Written(objects, size_bytes)


def _wanted(archive: Archive, prefix: str, match: str) -> Iterator[str]:
    for key in walk(archive, prefix):
        if fnmatchcase(key, match) or fnmatchcase(key.removesuffix(".CHECKSUM"), match):
            yield key


def _write(archive: Archive, folder: Path, key: str) -> int:
    blob = archive.read(key)
    if blob is None:  # removed since it was listed
        return 0
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that begins with a dot is not served, so nobody sees half a file.
    aside = path.with_name(f".{path.name}.part")
    body = blob.bytes()
    aside.write_bytes(body)
    os.utime(aside, (blob.head.modified_s, blob.head.modified_s))
    aside.replace(path)
    return len(body)
