"""A memory of bodies with an upper bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """Keeps what was asked for last, up to a total size. Safe to use from several threads.

    bytes_max: Of all entries together; one of more than a quarter of it is not kept.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[Hashable, T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, version: Hashable) -> T | None:
        """The entry put under `key`, if it is of this version."""
        with self._lock:
            found = self._entries.get(key)
            if found is None or found[0] != version:
                return None
            self._entries.move_to_end(key)
            return found[1]

    def put(self, key: str, version: Hashable, value: T, size_bytes: int) -> None:
        with self._lock:
            old = self._entries.pop(key, None)
            self._bytes -= old[2] if old else 0
            if size_bytes > self._bytes_max // 4:
                return
            self._entries[key] = (version, value, size_bytes)
            self._bytes += size_bytes
            while self._bytes > self._bytes_max:
                _, (_, _, dropped) = self._entries.popitem(last=False)
                self._bytes -= dropped
