"""Bringing objects into bronze: fetched, verified, kept byte for byte.

Nothing is stored before its sha256 equals the published one: what the CHECKSUM file holds, or what the
listing proves that it holds. An object that is refused is fetched
once more in the same run, past any cache; after that it is refused with a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType

from lakehouse_ray.errors import (
    BadDataError,
    DeniedError,
    LakehouseError,
    NotFoundError,
    UnavailableError,
)
from lakehouse_ray.model.timespan import format_time, to_us
from lakehouse_ray.model.work import ObjectResult, ObjectTask, RawObject, version_of
from lakehouse_ray.sources.http import HttpClient
from lakehouse_ray.sources.source import ObjectSource
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.paths import BronzePath

_MD5 = re.compile(r"[0-9a-f]{32}")
_CHECKSUM = re.compile(rb"\s*([0-9a-fA-F]{64})\s+\*?(\S+)\s*")
_TRIES = 2


class Fetcher:
    """Downloads in a thread of its own, so that a worker computes meanwhile. Close it."""

    def __init__(
        self,
        source: ObjectSource,
        store: ObjectStore,
        client: Callable[[], HttpClient],
        *,
        in_flight_max: int,
        large_bytes: int,
    ) -> None:
        """large_bytes: Objects above this pass through a file."""
        self._source = source
        self._store = store
        self._in_flight_max = in_flight_max
        self._large_bytes = large_bytes
        # Local files are written at once; a bucket takes a round trip that others should not wait for.
        self._remote_store = "://" in store.root
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()

        async def make() -> HttpClient:
            return client()

        self._client = asyncio.run_coroutine_threadsafe(make(), self._loop).result()

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and its connections."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def fetch(self, tasks: Sequence[ObjectTask]) -> list[RawObject]:
        """Return one result per task, in their order; a task that fails never stops the others.

        Objects of role `stored` are read from bronze. Raises only what concerns all of them, such
        as ResourceError (disk full) and DeniedError.
        """
        return asyncio.run_coroutine_threadsafe(self._fetch_all(tasks), self._loop).result()

    async def _fetch_all(self, tasks: Sequence[ObjectTask]) -> list[RawObject]:
        results: list[RawObject | None] = [None] * len(tasks)
        queue = iter(enumerate(tasks))

        async def worker() -> None:
            for i, task in queue:
                results[i] = await self._fetch_one(task)

        workers = [worker() for _ in range(min(self._in_flight_max, len(tasks)))]
        await asyncio.gather(*workers)
        return [result for result in results if result is not None]

    async def _fetch_one(self, task: ObjectTask) -> RawObject:
        base = ObjectResult(
            task,
            "built",
            url=self._source.object_url(task.key),
            etag=task.etag,
            last_modified_us=task.last_modified_us,
            size=task.size,
        )
        if task.role == "stored":
            return await self._read_stored(base)
        refusal: BadDataError | None = None
        for attempt in range(_TRIES):
            try:
                return await self._download(base, fresh=attempt > 0)
            except _UnfetchedError as error:
                if error.reason == "NOT_THERE" and attempt + 1 < _TRIES:
                    continue  # listed a moment ago: a cache on the way may not know it yet
                return RawObject(
                    replace(base, state="failed", reason=error.reason, detail=error.detail)
                )
            except BadDataError as error:
                refusal = error
        assert refusal is not None
        return RawObject(
            replace(base, state="quarantined", reason=refusal.reason, detail=refusal.detail)
        )

    async def _download(self, base: ObjectResult, *, fresh: bool) -> RawObject:
        task = base.task
        published = ""
        if fresh or not _tells_content(task.checksum_etag):
            published = await self._published(task, fresh=fresh)
        if task.size > self._large_bytes:
            return await self._download_large(base, published, fresh=fresh)
        with _fetching():
            answer = await self._client.get(base.url, fresh=fresh, size_hint=task.size)
        sha256 = hashlib.sha256(answer.body).hexdigest()
        published = published or await self._published_for(task, sha256)
        _compare(published, sha256, answer.body[:200])
        result = _received(
            base, published, sha256, len(answer.body), answer.headers, self._source.venue
        )
        if self._remote_store:
            await asyncio.to_thread(self._store.put, result.path, answer.body)
        else:
            self._store.put(result.path, answer.body)
        return RawObject(result, data=answer.body)

    async def _download_large(
        self, base: ObjectResult, published: str, *, fresh: bool
    ) -> RawObject:
        task = base.task
        with tempfile.NamedTemporaryFile(prefix="lakehouse-", suffix=".zip", delete=False) as made:
            file = Path(made.name)
        copy = file.with_suffix(".copy")
        try:
            with _fetching():
                answer = await self._client.download(base.url, file, fresh=fresh)
            published = published or await self._published_for(task, answer.sha256)
            _compare(published, answer.sha256, await asyncio.to_thread(_start_of, file))
            result = _received(
                base, published, answer.sha256, answer.size_bytes, answer.headers,
                self._source.venue,
            )  # fmt: skip
            # Bronze gets a copy: the receiver reads this one, which is on a local disk.
            await asyncio.to_thread(_link_or_copy, file, copy)
            await asyncio.to_thread(self._store.put_file, result.path, copy)
        except BaseException as error:
            for left in (file, copy):
                await asyncio.to_thread(left.unlink, missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, LakehouseError):
                raise explain(error, f"downloading {base.url} to {file.parent}") from error
            raise
        return RawObject(result, file=file)

    async def _published_for(self, task: ObjectTask, sha256: str) -> str:
        """What the CHECKSUM says, asked for only where the listing does not tell that it says this.

        The ETag of an object that was put in one piece is the md5 of its content, so a listed
        CHECKSUM whose ETag is the md5 of "<sha256>  <name>" holds just that: half of all requests
        of a run over small files need not be made.
        """
        line = f"{sha256}  {task.key.rpartition('/')[2]}".encode()
        digest = hashlib.md5(line, usedforsecurity=False)
        if task.checksum_etag == digest.hexdigest():
            return sha256
        digest.update(b"\n")
        if task.checksum_etag == digest.hexdigest():
            return sha256
        return await self._published(task, fresh=False)

    async def _published(self, task: ObjectTask, *, fresh: bool) -> str:
        url = self._source.checksum_url(task.key)
        try:
            with _fetching():
                answer = await self._client.get(url, fresh=fresh)
        except _UnfetchedError as error:
            if error.reason == "NOT_THERE":
                raise BadDataError("CHECKSUM_MISSING", f"{url} is not there") from error
            raise
        match = _CHECKSUM.fullmatch(answer.body)
        name = task.key.rpartition("/")[2]
        if match is None:
            raise BadDataError("CHECKSUM_UNREADABLE", f"{url} holds {answer.body[:100]!r}")
        if match[2].decode("utf-8", "replace") != name:
            raise BadDataError("CHECKSUM_UNREADABLE", f"{url} is of {match[2]!r}")
        return match[1].decode().lower()

    async def _read_stored(self, base: ObjectResult) -> RawObject:
        task = base.task
        data: bytes | None = None
        file: Path | None = None
        try:
            if task.size > self._large_bytes:
                file, sha256 = await asyncio.to_thread(self._copy_out, task.known_path)
            else:
                data = await asyncio.to_thread(self._store.get, task.known_path)
                sha256 = hashlib.sha256(data).hexdigest()
        except LakehouseError:
            sha256 = ""
        if sha256 != task.known_sha256:
            # Bronze has lost it: fetch it as if it were new, if it is still what it was.
            if file is not None:
                await asyncio.to_thread(file.unlink)
            fetched = await self._fetch_one(replace(task, role="fetch"))
            return replace(fetched, result=replace(fetched.result, task=task))
        result = replace(
            base,
            sha256=task.known_sha256,
            published_sha256=task.known_sha256,
            version=task.known_version,
            path=task.known_path,
            size=task.size if data is None else len(data),
        )
        return RawObject(result, data=data, file=file)

    def _copy_out(self, path: str) -> tuple[Path, str]:
        """Copy an object of bronze to a local file; its sha256 beside it."""
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(prefix="lakehouse-", suffix=".zip", delete=False) as made:
            try:
                store = self._store
                with store.filesystem.open_input_stream(store.locate(path)) as stream:
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
                        made.write(chunk)
            except OSError as error:
                Path(made.name).unlink()
                raise explain(error, f"copying {path}") from error
        return Path(made.name), digest.hexdigest()


def _tells_content(etag: str | None) -> bool:
    return etag is not None and _MD5.fullmatch(etag) is not None


class _UnfetchedError(BadDataError):
    """An object that could not be had now, and may be had in another run."""


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    """Tell what the exchange refuses for one object from what the store refuses for all."""
    try:
        yield
    except NotFoundError as error:
        raise _UnfetchedError("NOT_THERE", str(error)) from error
    except (UnavailableError, DeniedError) as error:
        raise _UnfetchedError("UNAVAILABLE", str(error)) from error


def _compare(published: str, sha256: str, start: bytes) -> None:
    if sha256 == published:
        return
    if not start.startswith(b"PK"):
        raise BadDataError("NOT_A_ZIP", f"the answer begins with {start[:120]!r}")
    raise BadDataError(
        "CHECKSUM_MISMATCH", f"the CHECKSUM file says {published}, the bytes have {sha256}"
    )


def _received(
    base: ObjectResult,
    published: str,
    sha256: str,
    size: int,
    headers: Mapping[str, str],
    venue: str,
) -> ObjectResult:
    get = headers.get
    modified_us = _http_date_us(get("Last-Modified")) or base.last_modified_us
    task = base.task
    if sha256 == task.known_sha256:
        # Published anew with the same content: the rows keep the version they name.
        version = task.known_version
    else:
        version = version_of(format_time(modified_us), sha256, task.known_version)
    return replace(
        base,
        # What the answer says is of the bytes received; the listing may be older or newer.
        etag=(get("ETag") or base.etag).strip('"'),
        last_modified_us=modified_us,
        size=size,
        published_sha256=published,
        sha256=sha256,
        version=version,
        path=str(BronzePath(venue, task.key, sha256)),
        fetched_bytes=size,
    )


def _http_date_us(header: str | None) -> int | None:
    if not header:
        return None
    try:
        moment: datetime = parsedate_to_datetime(header)
    except ValueError:
        return None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _start_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(200)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
