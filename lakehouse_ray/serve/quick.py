"""Questions for the rows of one symbol that DuckDB has to answer: what does not change is kept.

Opening an empty database for each statement takes longer than a thousand rows. Here all questions
are cursors of one, which knows the footers of files that it has read. Files are never changed under
their names, so nothing kept can be stale.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import Where, files_sql
from lakehouse_ray.query.statement import Result
from lakehouse_ray.query.views import View
from lakehouse_ray.serve.work import StoppableEngine


class Quick:
    """One database for many threads. Holds no rows and no views."""

    def __init__(self, engine: StoppableEngine, memory_bytes: int) -> None:
        """engine: Makes the database. memory_bytes: Of all questions together."""
        self._database = engine.connect()
        self._database.execute(f"SET memory_limit='{memory_bytes}B'")
        self._database.execute("SET GLOBAL parquet_metadata_cache=true")
        self._lock = threading.Lock()

    def close(self) -> None:
        self._database.close()

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
        planned = {name: engine.plan(pin, where) for name, pin in pins.items()}
        engine.verify(file for files in planned.values() for file in files)
        sources = {name: files_sql(pins[name].shape, files) for name, files in planned.items()}
        with self._lock:
            cursor = self._database.cursor()
        try:
            engine.watch(cursor)
            # A cursor is a session of its own.
            cursor.execute("SET TimeZone='UTC'")
            cursor.execute("SET python_enable_replacements=false")
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
