"""What the application's routes share: the lake, its workers, limits and memory of answers."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from fastapi import Request

from lakehouse_ray.clock import Clock, SystemClock
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.model.table import Table
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pins import AsOf, FindTable, FindTables
from lakehouse_ray.query.versions import FixedTables
from lakehouse_ray.query.witnesses import Bytes
from lakehouse_ray.serve.cache.answers import Answers
from lakehouse_ray.serve.cache.edition import edition
from lakehouse_ray.serve.cache.level import Level
from lakehouse_ray.serve.cache.memory import AnswerMemory
from lakehouse_ray.serve.formats import Whole
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.problems import BusyError
from lakehouse_ray.serve.quick import Quick
from lakehouse_ray.serve.sandbox import Sandbox
from lakehouse_ray.serve.sandbox_child import can_confine
from lakehouse_ray.serve.work import Databases, StoppableEngine, Workers
from lakehouse_ray.storage.copies import LocalCopies
from lakehouse_ray.storage.kept import KeptFiles
from lakehouse_ray.storage.objects import ObjectStore

_log = structlog.get_logger()

# Times the largest answer that may be.
_ANSWERS_ON_DISK = 4


@dataclass(frozen=True)
class Source:
    """Where the rows are.

    find: Returns a table as it is now, or None. find_all: Of some tables those that are there, at one
        moment and less cost. temp: Folder below which statements spill.
    files: For `/v1/why` to read files again; None: it says nothing of what is inside of them.
    verify_files: Whether checksums of files are looked at before DuckDB reads them.
    """

    find: FindTable
    find_all: FindTables
    store: ObjectStore
    temp: Path
    files: Bytes | None = None
    verify_files: bool = False


@dataclass
class Service:
    """levels: Where answers are kept beyond this process, the nearest first."""

    source: Source
    limits: Limits
    clock: Clock = field(default_factory=SystemClock)
    levels: Sequence[Level] = ()

    def __post_init__(self) -> None:
        self.workers = Workers(self.limits)
        self.answers = Answers(AnswerMemory(self.limits.cache_bytes), self.levels)
        # Statements wait for their few processes in threads of their own.
        few = replace(self.limits, statements=max(self.limits.sql_statements, 1))
        self.sql_workers = Workers(few)
        self.sandbox: Sandbox | None = None
        self.no_sql = "the service has not started"
        # Where the lake is in a bucket: what statements read, since they must not have its credentials.
        self.copies: LocalCopies | None = None
        # Reentrant: what is let go may be so while the lock is held, by the garbage collector.
        self._making = threading.RLock()
        self._on_disk = 0
        self._quick: Quick | None = None
        self._kept = KeptFiles(self.source.store, verify_files=self.source.verify_files)

    def hold(self, whole: Whole) -> None:
        """Count an answer that waits on disk for its client, until nobody has it any more.

        Raises BusyError where slow clients leave too many: they must not fill the disk.
        """
        if whole.file is None:
            return
        with self._making:
            if self._on_disk + whole.size > _ANSWERS_ON_DISK * self.limits.answer_bytes_max:
                whole.file.close()
                raise BusyError("too many large answers wait for their clients", 5.0)
            self._on_disk += whole.size
        weakref.finalize(whole.file, self._let_go, whole.size)

    def _let_go(self, size: int) -> None:
        with self._making:
            self._on_disk -= size

    @property
    def waiting(self) -> int:
        return self.workers.waiting + self.sql_workers.waiting

    def quick(self) -> Quick:
        """The one database of this process's own statements; made when the first one is asked."""
        with self._making:
            if self._quick is None:
                limits = self.limits
                self._quick = Quick(self._engine(None), limits.memory_bytes * limits.statements)
            return self._quick

    def open(self) -> None:
        """Start what must not be started by building the application."""
        limits, store = self.limits, self.source.store
        edition()  # of the code that was just loaded: it may be replaced while this process lives
        self.no_sql = self._why_no_sql()
        if self.no_sql:
            return
        if "://" in store.root:
            folder = self.source.temp / "sql-files"
            try:
                self.copies = LocalCopies(store, folder, limits.sql_files_bytes_max)
            except LakehouseError as error:  # all else needs no disk
                self.no_sql = "there is no folder for files of the bucket, see the server's log"
                _log.warning("no SQL", reason=str(error))
                return
        if not can_confine():
            _log.warning("statements of /v1/sql run unconfined", setting="serve.sql_unconfined")
        self.sandbox = Sandbox(
            limits.sql_statements,
            limits.memory_bytes,
            limits.statement_timeout_s,
            must_confine=not limits.sql_unconfined,
        )

    def _why_no_sql(self) -> str:
        """Why no SQL is taken; empty where it is."""
        if not self.limits.sql_statements:
            return "serve.sql_statements is 0"
        if "://" in self.source.store.root and not self.limits.sql_files_bytes_max:
            return "the lake is in a bucket, and serve.sql_files_bytes_max is 0"
        if not self.limits.sql_unconfined and not can_confine():
            return (
                "the server's system has no Landlock to keep files and network from statements; "
                "its operator may allow them all the same by serve.sql_unconfined = true"
            )
        return ""

    def close(self) -> None:
        self.workers.close()
        self.sql_workers.close()
        if self.sandbox is not None:
            self.sandbox.close()
        if self.copies is not None:
            self.copies.close()

    def engine(self) -> StoppableEngine:
        """An engine for one question."""
        return self._engine(self.quick())

    def _engine(self, databases: Databases | None) -> StoppableEngine:
        return StoppableEngine(
            self.source.store,
            self.source.temp,
            self._kept,
            databases=databases,
            memory_bytes=self.limits.memory_bytes,
        )

    async def fix(self, tables: Iterable[Table], as_of: AsOf) -> FixedTables:
        """The tables of a question at one version each. Waits for no other question."""
        return await asyncio.to_thread(self._fix, list(tables), as_of)

    def _fix(self, tables: Sequence[Table], as_of: AsOf) -> FixedTables:
        found = self.source.find_all([table.name for table in tables])
        return FixedTables(found.get, tables, as_of)

    def lake(self, tables: FixedTables, engine: StoppableEngine) -> Lake:
        """The lake of one question: these tables as they were, and nothing else."""
        return Lake(tables.find, engine, self.source.files)


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def hung_up(request: Request) -> Callable[[], Awaitable[None]]:
    """What returns when the client has gone away. The request's body must have been read."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone
