"""Raw objects that bronze has lost, fetched again from the archive.

Only what the archive still has byte for byte: an object that was published anew since is another
version, and is what the next ingestion brings. Nothing but bronze is written.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.model.venue import FREQS
from lakehouse_ray.sources.http import HttpClient
from lakehouse_ray.storage.ledger import read_object_log
from lakehouse_ray.storage.objects import explain
from lakehouse_ray.storage.paths import BRONZE

_COLUMNS = ("key", "freq", "path", "sha256", "size", "seen_at")
_READ_BYTES = 1 << 20


@dataclass
class Refetched:
    """lost: Paths below the store's root of objects that are gone, have another size or, where all was
    read, other bytes. fetched: Of them, those that bronze has again. refused: Why the others are not."""

    lost: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Object:
    key: str
    path: str
    sha256: str


def refetch(writer: Writer, *, deep: bool, dry_run: bool) -> Refetched:
    """Fetch what bronze has lost of the archive's objects. Safe to repeat.

    deep: Read every object and hold it against its sha256, too.
    """
    lost = sorted(_lost(writer, deep), key=lambda one: one.path)
    told = Refetched([one.path for one in lost])
    if lost and not dry_run:
        asyncio.run(_fetch_all(writer, lost, told))
    return told


def _lost(writer: Writer, deep: bool) -> Iterator[_Object]:
    log = read_object_log(writer.catalog, columns=_COLUMNS)
    kept = (
        log.filter(pl.col("freq").is_in(FREQS) & pl.col("path").is_not_null())
        .group_by("path", maintain_order=True)
        .last()
    )
    sizes = dict(writer.store.walk(BRONZE))
    for key, path, sha256, size in kept.select("key", "path", "sha256", "size").iter_rows():
        if sizes.get(path) != size or (deep and _sha256(writer, path) != sha256):
            yield _Object(key, path, sha256)


def _sha256(writer: Writer, path: str) -> str:
    digest = hashlib.sha256()
    store = writer.store
    try:
        with store.filesystem.open_input_stream(store.locate(path), compression=None) as stream:
            while chunk := stream.read(_READ_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise explain(error, f"reading {path}") from error
    return digest.hexdigest()


async def _fetch_all(writer: Writer, lost: list[_Object], told: Refetched) -> None:
    client = writer.http_client()
    queue = iter(lost)

    async def worker() -> None:
        for one in queue:
            try:
                why = await _fetch(writer, client, one)
            except LakehouseError as error:
                why = str(error)
            if why:
                told.refused[one.path] = why
            else:
                told.fetched.append(one.path)

    try:
        lanes = min(writer.settings.ingest.requests_in_flight, len(lost))
        await asyncio.gather(*(worker() for _ in range(lanes)))
    finally:
        await client.close()
    told.fetched.sort()


async def _fetch(writer: Writer, client: HttpClient, one: _Object) -> str:
    """Why it is not in bronze again; empty: it is."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-") as folder:
        file = Path(folder) / "object"
        got = await client.download(writer.archive.object_url(one.key), file)
        if got.sha256 != one.sha256:
            return "the archive has another version of it by now"
        await asyncio.to_thread(writer.store.put_file, one.path, file)
    return ""
