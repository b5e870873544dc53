"""Questions for the rows of one symbol, as quick as can be: what does not change is kept.

The SDK opens an empty database for each statement, and plans its files anew. For a question of a
thousand rows that is most of its time. Here all questions are cursors of one database, which knows
the footers of files that it has read, and the files of a question at a snapshot are remembered.
Files are never changed under their names, and snapshots never, so nothing kept can be stale.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping

from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import Where, scan_sql
from lakehouse_ray.query.statement import Result
from lakehouse_ray.query.views import View
from lakehouse_ray.serve.work import StoppableEngine

# Of planned questions; some kB of SQL each, more where many files may hold the rows.
_PLANS_MAX = 2000
_PLAN_BYTES_MAX = 64 << 10


class Quick:
    """One database for many threads. Holds no rows and no views."""

    def __init__(self, engine: StoppableEngine, memory_bytes: int) -> None:
        """engine: Makes the database. memory_bytes: Of all questions together."""
        self._database = engine.connect()
        self._database.execute(f"SET memory_limit='{memory_bytes}B'")
        self._database.execute("SET GLOBAL parquet_metadata_cache=true")
        self._plans: OrderedDict[tuple[str, int | None, str], str] = OrderedDict()
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
        sources = {name: self._scan(pin, where) for name, pin in pins.items()}
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

    def _scan(self, pin: Pin, where: Where) -> str:
        key = (pin.shape.name, pin.snapshot_id, where.sql(pin.shape))
        with self._lock:
            known = self._plans.get(key)
            if known is not None:
                self._plans.move_to_end(key)
                return known
        planned = scan_sql(pin, where)
        if len(planned) <= _PLAN_BYTES_MAX:
            with self._lock:
                self._plans[key] = planned
                if len(self._plans) > _PLANS_MAX:
                    self._plans.popitem(last=False)
        return planned


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
