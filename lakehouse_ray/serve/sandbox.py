"""Statements of strangers, each in a process of its own that is ended after it.

A statement is bounded by what the system enforces (addresses, processor time, files) and by its
parent, which ends it at its deadline; engines' own limits are not kept by every function of theirs.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
import structlog

from lakehouse_ray.errors import InvalidError, LakehouseError, ResourceError, UnavailableError
from lakehouse_ray.query.conversions import BATCH_ROWS
from lakehouse_ray.query.narrowing import Columns
from lakehouse_ray.serve.nursery import Nursery
from lakehouse_ray.serve.problems import DeadlineError, TooLargeError
from lakehouse_ray.serve.sandbox_child import ARROW, DONE, ERROR, HEADER, READY, SCHEMA, WANTS
from lakehouse_ray.serve.work import StoppableEngine

_log = structlog.get_logger()

# Beyond the memory of the engine: the interpreter, libraries, stacks of threads, results.
_ADDRESSES_BESIDE = 3 << 30
_THREADS = 2
# Of a frame; a batch of some MB is written in several.
_FRAME_BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class SqlJob:
    """tables: The names that views make.

    views: CREATE VIEW statements, in order. None: they are asked for by what the statement wants.
    paths: Files that the views read. folders: Those in which files may be that the views read.
    columns: For `query.narrowing`, where views are asked for.
    """

    query: str
    parameters: Sequence[Any] | dict[str, Any] | None
    schemas: Sequence[str]
    tables: Sequence[str]
    views: Sequence[str] | None
    paths: Sequence[str] = ()
    folders: Sequence[str] = ()
    columns: Columns = field(default_factory=dict)


# From what a statement wants, by its process, which a stranger may have taken over, to its views.
Provide = Callable[[dict[str, Any]], Sequence[str]]


class _Child:
    """One process; it answers one job."""

    def __init__(self, nursery: Nursery) -> None:
        self.process = nursery.process()

    def began(self, job: dict[str, Any]) -> bool:
        """Hand over the job. Returns whether it was taken."""
        assert self.process.stdout is not None
        return self.tell(job) and self.process.stdout.read(HEADER.size) == HEADER.pack(READY, 0)

    def tell(self, document: object) -> bool:
        """Returns whether it is there to hear it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(document).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return False
        return True

    def interrupt(self) -> None:
        """As a connection's: whatever it does, it ends."""
        self.process.kill()

    def end(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait()


class Sandbox:
    """Some processes that wait for a statement each; safe for several threads."""

    def __init__(
        self, size: int, memory_bytes: int, timeout_s: float, *, must_confine: bool = True
    ) -> None:
        """size: Statements at once. memory_bytes, timeout_s: of one.

        must_confine: Whether a statement fails where the system cannot confine its process.
        """
        self._must_confine = must_confine
        self._memory_bytes = memory_bytes
        self._timeout_s = timeout_s
        # None: a place without a process, since there was no room for one.
        self._warm: queue.Queue[_Child | None] = queue.Queue()
        self._closed = False
        self._nursery = Nursery()
        for _ in range(size):
            self._warm.put(_Child(self._nursery))

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                if (child := self._warm.get_nowait()) is not None:
                    child.end()
        self._nursery.close()

    @contextlib.contextmanager
    def run(
        self,
        job: SqlJob,
        engine: StoppableEngine,
        rows_max: int,
        provide: Provide | None = None,
    ) -> Iterator[SqlAnswer]:
        """Run a statement. Its rows are read while the context lasts.

        engine: Tells when the question is to end. provide: Makes the views, where the job has none.

        Raises InvalidError for what may not be asked, and LakehouseError for what fails.
        """
        child = self._take(engine)
        try:
            engine.watch(child)
            document = {
                "query": job.query,
                "parameters": job.parameters,
                "schemas": list(job.schemas),
                "views": None if job.views is None else list(job.views),
                "tables": list(job.tables),
                "paths": list(job.paths),
                "folders": list(job.folders),
                "columns": dict(job.columns),
                "rows_max": rows_max,
                "threads": _THREADS,
                "memory_bytes": self._memory_bytes,
                "address_bytes": 2 * self._memory_bytes + _ADDRESSES_BESIDE,
                "timeout_s": self._timeout_s,
                "cpu_s": round(self._timeout_s * _THREADS) + 5,
                "must_confine": self._must_confine,
            }
            while not child.began(document):
                # It had died while it waited, and has seen nothing of the job.
                engine.check()
                child.end()
                child = self._new()
                engine.watch(child)
            yield SqlAnswer(child, engine, provide)
        finally:
            child.end()
            self._give_back()

    def _take(self, engine: StoppableEngine) -> _Child:
        """A waiting process; a dead one is replaced."""
        while True:
            engine.check()
            try:
                child = self._warm.get(timeout=0.1)
            except queue.Empty:
                continue
            if child is not None and child.process.poll() is None:
                return child
            try:
                if child is not None:
                    child.end()
                return self._new()
            except BaseException:
                self._warm.put(None)
                raise

    def _new(self) -> _Child:
        try:
            return _Child(self._nursery)
        except OSError as error:
            raise UnavailableError(
                f"there is no room for a statement's process: {error}"
            ) from error

    def _give_back(self) -> None:
        """A place is free again, whether there is room for a process now or not."""
        if self._closed:
            return
        child: _Child | None = None
        try:
            child = _Child(self._nursery)
        except OSError as error:
            _log.warning("no room for a statement's process", reason=str(error))
        self._warm.put(child)


class SqlAnswer:
    """What a child answers, read once. snapshots: To be set by who knows them."""

    def __init__(
        self, child: _Child, engine: StoppableEngine, provide: Provide | None = None
    ) -> None:
        assert child.process.stdout is not None
        self._pipe: IO[bytes] = child.process.stdout
        self._engine = engine
        self.snapshots: dict[str, int | None] = {}
        self.closed = False
        self._rest = b""
        self._ended = False
        kind, payload = self._next()
        if kind == WANTS and provide is not None:
            try:
                wanted = json.loads(payload)
            except (ValueError, RecursionError) as error:
                raise self._unexpected(kind) from error
            if not isinstance(wanted, dict):
                raise self._unexpected(kind)
            if not child.tell(provide(wanted)):
                raise self._died()
            kind, payload = self._next()
        if kind != SCHEMA:
            raise self._unexpected(kind)
        told = json.loads(payload)
        self.columns: list[str] = told["names"]
        self.types: list[str] = told["types"]
        self._reader = pa.ipc.open_stream(pa.PythonFile(self, "r"))

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def fetch_batches(self, _rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._reader:
                _check(batch)
                yield batch
        except (OSError, pa.ArrowException) as error:
            self._engine.check()
            raise UnavailableError(f"the answer of a statement cannot be read: {error}") from error
        while not self._ended:
            self._fill()

    def read(self, size: int = -1) -> bytes:
        """For Arrow: the bytes of its stream."""
        pieces, have = [self._rest], len(self._rest)
        while (size < 0 or have < size) and not self._ended:
            piece = self._fill()
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces)
        cut = len(data) if size < 0 else min(size, len(data))
        self._rest = data[cut:]
        return data[:cut]

    def tell(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def _fill(self) -> bytes:
        kind, payload = self._next()
        if kind == ARROW:
            return payload
        if kind == DONE:
            self._ended = True
            return b""
        raise self._unexpected(kind)

    def _next(self) -> tuple[bytes, bytes]:
        head = self._pipe.read(HEADER.size)
        if len(head) < HEADER.size:
            raise self._died()
        kind, size = HEADER.unpack(head)
        if size > _FRAME_BYTES_MAX:
            raise self._unexpected(kind)
        payload = self._pipe.read(size)
        if len(payload) < size:
            raise self._died()
        if kind == ERROR:
            raise _error_of(json.loads(payload))
        return kind, payload

    def _died(self) -> LakehouseError:
        self._engine.check()
        return needs_too_much("its process was ended by the system")

    def _unexpected(self, kind: bytes) -> LakehouseError:
        return UnavailableError(f"a statement's process sent {kind!r}")


def _check(batch: pa.RecordBatch) -> None:
    """It comes from a process that a stranger may have taken over."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if not any(pa.types.is_decimal(kind) for kind in batch.schema.types):
            raise
        # The engine's whole numbers of 128 bits come as decimals, and some have 39 digits.
        raise InvalidError(
            "the answer has a number of more digits than Arrow has room for",
            "cast it to DOUBLE or VARCHAR",
        ) from error


def needs_too_much(text: str) -> LakehouseError:
    _log.info("statement ended", reason=text)
    return TooLargeError(
        "the statement needs more memory or time than it may",
        "read fewer rows or columns, or group by less",
    )


_NO_COLUMN = re.compile(r'Referenced (?:column|table) "(\w{1,100})" not found')
_NO_TABLE = re.compile(r"Table with name (\w{1,100}) does not exist")


def _error_of(told: dict[str, str]) -> LakehouseError:
    """From a child's word to an error of ours. Texts of the engine hold values and paths: only the
    log has them."""
    kind, text = told["kind"], told["text"]
    if kind == "refused":
        return InvalidError(told["detail"], told["hint"])
    _log.info("statement failed", reason=text)
    if kind == "memory":
        return needs_too_much(text)
    if kind == "INTERRUPT":
        return DeadlineError("it took longer than it may")
    if kind == "Parser":
        # Made of the statement's own words.
        told_of = text.partition("Parser Error: ")[2].partition("\n")[0]
        return InvalidError(f"no SQL: {told_of[:300]}", "one SELECT, in DuckDB's SQL")
    if kind in ("Binder", "Catalog"):
        for pattern, what in ((_NO_COLUMN, "column"), (_NO_TABLE, "table")):
            found = pattern.search(text)
            if found is not None:
                return InvalidError(
                    f"there is no {what} {found[1]!r} here", "describe silver.klines lists columns"
                )
        return InvalidError("names or types of the statement do not fit", "describe lists columns")
    if kind in ("IO", "HTTP"):
        return UnavailableError(text)
    if kind == "internal":
        return ResourceError(text)
    return InvalidError(
        f"the statement failed: {kind.lower()[:40]}", "the server's log has more, under request_id"
    )
