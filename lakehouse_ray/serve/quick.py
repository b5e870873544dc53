"""Statements of the service's own: what does not change is kept.

Opening an empty database for each statement takes longer than a thousand rows. Here all questions
are cursors of one database, which knows the footers of files that it has read. Files are never
changed under their names, so nothing kept can be stale.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Mapping

import duckdb

from lakehouse_ray.query.databases import make_schemas, prepare
from lakehouse_ray.query.live import plan_live, sources_of
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import Where
from lakehouse_ray.query.statement import Result
from lakehouse_ray.query.views import View
from lakehouse_ray.serve.work import StoppableEngine


class Quick:
    """One database for many threads. Holds no rows, and views only while their question lasts."""

    def __init__(self, engine: StoppableEngine, memory_bytes: int) -> None:
        """engine: Makes the database. memory_bytes: Of all questions together."""
        self._database = engine.connect()
        self._database.execute(f"SET memory_limit='{memory_bytes}B'")
        self._database.execute("SET GLOBAL parquet_metadata_cache=true")
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        # By the cursor's id: the name of what `open` has attached for it.
        self._attached: dict[int, str] = {}

    def close(self) -> None:
        self._database.close()

    def open(self) -> duckdb.DuckDBPyConnection:
        """A cursor with a database of its own, with the lake's schemas and nothing in them."""
        with self._lock:
            cursor = self._cursor()
            name = f"question_{next(self._numbers)}"
            cursor.execute(f"ATTACH ':memory:' AS {name}")
            self._attached[id(cursor)] = name
        try:
            cursor.execute(f"USE {name}")
            make_schemas(cursor)
        except BaseException:
            self.release(cursor)
            raise
        return cursor

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        cursor = self._database.cursor()
        prepare(cursor)
        return cursor

    def release(self, connection: duckdb.DuckDBPyConnection) -> None:
        """End what `open` gave; again: nothing."""
        with self._lock:
            connection.close()
            name = self._attached.pop(id(connection), None)
            if name is not None:
                # By another one: the question's may be told to end at any moment.
                self._database.execute(f"DETACH {name}")

    def ask(
        self,
        engine: StoppableEngine,
        view: View,
        pins: Mapping[str, Pin],
        where: Where,
        statement: str,
    ) -> Result:
        """Run a statement over one view.

        engine: Of this question; tells when it is to end.
        statement: With `{view}` where it reads.
        """
        engine.check()
        planned = plan_live(pins, where, engine.plan)
        engine.verify(file for files in planned.values() for file in files)
        sources = sources_of({n: pin.shape for n, pin in pins.items()}, planned, where)
        with self._lock:
            cursor = self._cursor()
        try:
            engine.watch(cursor)
            with engine.explained():
                relation = cursor.sql(statement.replace("{view}", inlined(view, sources)))
            assert relation is not None
        except BaseException:
            cursor.close()
            raise
        return Result(engine, cursor, relation, {n: p.snapshot_id for n, p in pins.items()})


def inlined(view: View, sources: Mapping[str, str]) -> str:
    """The view as a subquery over what reads its tables."""
    if not view.sql:
        return f"({sources[view.name]}) AS {_alias(view.name)}"
    names = "|".join(re.escape(name) for name in sources)
    replaced = re.sub(
        rf"\b(?:{names})\b", lambda match: f"({sources[match[0]]}) AS {_alias(match[0])}", view.sql
    )
    return f"({replaced}) AS {_alias(view.name)}"


def _alias(name: str) -> str:
    return name.partition(".")[2]


def can_inline(view: View) -> bool:
    """Whether the view reads each of its tables once, in FROM and nowhere else."""
    return all(
        len(re.findall(rf"\b{re.escape(table.name)}\b", view.sql)) == 1
        and f"FROM {table.name}" in view.sql
        for table in view.tables
        if view.sql
    )
