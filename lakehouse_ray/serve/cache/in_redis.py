"""Small answers in a Redis that several processes share.

It is asked for one value at a time, within some hundredths of a second. When it is down, slow, full
or speaks nonsense, the service goes on without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.serve.cache.breaker import Breaker
from lakehouse_ray.serve.cache.level import SMALL_BYTES_MAX, Counts
from lakehouse_ray.serve.cache.stored import (
    BESIDE_BYTES_MAX,
    DamagedError,
    Written,
    read_value,
    spell_head,
)
from lakehouse_ray.serve.formats import Format

T = TypeVar("T")

_PREFIX = "lakehouse:answer:"
# Questions to it at once; beyond, it is passed over.
_IN_FLIGHT_MAX = 32
_VALUE_BYTES_MAX = SMALL_BYTES_MAX + BESIDE_BYTES_MAX


class RedisLevel:
    """For one event loop."""

    name = "redis"

    def __init__(self, url: str, clock: Clock, *, timeout_s: float, ttl_s: int) -> None:
        """timeout_s: Of one question, connecting included. ttl_s: Life of a value.

        Raises InvalidError where the client library is missing or the URL cannot be read; it is not
        repeated, since it may hold a password.
        """
        try:
            import redis.asyncio
            import redis.exceptions
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise InvalidError(
                "serve.redis_url is set, but the client of Redis is not installed",
                "pip install 'lakehouse-ray[redis]'",
            ) from error
        self.counts = Counts()
        self._timeout_s = timeout_s
        self._ttl_s = ttl_s
        # Reading tells whether it is there; it may be there and take nothing, being full.
        self._there = Breaker("redis", clock)
        self._taking = Breaker("writing to redis", clock)
        self._in_flight = 0
        self._errors = redis.exceptions
        try:
            self._client: Any = redis.asyncio.Redis.from_url(
                url,
                protocol=2,
                # Once and not again: the breaker decides when it is asked next.
                retry=Retry(NoBackoff(), 0),
                max_connections=2 * _IN_FLIGHT_MAX,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
            )
        except (ValueError, TypeError):
            raise InvalidError(
                "serve.redis_url cannot be read", "redis://[user:password@]host:port/number"
            ) from None

    @property
    def up(self) -> bool:
        return self._there.closed

    def takes(self, size_bytes: int) -> bool:
        return size_bytes <= SMALL_BYTES_MAX

    async def get(self, key: str, form: Format) -> Written | None:
        if not self._begins():
            return None
        try:
            # Whatever lies there, no more of it is read than an answer may have.
            data = await self._ask(self._client.getrange(_PREFIX + key, 0, _VALUE_BYTES_MAX))
        except self._errors.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                self._there.succeeded()
                self.counts.damaged += 1
            else:
                self._fails(self._there, error)
            return None
        except (self._errors.RedisError, OSError, TimeoutError) as error:
            self._fails(self._there, error)
            return None
        self._there.succeeded()
        if not data:
            self.counts.misses += 1
            return None
        try:
            found = read_value(data, key, form)
        except DamagedError:
            self.counts.damaged += 1
            return None
        self.counts.hits += 1
        self.counts.read_bytes += len(data)
        return found

    async def put(self, key: str, stored: Written) -> None:
        data = stored.whole.data
        if data is None or not self._there.closed or not self._taking.allows():
            return
        if not self._begins():
            return
        value = spell_head(key, stored) + data
        try:
            await self._ask(self._client.set(_PREFIX + key, value, ex=self._ttl_s))
        except self._errors.ResponseError as error:  # full, a replica, no permission
            self._fails(self._taking, error)
            return
        except (self._errors.RedisError, OSError, TimeoutError) as error:
            self._fails(self._there, error)
            return
        self._taking.succeeded()
        self._there.succeeded()
        self.counts.written_bytes += len(value)

    async def close(self) -> None:
        await self._client.aclose()

    def _begins(self) -> bool:
        if self._in_flight < _IN_FLIGHT_MAX and self._there.allows():
            return True
        self.counts.skipped += 1
        return False

    async def _ask(self, asked: Awaitable[T]) -> T:
        self._in_flight += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asked
        finally:
            self._in_flight -= 1

    def _fails(self, breaker: Breaker, error: Exception) -> None:
        self.counts.errors += 1
        # The texts of some errors have the address in them.
        breaker.failed(type(error).__name__)
