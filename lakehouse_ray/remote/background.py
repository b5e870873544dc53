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
        # Reentrant: the garbage collector may come while it is held.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

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

    def finish(self, work: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Do the last thing for something that is given up; not for longer than that.

        The garbage collector may call this in any thread, the loop's own among them.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        if threading.current_thread() is not self._thread:
            concurrent.futures.wait([future], timeout_s)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="lakehouse-remote", daemon=True
                )
                self._thread.start()
            return self._loop


BACKGROUND = Background()
