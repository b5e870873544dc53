"""Checking the lake against itself: tables, ledger and files.

One pass over pinned snapshots. What does not fit is a `Finding`: a problem says what to do about
it, a note is only worth knowing. Lists of files and objects are kept in DuckDB, which spills to
disk, so memory stays bounded however large the lake is.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import duckdb
import pyarrow as pa

from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.query.views import TABLES, VIEWS
from lakehouse_ray.storage.objects import ObjectStore

# Of the things a finding is about, so many are named; all are counted.
EXAMPLES_MAX = 20
_INSERT_ROWS = 50_000


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit.

    check: Short stable name.
    count: Files, objects or rows concerned; `examples` names some.
    mend: What to do about it.
    """

    check: str
    severity: Literal["problem", "note"]
    count: int
    what: str
    mend: str
    examples: tuple[str, ...] = ()


@dataclass
class Verification:
    """What was checked, and what was found."""

    tables: int = 0
    files: int = 0
    rows: int = 0
    objects: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "problem"]

    def add(
        self,
        check: str,
        what: str,
        mend: str,
        examples: Sequence[str],
        *,
        count: int | None = None,
        severity: Literal["problem", "note"] = "problem",
    ) -> None:
        """Note a finding, if there is anything to it."""
        number = len(examples) if count is None else count
        if number:
            some = tuple(examples[:EXAMPLES_MAX])
            self.findings.append(Finding(check, severity, number, what, mend, some))


@dataclass
class Workbench:
    """What the checks share.

    pins: Every table of the lake at one snapshot, silver before the ledger: a commit of rows comes
        before its entry in the ledger.
    broken: Data files that cannot be read and that later checks leave out.
    """

    engine: Engine
    pins: dict[str, Pin]
    db: duckdb.DuckDBPyConnection
    deep: bool
    say: Callable[[str], None]
    result: Verification = field(default_factory=Verification)
    broken: set[str] = field(default_factory=set)

    @property
    def store(self) -> ObjectStore:
        return self.engine.store

    def relative(self, path: str) -> str:
        """The path below the store's root of a file as its table spells it."""
        return path.removeprefix("file://").removeprefix(f"{self.store.root}/")

    def fill(self, name: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Make a table of plain rows, some at a time."""
        self.db.execute(f"CREATE TABLE {name} ({columns})")
        names = [column.split()[0] for column in columns.split(", ")]
        left = iter(rows)
        while chunk := list(islice(left, _INSERT_ROWS)):
            arrow = pa.table(dict(zip(names, map(list, zip(*chunk, strict=True)), strict=True)))
            view = f"chunk_{uuid.uuid4().hex}"
            self.db.register(view, arrow)
            self.db.execute(f"INSERT INTO {name} SELECT * FROM {view}")
            self.db.unregister(view)

    def ask(self, query: str) -> list[dict[str, Any]]:
        with self.engine.explained():
            rows: list[dict[str, Any]] = self.db.sql(query).to_arrow_table().to_pylist()
            return rows

    def count(self, query: str) -> int:
        return int(self.ask(f"SELECT count(*) AS n FROM ({query})")[0]["n"])

    def report(self, check: str, query: str, what: str, mend: str, *, note: bool = False) -> None:
        """Note every row of a query as a finding; its column `example` names it."""
        count = self.count(query)
        if count:
            rows = self.ask(f"SELECT example FROM ({query}) ORDER BY example LIMIT {EXAMPLES_MAX}")
            self.result.add(
                check,
                what,
                mend,
                [str(row["example"]) for row in rows],
                count=count,
                severity="note" if note else "problem",
            )


@contextmanager
def workbench(
    lake: Lake, *, deep: bool, say: Callable[[str], None] = lambda text: None
) -> Iterator[Workbench]:
    """Pin every table and open a database for the checks."""
    names = sorted(TABLES, key=lambda name: (not name.startswith("silver."), name))
    pins: dict[str, Pin] = {}
    for name in names:
        views = [view for view in VIEWS.values() if view.name == name]
        pins |= lake.pin(views)
    db = lake.engine.connect()
    try:
        yield Workbench(lake.engine, pins, db, deep, say)
    finally:
        db.close()
