"""The replica exchange as an HTTP server: the bucket of data.binance.vision on loopback, routes of
REST, and websockets.

Objects and listings are answered at the root and, as S3 does with path-style addresses, below the
bucket's name; websockets at /ws and /stream, of futures below /fapi and /dapi. The routes below
/_control/ are the replica's own (`control`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from multidict import CIMultiDict

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.testing.exchange import answers, control
from lakehouse_ray.testing.exchange.answers import xml_response
from lakehouse_ray.testing.exchange.api.desk import RestDesk
from lakehouse_ray.testing.exchange.api.limits import RateLimits
from lakehouse_ray.testing.exchange.api.market_data import MarketData, is_rest
from lakehouse_ray.testing.exchange.api.tickers import Books
from lakehouse_ray.testing.exchange.archive import Archive, Blob, Head
from lakehouse_ray.testing.exchange.cache import BoundedCache
from lakehouse_ray.testing.exchange.conditions import http_date, select
from lakehouse_ray.testing.exchange.faults import Faults, Rule
from lakehouse_ray.testing.exchange.faulty import FaultyArchive
from lakehouse_ray.testing.exchange.history import History
from lakehouse_ray.testing.exchange.listing import (
    BUCKET,
    BadQueryError,
    ListQuery,
    error_xml,
    list_page,
    no_such_key_xml,
    render,
)
from lakehouse_ray.testing.exchange.replay_clock import ReplayClock
from lakehouse_ray.testing.exchange.rest import RestAnswers
from lakehouse_ray.testing.exchange.streams import (
    LIMITS,
    RecordedBooks,
    Recording,
    StreamLimits,
    Streams,
    asked_for,
    sources_of,
)

# Holds a trial of ten million bars as daily zips (300 MB); only what was asked for is kept.
CACHE_BYTES_MAX = 512 * 2**20
# Bodies are written in pieces of this size: large enough to be few, small enough that a slow
# client holds little of a large object in the socket's buffer.
PIECE_BYTES = 2**20
# Different keys that are counted; a run over the whole archive stays far below.
COUNTED_KEYS_MAX = 1_000_000
THREADS = 4


class ReplicaExchange:
    """Serves an archive over HTTP from a thread of its own, until the context is left.

        with ReplicaExchange(FolderArchive(root)) as exchange:
            requests.get(f"{exchange.url}/data/spot/...")

    host: Only a loopback address keeps the replica to this machine.
    port: 0 takes a free one; `url` tells which.
    cache_bytes_max: Memory for the bodies asked for last.
    rest: Bodies of exchangeInfo; of a market without one it is made of the archive.
    rest_archive: What REST remembers, without faults; `archive` where none is given. One that has
        more than `archive` has days that the bucket lacks.
    limits: What one address may ask of REST.
    books: Bodies of the depth route; those of the recording where none are given.
    recording: Frames that streams play, before what the rows of REST's archive give.
    stream_limits: What clients of websockets may do, by market.
    clock: The exchange's time, for all that is timed; a ReplayClock can be told to go faster, or to
        stand still.
    """

    def __init__(
        self,
        archive: Archive,
        faults: Faults | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        clock: Clock | None = None,
        cache_bytes_max: int = CACHE_BYTES_MAX,
        rest: RestAnswers | None = None,
        rest_archive: Archive | None = None,
        limits: RateLimits | None = None,
        books: Books | None = None,
        recording: Recording | None = None,
        stream_limits: Mapping[str, StreamLimits] = LIMITS,
    ) -> None:
        self.clock = clock if isinstance(clock, ReplayClock) else ReplayClock(machine=clock)
        rules = faults or Faults()
        self._archive = FaultyArchive(archive, rules, self.clock)
        self.history = History(rest_archive or archive)
        self._workers = ThreadPoolExecutor(THREADS, thread_name_prefix="replica-exchange")
        recorded_books = RecordedBooks(recording) if recording is not None else None
        sources = sources_of(self.history, recording, recorded_books)
        self.streams = Streams(
            self.clock, sources, self._workers, rules, books=recorded_books, limits=stream_limits
        )
        data = MarketData(self.history, rest, limits, books or self.streams.depth)
        self._rest = RestDesk(data, self._archive, self.clock, self._workers)
        self._host = host
        self._port = port
        self._cache: BoundedCache[Blob] = BoundedCache(cache_bytes_max)
        self._requests: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """Where it answers, without a final "/"; known once it was started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def start(self) -> ReplicaExchange:
        """Answer from now on. Raises UnavailableError where the address cannot be had."""
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="replica-exchange", daemon=True
        )
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        except OSError as error:
            self.stop()
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"failed: {error.strerror}"
            raise UnavailableError(
                f"the replica exchange cannot listen at {self._host}:{self._port}: the address "
                f"{reason}; choose another --port, or 0 for any free one"
            ) from error
        return self

    def stop(self) -> None:
        """Close all connections and end the thread. Stopping twice is harmless."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._workers.shutdown()
            self._loop.close()

    def __enter__(self) -> ReplicaExchange:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def requests(self) -> dict[str, int]:
        """How often each key was asked for (GET and HEAD); listings under "?prefix=<prefix>"."""
        return dict(self._requests)

    def told_limits(self) -> dict[str, dict[str, Any]]:
        """What was asked of REST by market: see `Meter.told`."""
        return self._rest.told_limits()

    def set_faults(self, faults: Faults) -> None:
        """Replace the rules and forget what they counted."""
        self._archive.set_faults(faults)
        self.streams.set_faults(faults)

    def republish(self, match: str, then: str = "stale_values") -> None:
        """From now on serve other content under the zips that match: new ETag, date, CHECKSUM.

        then: The content defect that makes the new version of the old; empty for the backend's own.
        """
        self._archive.republish(match, then)

    async def _listen(self) -> None:
        # Clients that keep a connection open are hardly waited for; 0 would be for ever.
        self._runner = web.ServerRunner(
            web.Server(self._answer, access_log=None), shutdown_timeout=0.05
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, backlog=1024).start()
        self._port = self._runner.addresses[0][1]
        await self.streams.start()

    async def _close(self) -> None:
        try:
            await self.streams.stop()
        finally:
            if self._runner is not None:
                await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        raw, _, query = request.raw_path.partition("?")
        key = unquote(raw).removeprefix("/")
        if key.startswith(control.PREFIX):
            return await control.answer(self, request, key.removeprefix(control.PREFIX))
        if is_rest(key):
            self._count(key)
            return await self._rest.answer(request, key, query)
        if request.method not in ("GET", "HEAD"):
            message = "The specified method is not allowed against this resource."
            return xml_response(405, error_xml("MethodNotAllowed", message))
        if key in ("", BUCKET, f"{BUCKET}/"):
            return await self._list(request, dict(parse_qsl(query, keep_blank_values=True)))
        key = key.removeprefix(f"{BUCKET}/")
        rule = self._archive.answer_rule(key)
        self._count(key)
        faulty = None if rule is None else await answers.instead(rule, key)
        if faulty is not None:
            return faulty
        if (stream := asked_for(key, query)) is not None:
            return await self.streams.serve(request, stream)
        return await self._object(request, key, rule)

    async def _list(self, request: web.BaseRequest, query: dict[str, str]) -> web.StreamResponse:
        name = f"?prefix={query.get('prefix', '')}"
        rule = self._archive.answer_rule(name)
        self._count(name)
        faulty = None if rule is None else await answers.instead(rule, name)
        if faulty is not None:
            return faulty
        try:
            asked = ListQuery.parse(query)
        except BadQueryError as error:
            return xml_response(400, error_xml("InvalidArgument", str(error)))
        page = await self._loop.run_in_executor(self._workers, list_page, self._archive, asked)
        body = render(asked, page).encode()
        if rule is not None:
            return await answers.write(rule, request, 200, _xml_headers(), body)
        return web.Response(body=body, headers=_xml_headers())

    async def _object(
        self, request: web.BaseRequest, key: str, rule: Rule | None
    ) -> web.StreamResponse:
        blob = await self._blob(key)
        if blob is None:
            return xml_response(404, no_such_key_xml(key))
        headers = _object_headers(key, blob.head)
        part = select(request.headers, blob.head)
        if part.status == 416:
            message = "The requested range is not satisfiable"
            response = xml_response(416, error_xml("InvalidRange", message))
            response.headers["Content-Range"] = f"bytes */{blob.head.size_bytes}"
            return response
        if part.status == 412:
            message = "At least one of the pre-conditions you specified did not hold"
            return xml_response(412, error_xml("PreconditionFailed", message))
        if part.status == 304:
            del headers["Content-Type"]
            return web.Response(status=304, headers=headers)
        if part.status == 206:
            headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{blob.head.size_bytes}"
        headers["Content-Length"] = str(part.end - part.start)
        if request.method == "HEAD":
            return web.Response(status=part.status, headers=headers)
        self._archive.delivered(key)
        if blob.file is not None and rule is None:
            return await self._stream_file(request, blob, part.status, part.start, headers)
        body = blob.bytes()[part.start : part.end]
        if rule is not None:
            return await answers.write(rule, request, part.status, headers, body)
        if len(body) > PIECE_BYTES:
            return await _stream(request, part.status, headers, body)
        return web.Response(status=part.status, headers=headers, body=body)

    async def _blob(self, key: str) -> Blob | None:
        version = self._archive.version(key)
        if version is None:
            return None
        blob = self._cache.get(key, version)
        if blob is None:
            blob = await self._loop.run_in_executor(self._workers, self._archive.read, key)
            if blob is not None and blob.file is None:
                self._cache.put(key, version, blob, len(blob.body))
        return blob

    async def _stream_file(
        self,
        request: web.BaseRequest,
        blob: Blob,
        status: int,
        start: int,
        headers: CIMultiDict[str],
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        left = int(headers["Content-Length"])
        assert blob.file is not None
        descriptor = os.open(blob.file, os.O_RDONLY)
        try:
            while left > 0:
                piece = await self._loop.run_in_executor(
                    self._workers, os.pread, descriptor, min(PIECE_BYTES, left), start
                )
                if not piece:  # the file shrank: end short, as a broken transfer would
                    break
                await response.write(piece)
                start += len(piece)
                left -= len(piece)
        finally:
            os.close(descriptor)
        return response

    def _count(self, key: str) -> None:
        if key in self._requests or len(self._requests) < COUNTED_KEYS_MAX:
            self._requests[key] += 1


async def _stream(
    request: web.BaseRequest, status: int, headers: CIMultiDict[str], body: bytes
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    view = memoryview(body)
    for start in range(0, len(body), PIECE_BYTES):
        await response.write(view[start : start + PIECE_BYTES])
    return response


def _object_headers(key: str, head: Head) -> CIMultiDict[str]:
    return CIMultiDict(
        {
            "ETag": f'"{head.etag}"',
            "Last-Modified": http_date(head.modified_s),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/zip" if key.endswith(".zip") else "binary/octet-stream",
            "Server": "AmazonS3",
        }
    )


def _xml_headers() -> CIMultiDict[str]:
    return CIMultiDict({"Content-Type": "application/xml", "Server": "AmazonS3"})
