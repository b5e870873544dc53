"""Waiting for a thread such that Ctrl-C is heard meanwhile."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import duckdb

_SIGNALS_EVERY_S = 0.2

T = TypeVar("T")


def heard(waiting: queue.Queue[T]) -> T:
    """Take what comes next, and let Python handle signals meanwhile.

    Polars handles SIGINT such that a lock waited for without a timeout is never interrupted.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            return waiting.get(timeout=_SIGNALS_EVERY_S)


def interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """Do work that keeps a connection busy in a thread, so that signals are heard meanwhile.

    DuckDB in the main thread would let Python handle no signal until it is done.
    """
    done: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            done.put((None, error))

    threading.Thread(target=run, name="work", daemon=True).start()
    try:
        result, error = heard(done)
    except BaseException:
        connection.interrupt()
        raise
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
