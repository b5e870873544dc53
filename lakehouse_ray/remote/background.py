"""An event loop in a thread, so that who has none, or is inside of one (a notebook), can ask."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# Polars handles SIGINT such that a lock waited for without a timeout is never interrupted.
_SIGNALS_EVERY_S = 0.2


class Background:
    """One thread for all lakes of a process; a forked process starts its own."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what it returns; it is cancelled where the caller is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            while not concurrent.futures.wait([future], _SIGNALS_EVERY_S).done:
                pass
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="lakehouse-remote", daemon=True
                ).start()
            return self._loop


BACKGROUND = Background()
