"""HTTP that keeps trying within limits.

429, 5xx, resets, timeouts and torn bodies are tried again with exponential backoff and jitter inside
a budget; `Retry-After` is honoured by every request of the client. What the exchange says is final
(403, 404) comes back at once.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import aiohttp
import stamina
import stamina.instrumentation
import structlog
from aiohttp.abc import AbstractResolver
from yarl import URL

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import DeniedError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.model.timespan import from_us
from lakehouse_ray.sources.addresses import refuse_address

R = TypeVar("R")

log = structlog.get_logger()

USER_AGENT = "lakehouse_ray"
_WAIT_INITIAL_S = 0.2
_WAIT_MAX_S = 20.0
# A server that sends less than this is not worth the place it takes.
_BYTES_PER_S_MIN = 16 << 10
_SMALL_BYTES = 1 << 20
_FRESH = {"Cache-Control": "no-cache"}
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
# 418: the exchange's word for an address that went on after 429; its Retry-After says how long.
_RETRIED = frozenset({408, 416, 418, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RetryPolicy:
    """attempts_max: Times a request is sent. budget_s: Time it may spend between attempts."""

    attempts_max: int = 8
    budget_s: float = 180.0


@dataclass(frozen=True)
class Response:
    """A whole answer with status 200."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Spoken:
    """A whole answer of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Downloaded:
    """A body that went to a file.

    sha256: Of all its bytes, in hexadecimal.
    """

    url: str
    headers: Mapping[str, str]
    size_bytes: int
    sha256: str


class HttpClient:
    """One connection pool of one event loop. Close it in that loop."""

    def __init__(
        self,
        in_flight_max: int,
        timeout_s: float,
        retry: RetryPolicy,
        clock: Clock,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """timeout_s: Time without a byte after which an attempt has failed.
        resolver: Of names; aiohttp's own by default."""
        self._retry = retry
        self._clock = clock
        self._timeout_s = timeout_s
        self._resolver = resolver
        self._quiet_until_s = 0.0
        self._small_timeout = self._timeout(timeout_s + _SMALL_BYTES / _BYTES_PER_S_MIN)
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=in_flight_max, resolver=resolver),
            read_bufsize=1 << 20,
            headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT},
        )

    def _timeout(self, total_s: float | None) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=total_s, sock_connect=min(15.0, self._timeout_s), sock_read=self._timeout_s
        )

    async def close(self) -> None:
        await self._session.close()
        if self._resolver is not None:  # aiohttp closes its own alone
            await self._resolver.close()

    async def get(self, url: str, *, fresh: bool = False, size_hint: int = 0) -> Response:
        """Return the answer to a GET.

        fresh: Ask caches on the way to look again.
        size_hint: Bytes expected, for the time the whole answer may take.

        Raises NotFoundError for 404 and 410, DeniedError for 401, 403 and 451, UnavailableError
        for anything that kept failing.
        """
        headers = _FRESH if fresh else None
        timeout = self._small_timeout
        if size_hint > _SMALL_BYTES:
            timeout = self._timeout(self._timeout_s + size_hint / _BYTES_PER_S_MIN)
        # Callers have percent-encoded what needs it; doing it again costs more than the rest.
        address = URL(url, encoded=True)

        async def once() -> Response:
            async with self._session.get(address, headers=headers, timeout=timeout) as answer:
                await self._check(answer)
                return Response(url, answer.headers, await answer.read())

        return await self._keep_trying(url, once)

    async def download(self, url: str, file: Path, *, fresh: bool = False) -> Downloaded:
        """Stream a body to a file; a torn transfer goes on where it stopped if the object is the same.

        Raises as `get` does; the file may then hold a part.
        """
        timeout = self._timeout(None)
        address = URL(url, encoded=True)
        state = _Transfer(file)

        async def once() -> Downloaded:
            headers = dict(_FRESH) if fresh else {}
            if state.size_bytes and state.etag:
                headers |= {"Range": f"bytes={state.size_bytes}-", "If-Range": state.etag}
            async with self._session.get(address, headers=headers, timeout=timeout) as answer:
                if answer.status == 416:
                    # What is held already does not fit the object of now: from the start, then.
                    state.restart("")
                await self._check(answer)
                if answer.status != 206:
                    state.restart(answer.headers.get("ETag", ""))
                started = time.monotonic()
                received = 0
                async for chunk in answer.content.iter_chunked(1 << 20):
                    state.write(chunk)
                    received += len(chunk)
                    spent = time.monotonic() - started
                    if spent > self._timeout_s and received < spent * _BYTES_PER_S_MIN:
                        raise TimeoutError(f"under {_BYTES_PER_S_MIN} bytes a second")
                return Downloaded(url, answer.headers, state.size_bytes, state.sha256.hexdigest())

        try:
            return await self._keep_trying(url, once)
        finally:
            state.close()

    async def speak(self, url: str, headers: Mapping[str, str], bytes_max: int) -> Spoken:
        """Return the answer to one GET, sent once, whatever its status.

        Raises UnavailableError for no answer, a torn one, and one of more than `bytes_max`.
        """
        try:
            async with self._session.get(
                URL(url, encoded=True),
                headers=headers,
                timeout=self._small_timeout,
                allow_redirects=False,
            ) as answer:
                body = await answer.content.read(bytes_max + 1)
                while len(body) <= bytes_max and not answer.content.at_eof():
                    body += await answer.content.read(bytes_max + 1 - len(body))
                if len(body) > bytes_max:
                    raise UnavailableError(f"more than {bytes_max:,} bytes")
                return Spoken(answer.status, answer.headers, body)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise UnavailableError(_describe(error)) from error

    async def send(
        self,
        method: str,
        url: str,
        body: bytes,
        headers: Callable[[], Mapping[str, str]],
        *,
        called: str,
    ) -> int:
        """Send a body to somebody else's service; return how often until it was taken (2xx).

        headers: Of each attempt, since a signature tells its time.
        called: What messages name instead of the url, which may hold a secret.

        No redirect is followed. Raises DeniedError for 401 and 403, InvalidError for other answers
        that are final and addresses that are refused, UnavailableError for what kept failing.
        """
        address = URL(url)
        refuse_address(address.host or "")
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        attempts = 0

        async def once() -> int:
            nonlocal attempts
            attempts += 1
            try:
                async with self._session.request(
                    method,
                    address,
                    data=body,
                    headers=headers(),
                    timeout=timeout,
                    allow_redirects=False,
                ) as answer:
                    status, wait = answer.status, answer.headers.get("Retry-After")
            except aiohttp.InvalidURL:
                raise InvalidError(f"{called}: nothing can be sent to such an address") from None
            except (aiohttp.ClientError, TimeoutError) as error:
                # Its own words, and those of what it comes from, may hold the url.
                raise UnavailableError(_without_url(error)) from None
            self._check_taken(status, wait, called)
            return attempts

        return await self._keep_trying(called, once)

    def _check_taken(self, status: int, retry_after: str | None, called: str) -> None:
        if 200 <= status < 300:
            return
        # A server's own reason phrase is whatever it likes, such as what it was asked for.
        said = f"{status} {_PHRASES.get(status, '')}".strip()
        if status in _RETRIED or status >= 500:
            wait_s = _retry_after_s(retry_after, self._clock)
            if wait_s is not None:
                self._quiet_until_s = max(self._quiet_until_s, time.monotonic() + wait_s)
            raise UnavailableError(f"answers {said}", wait_s)
        if status in (401, 403):
            raise DeniedError(f"{called} refused it ({said})")
        if 300 <= status < 400:
            raise InvalidError(
                f"{called} answers {said}: redirects are not followed", "set the address itself"
            )
        raise InvalidError(f"{called} does not take it ({said})", "is the address right?")

    async def _keep_trying(self, url: str, once: Callable[[], Awaitable[R]]) -> R:
        """Send it once; only a failure pays for the machinery of trying again."""
        try:
            await self._wait_for_quiet()
            return await once()
        except (aiohttp.ClientError, TimeoutError, UnavailableError, ConnectionError) as error:
            first = error
        attempts = 1
        try:
            if self._retry.attempts_max < 2:
                raise first
            async for attempt in stamina.retry_context(
                on=_worth_trying_again,
                attempts=self._retry.attempts_max - 1,
                timeout=self._retry.budget_s,
                wait_initial=_WAIT_INITIAL_S,
                wait_max=_WAIT_MAX_S,
            ):
                if attempts == 1:
                    await asyncio.sleep(_WAIT_INITIAL_S)
                # Not an attempt: where the server asks for more than the budget, this is the end.
                await self._wait_for_quiet()
                with attempt:
                    attempts += 1
                    return await once()
        except (aiohttp.ClientError, TimeoutError, UnavailableError, ConnectionError) as error:
            message = f"{url}: {_describe(error)}; gave up after {attempts} attempts"
            after = error.retry_after_s if isinstance(error, UnavailableError) else None
            raise UnavailableError(message, after) from error
        raise AssertionError("unreachable: the loop above returns or raises")

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status in (200, 206):
            return
        if answer.status in (404, 410):
            raise NotFoundError(f"{answer.url}: not there ({answer.status})")
        if answer.status in (401, 403, 451):
            raise DeniedError(f"{answer.url}: refused ({answer.status} {answer.reason})")
        wait_s = _retry_after_s(answer.headers.get("Retry-After"), self._clock)
        if wait_s is not None:
            # Everybody waits, not only the request that was told.
            self._quiet_until_s = max(self._quiet_until_s, time.monotonic() + wait_s)
        if answer.status in _RETRIED or answer.status >= 500:
            raise UnavailableError(f"{answer.status} {answer.reason}", wait_s)
        raise NotFoundError(f"{answer.url}: unexpected answer {answer.status} {answer.reason}")

    async def _wait_for_quiet(self) -> None:
        while (left_s := self._quiet_until_s - time.monotonic()) > 0:
            if left_s > self._retry.budget_s:
                raise UnavailableError(
                    f"the server asks for {left_s:.0f} s of quiet, more than the budget of "
                    f"{self._retry.budget_s:.0f} s",
                    left_s,
                )
            await asyncio.sleep(left_s)


