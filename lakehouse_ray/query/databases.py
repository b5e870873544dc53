"""Databases in memory that wait for their next statement: making one takes ten times as long."""

from __future__ import annotations

import contextlib
import itertools
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import duckdb

from lakehouse_ray.query.views import SCHEMAS

# Each keeps as many threads as the machine has cores, asleep.
_IDLE_MAX = 2


class Databases:
    """Lends each statement a database that nobody else has meanwhile, and that is empty.

    For many threads. It has no lock: what is let go may be so at any moment, by the garbage
    collector, and adding to a list or a dictionary and taking from it are one step each.
    """

    def __init__(self, make: Callable[[Path], duckdb.DuckDBPyConnection], temp: Path) -> None:
        """make: A new database that spills to a folder. temp: Where these folders are."""
        self._make, self._temp = make, temp
        self._idle: list[_Database] = []
        # By the session of its statement.
        self._lent: dict[weakref.ref[duckdb.DuckDBPyConnection], _Database] = {}
        # Whose sessions are gone, which were not given back.
        self._left: list[_Database] = []
        _all.add(self)

    def open(self) -> duckdb.DuckDBPyConnection:
        """A session of an own database, with the lake's schemas and nothing in them."""
        database = self._taken() or _Database(self._make, self._temp)
        session = database.begin()
        self._lent[weakref.ref(session, self._leave)] = database
        return session

    def release(self, session: duckdb.DuckDBPyConnection) -> None:
        """End what `open` gave, and its rows and views; again: nothing."""
        database = self._lent.pop(weakref.ref(session), None)
        session.close()
        if database is None:
            return
        if len(self._idle) < _IDLE_MAX and database.end():
            self._idle.append(database)
        else:
            database.close()

    def close_idle(self) -> None:
        """End those that wait."""
        for waiting in (self._idle, self._left):
            while waiting:
                with contextlib.suppress(IndexError):
                    waiting.pop().close()

    def _taken(self) -> _Database | None:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        with contextlib.suppress(IndexError):
            while True:
                database = self._left.pop()
                if database.end():
                    return database
                database.close()
        return None

    def _leave(self, session: weakref.ref[duckdb.DuckDBPyConnection]) -> None:
        """Runs no statement: it is the garbage collector's time."""
        database = self._lent.pop(session, None)
        if database is not None and len(self._left) < _IDLE_MAX:
            self._left.append(database)


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
