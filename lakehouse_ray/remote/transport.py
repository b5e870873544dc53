"""Questions to the service and whole answers back, over one connection pool.

Tried again is only what the server asks to be tried again: 503 with Retry-After. What is asked here
only reads, or bears a name by which it is done once. The key goes to the one server that was named, and into no message.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import orjson

from lakehouse_ray.errors import InvalidError, ResourceError, UnavailableError
from lakehouse_ray.remote.questions import Question
from lakehouse_ray.remote.refusals import error_of
from lakehouse_ray.remote.reply import ARROW, JSON, Body, Reply

_CHUNK_BYTES = 256 << 10
# Of an error. Problems are some hundred bytes; what a proxy says instead may be a page.
_ERROR_BYTES_MAX = 64 << 10
# A server sends at most 256 MiB unless it is told otherwise.
_ANSWER_BYTES_MAX = 4 << 30
_CONNECTIONS = 8


@dataclass(frozen=True)
class Address:
    """Where the service is. key: For `Authorization`; not shown. timeout_s: Of one question."""

    url: str
    key: str | None
    timeout_s: float

    def __repr__(self) -> str:
        return f"Address({self.url!r})"


def parse_address(url: str, key: str | None, timeout_s: float) -> Address:
    """Raises InvalidError for what is no address, or no key; tells neither's secrets."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise InvalidError("not an address", "such as http://127.0.0.1:8080") from error
    if "@" in parts.netloc:
        raise InvalidError("the address holds a name or password", "give the key as api_key=")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InvalidError(f"not an address: {url[:200]!r}", "such as http://127.0.0.1:8080")
    if parts.query or parts.fragment:
        raise InvalidError("the address has more than a path", "such as http://127.0.0.1:8080")
    if key is not None and (not key or not key.isascii() or any(c <= " " for c in key)):
        raise InvalidError("the API key has characters that no key has", "`lakehouse keys create`")
    if not timeout_s > 0:
        raise InvalidError(f"timeout_s cannot be {timeout_s}", "seconds, more than 0")
    path = parts.path.rstrip("/")
    return Address(f"{parts.scheme}://{parts.netloc}{path}", key, timeout_s)


class Transport:
    """For one event loop. Its pool is made with the first question."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, question: Question) -> Reply:
        """Return the whole answer, its bytes checked.

        Raises what `refusals.error_of` says; UnavailableError where no whole answer came in time,
        BadDataError for one that is not what it says.
        """
        timeout_s = self.address.timeout_s
        last: UnavailableError | None = None
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                while True:
                    try:
                        return await self._once(question)
                    except UnavailableError as error:
                        if error.retry_after_s is None:
                            raise
                        last = error
                        left_s = (deadline.when() or 0.0) - asyncio.get_running_loop().time()
                        if error.retry_after_s >= left_s:
                            raise
                        # A moment at least, whatever the server says.
                        await asyncio.sleep(max(error.retry_after_s, 0.05))
        except TimeoutError as error:
            if last is not None:
                raise last from None
            raise UnavailableError(
                f"{self.address.url} gave no whole answer within {timeout_s:g} s; "
                "ask for less at once, or connect with a longer timeout_s"
            ) from error

    async def _once(self, question: Question) -> Reply:
        url = f"{self.address.url}{question.path}"
        body = None if question.body is None else orjson.dumps(question.body)
        try:
            async with self._open().request(
                "GET" if body is None else "POST",
                url,
                params=question.params,
                data=body,
                headers={
                    **({"Content-Type": JSON} if body is not None else {}),
                    **question.headers,
                },
                allow_redirects=False,
            ) as answer:
                if 300 <= answer.status < 400:
                    raise InvalidError(
                        f"{self.address.url} sends its callers elsewhere, and a key does not follow",
                        "connect to the address where the service itself is",
                    )
                if not 200 <= answer.status < 300:
                    told = await _first(answer, _ERROR_BYTES_MAX)
                    raise error_of(answer.status, answer.headers, told)
                return Reply(str(answer.url), answer.headers.copy(), await _read(answer))
        except aiohttp.ClientPayloadError as error:
            raise UnavailableError(
                f"{self.address.url} broke off in the middle of its answer; ask again"
            ) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            # By its kind alone: texts of the library may hold what was sent.
            raise UnavailableError(
                f"{self.address.url} cannot be reached: {type(error).__name__}"
            ) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {
                "Accept": f"{ARROW}, {JSON};q=0.5",
                # The hash is of the bytes as they are sent.
                "Accept-Encoding": "identity",
                "User-Agent": "lakehouse_ray",
            }
            if self.address.key is not None:
                headers["Authorization"] = f"Bearer {self.address.key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session


async def _read(answer: aiohttp.ClientResponse) -> Body:
    body = Body()
    try:
        async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
            if body.size + len(chunk) > _ANSWER_BYTES_MAX:
                raise InvalidError("the answer is larger than 4 GiB", "ask for less at once")
            body.write(chunk)
    except OSError as error:
        body.close()
        if isinstance(error, ConnectionError | aiohttp.ClientError):
            raise
        raise ResourceError(f"no room for the answer: {error}") from error
    except BaseException:
        body.close()
        raise
    return body


async def _first(answer: aiohttp.ClientResponse, size: int) -> bytes:
    found = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
        found += chunk
        if len(found) >= size:
            break
    return bytes(found[:size])