class _Transfer:
    """A file being filled, its hash kept in step."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by `close`
        self.restart("")

    def restart(self, etag: str) -> None:
        os.ftruncate(self._file.fileno(), 0)
        self._file.seek(0)
        self.etag = etag
        self.size_bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        # A disk that is almost full takes a part and complains only of the rest.
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self.sha256.update(chunk)
        self.size_bytes += len(chunk)

    def close(self) -> None:
        self._file.close()


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    log.info(
        "retry",
        error=_describe(details.caused_by),
        retry=details.retry_num,
        wait_s=round(details.wait_for, 2),
    )


# Stamina's own hook warns of every retry, though trying again is what is promised here.
stamina.instrumentation.set_on_retry_hooks((_log_retry,))


def _worth_trying_again(error: Exception) -> bool:
    """What the server asked to wait is kept by `_wait_for_quiet`, for all requests alike."""
    return isinstance(
        error, UnavailableError | aiohttp.ClientError | TimeoutError | ConnectionError
    )


def _without_url(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        # Negative: of getaddrinfo, that is, of the name.
        number = error.os_error.errno or 0
        return f"cannot be reached ({os.strerror(number) if number > 0 else 'no such host'})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"the connection failed ({type(error).__name__})"


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _retry_after_s(header: str | None, clock: Clock) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": UTC, from a clock of no known zone
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - from_us(clock.now_us())).total_seconds())
