"""Databases in memory that wait for their next statement: making one takes ten times as long."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import duckdb

from lakehouse_ray.query.views import SCHEMAS

# Each keeps as many threads as the machine has cores, asleep.
_IDLE_MAX = 2


class Databases:
    """Lends each statement a database that nobody else has meanwhile, and that is empty.

    For many threads. What is lent and never given back is closed with its last user.
    """

    def __init__(self, make: Callable[[Path], duckdb.DuckDBPyConnection], temp: Path) -> None:
        """make: A new database that spills to a folder. temp: Where these folders are."""
        self._make, self._temp = make, temp
        self._lock = threading.Lock()
        self._idle: list[_Database] = []
        self._lent: weakref.WeakKeyDictionary[duckdb.DuckDBPyConnection, _Database] = (
            weakref.WeakKeyDictionary()
        )
        _all.add(self)

    def open(self) -> duckdb.DuckDBPyConnection:
        """A session of an own database, with the lake's schemas and nothing in them."""
        with self._lock:
            database = self._idle.pop() if self._idle else None
        if database is None:
            database = _Database(self._make, self._temp)
        session = database.begin()
        with self._lock:
            self._lent[session] = database
        return session

    def release(self, session: duckdb.DuckDBPyConnection) -> None:
        """End what `open` gave, and its rows and views; again: nothing."""
        with self._lock:
            database = self._lent.pop(session, None)
        session.close()
        if database is None:
            return
        if database.end():
            with self._lock:
                if len(self._idle) < _IDLE_MAX:
                    self._idle.append(database)
                    return
        database.close()

    def close_idle(self) -> None:
        """End those that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for database in idle:
            database.close()


class _Database:
    """One database, and the part of it that its present statement has for itself."""

    def __init__(self, make: Callable[[Path], duckdb.DuckDBPyConnection], temp: Path) -> None:
        self._spill = temp / f"duckdb-{os.getpid()}-{next(_numbers)}"
        self._connection = make(self._spill)
        # A file that is damaged on disk must not be answered from what was read of it before.
        self._connection.execute("SET enable_external_file_cache=false")

    def begin(self) -> duckdb.DuckDBPyConnection:
        session = self._connection.cursor()
        try:
            prepare(session)
            session.execute("ATTACH ':memory:' AS lake; USE lake")
            make_schemas(session)
        except BaseException:
            session.close()
            self.close()
            raise
        return session

    def end(self) -> bool:
        """Whether it is as it was made. One that has spilled is not: its files are to go."""
        try:
            self._connection.execute("DETACH lake")
        except duckdb.Error:
            return False
        return not self._spill.exists()

    def close(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self._connection.close()


def prepare(session: duckdb.DuckDBPyConnection) -> None:
    """What holds for one session of a database, and for none of its others."""
    session.execute("SET TimeZone='UTC'")
    # A name that is no table must not be looked for among the variables of this program.
    session.execute("SET python_enable_replacements=false")


def make_schemas(session: duckdb.DuckDBPyConnection) -> None:
    for schema in SCHEMAS:
        session.execute(f"CREATE SCHEMA {schema}")


_numbers = itertools.count()
_all: weakref.WeakSet[Databases] = weakref.WeakSet()


def _close_all_idle() -> None:
    for databases in list(_all):
        databases.close_idle()


# A forked process would have them without their threads, and could not even end them.
os.register_at_fork(before=_close_all_idle)
