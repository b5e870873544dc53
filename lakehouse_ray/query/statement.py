"""One statement over pinned tables: a DuckDB of its own in memory, and its result.

Nothing of a statement is kept for the next one. DuckDB reads the files of the pinned snapshots itself; where
they are in a bucket it reads them through the store's file system, so that no extension is needed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar

import duckdb
import polars as pl
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]
from pyiceberg.manifest import DataFile

from lakehouse_ray.errors import InvalidError, LakehouseError, ResourceError, UnavailableError
from lakehouse_ray.query.conversions import BATCH_ROWS, Readings, frame_of
from lakehouse_ray.query.databases import Databases, make_schemas, prepare
from lakehouse_ray.query.interrupting import heard, interruptible
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.plain import PlainReading
from lakehouse_ray.query.scan import EVERYTHING, Where, plan_files, quoted, text
from lakehouse_ray.query.views import View, nearest
from lakehouse_ray.storage.kept import KeptFiles
from lakehouse_ray.storage.objects import ObjectStore

# One is used, one waits, one is in the making.
_BATCHES_AHEAD = 1
# Of the machine's memory; what a statement needs beyond it is spilled to disk.
MEMORY_SHARE = "60%"

# What Arrow's texts are like. Views came with a later version of its format than DuckDB writes to.
_TEXT_VIEWS = "SET produce_arrow_string_view=true; SET arrow_output_version='1.4'"
_TEXTS = "RESET produce_arrow_string_view; RESET arrow_output_version"

T = TypeVar("T")

_NO_TABLE = re.compile(r"Table with name \"?([\w.]+)\"? does not exist")
_numbers = itertools.count()


@dataclass(frozen=True)
class Engine:
    """What statements run with.

    store: Holds the tables' files.
    temp: Folder below which statements spill; made when the first one does.
    kept: What is known of the files. None: each question finds it out anew, and is DuckDB's.
    """

    store: ObjectStore
    temp: Path
    kept: KeptFiles | None = None

    def check(self) -> None:
        """Raise what the question was stopped for, if it was: it is asked between two pieces."""

    def plan(self, pin: Pin, where: Where = EVERYTHING) -> list[DataFile]:
        """`plan_files`, with what is known of the table's metadata."""
        return plan_files(pin, where, None if self.kept is None else self.kept.manifests)

    def verify(self, files: Iterable[DataFile]) -> None:
        """Before DuckDB reads files: hold their pages against their checksums, which it does not.

        Once for each file, and only where `kept` is to do so.

        Raises UnavailableError for a file that is damaged, or cannot be read.
        """
        kept = self.kept
        if kept is None or kept.checked is None:
            return
        try:
            kept.checked.check((kept.place(file.file_path) for file in files), self.check)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(str(error)) from error

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open an empty database in memory."""
        spill = self.temp / f"duckdb-{os.getpid()}-{next(_numbers)}"
        connection = _new_database(self.store, spill)
        prepare(connection)
        make_schemas(connection)
        return connection

    @cached_property
    def _databases(self) -> Databases:
        return Databases(partial(_new_database, self.store), self.temp)

    def open(self) -> duckdb.DuckDBPyConnection:
        """An empty database for one result; `release` ends it."""
        return self._databases.open()

    def release(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._databases.release(connection)

    @property
    def text_views(self) -> bool:
        """Whether texts may be asked of DuckDB as views: a setting of all of a database."""
        return True

    def run(
        self,
        query: str,
        views: Iterable[View],
        sources: Mapping[str, str],
        parameters: object = None,
        snapshots: Mapping[str, int | None] = MappingProxyType({}),
        plain: PlainReading | None = None,
    ) -> Result:
        """Bind a statement to views over pinned tables. It runs when the result is read.

        sources: SELECT that reads each physical table of the views, by its name.
        plain: The same question, for the case that it can be answered without DuckDB.

        Raises InvalidError for a statement that cannot be right.
        """
        connection = self.open()
        try:
            if not _only_reads(connection, query):
                self.release(connection)
                connection = self.connect()  # for what it may set or attach, and ends with it
            with self.explained():
                for name, select in sources.items():
                    create_view(connection, name, select)
                for view in views:
                    if view.sql:
                        create_view(connection, view.name, view.sql)
                relation = connection.sql(query, params=parameters)
            if relation is None:
                raise InvalidError("there is no statement to run", 'such as "select 1"')
        except BaseException:
            self.release(connection)
            raise
        return Result(self, connection, relation, snapshots, plain)

    def hold(self, frame: pl.DataFrame) -> Result:
        """Rows that are there already, to be read as a statement's are."""
        connection = self.open()
        connection.register("held", frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
        return Result(self, connection, connection.sql("FROM held"), {})

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn DuckDB's errors into those a caller can act on."""
        try:
            yield
        except duckdb.InternalException:
            raise  # a bug, not a wrong question
        except duckdb.Error as error:
            raise self._explain(str(error)) from error

    def _explain(self, message: str) -> LakehouseError:
        """DuckDB's messages begin with the kind of error, wherever they come from."""
        kind = message.partition(" Error:")[0]
        if kind == "Out of Memory":
            return ResourceError(
                f"the statement needs more memory or disk than there is: {message}"
            )
        damaged = message.startswith(_DAMAGED)
        if damaged or (kind in _UNREADABLE and self.store.root in message):
            # What follows quotes the statement, which is not what was asked.
            message = message.partition("\n\nLINE ")[0]
            return unreadable(message)
        missing = _NO_TABLE.search(message)
        if missing is not None:
            return _unknown_table(missing[1], message)
        return InvalidError(message, _HINTS.get(kind, ""))

    def next_batch(self, reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
        """Read on; None at the end. On the way DuckDB's errors come as Arrow's."""
        try:
            return reader.read_next_batch()
        except StopIteration:
            return None
        except (OSError, pa.ArrowException) as error:
            raise self._explain(str(error)) from error


def _only_reads(connection: duckdb.DuckDBPyConnection, query: str) -> bool:
    try:
        statements = connection.extract_statements(query)
    except duckdb.ParserException:  # and so it will end
        return True
    return all(statement.type == duckdb.StatementType.SELECT for statement in statements)


def _new_database(store: ObjectStore, spill: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit='{MEMORY_SHARE}'")
    connection.execute(f"SET temp_directory={text(str(spill))}")
    if "://" in store.root:
        connection.register_filesystem(ArrowFSWrapper(store.filesystem))
    return connection


def unreadable(message: str) -> UnavailableError:
    return UnavailableError(
        f"a file of the pinned snapshot cannot be read: {message}. "
        "Run it again; if it stays, `lakehouse verify` says what is missing."
    )


# Of a file that is gone, that nobody serves, without a footer, with a damaged page.
_UNREADABLE = ("IO", "HTTP", "Invalid Input", "Invalid")
# Of damaged headers of Parquet, without the file's name.
_DAMAGED = "TProtocolException"
_HINTS = {"Binder": '`lakehouse sql "describe silver.klines"` lists columns'}


def _unknown_table(name: str, message: str) -> InvalidError:
    near = list(dict.fromkeys(nearest(name)))[:3]
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else '`lakehouse sql "show all tables"` lists all'
    )
    # DuckDB guesses among the few tables that the statement made it see.
    return InvalidError(message.partition("\nDid you mean")[0], hint)


def create_view(connection: duckdb.DuckDBPyConnection, name: str, select: str) -> None:
    """Give a SELECT a name such as `silver.klines`."""
    spelled = ".".join(quoted(part) for part in name.split("."))
    connection.execute(f"CREATE VIEW {spelled} AS {select}")


class Closing:
    """A context manager that closes itself at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        raise NotImplementedError


class Result(Readings, Closing):
    """What a statement answers. Each way of reading it runs the statement, over the same snapshots.

    A context manager; closing it gives the memory back.
    """

    def __init__(
        self,
        engine: Engine,
        connection: duckdb.DuckDBPyConnection,
        relation: duckdb.DuckDBPyRelation,
        snapshots: Mapping[str, int | None],
        plain: PlainReading | None = None,
    ) -> None:
        self._engine = engine
        self._plain = plain
        self._connection = connection
        self._relation = relation
        self._names = _distinct(relation.columns)
        # Now: while rows are read, the connection answers nothing else.
        self._types = [str(kind) for kind in relation.types]
        self._snapshots = snapshots
        # Ends each reading in progress.
        self._stops: list[Callable[[], None]] = []

    def close(self) -> None:
        for stop in list(self._stops):
            stop()
        self._engine.release(self._connection)

    @property
    def columns(self) -> list[str]:
        """Names of the columns; a repeated one gets a number (`a`, `a_1`)."""
        return list(self._names)

    @property
    def types(self) -> list[str]:
        """Their types in SQL."""
        return list(self._types)

    @property
    def snapshots(self) -> dict[str, int | None]:
        """The snapshot of each physical table that was read."""
        return dict(self._snapshots)

    def fetch_batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of at most about so many; memory stays bounded.

        DuckDB works on in a thread while a batch is used. Ending early, by an exception or by
        closing the iterator, stops it.
        """
        waiting: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(_BATCHES_AHEAD)
        ended = threading.Event()

        def pump() -> None:
            try:
                with self._engine.explained():
                    reader = self._relation.to_arrow_reader(rows)
                while not ended.is_set() and (batch := self._engine.next_batch(reader)) is not None:
                    waiting.put(batch.rename_columns(self._names))
                waiting.put(None)
            except BaseException as error:  # noqa: BLE001 - raised by the thread that reads
                waiting.put(error)

        thread = threading.Thread(target=pump, name="statement", daemon=True)

        def stop() -> None:
            ended.set()
            while thread.is_alive():
                self._connection.interrupt()
                with contextlib.suppress(queue.Empty):
                    waiting.get_nowait()
                thread.join(0.02)

        self._stops.append(stop)
        thread.start()
        try:
            while (item := heard(waiting)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop()
            self._stops.remove(stop)

    @property
    def schema(self) -> pa.Schema:
        """Columns and their Arrow types; reads no rows."""
        with self._engine.explained():
            schema: pa.Schema = self._relation.limit(0).to_arrow_table().schema
        return pa.schema(
            [field.with_name(name) for field, name in zip(schema, self._names, strict=True)]
        )

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        return self._whole(text_views=False)

    def pl(self) -> pl.DataFrame:
        """All rows as a Polars frame."""
        plain = self._plain
        if plain is not None and plain.worth_it:
            schema = frame_of(self.schema.empty_table()).schema
            connection = self._connection
            found = interruptible(connection, lambda: plain.frame(connection, schema))
            if found is not None:
                return found
        return frame_of(self._whole(text_views=True))

    def _whole(self, *, text_views: bool) -> pa.Table:
        """text_views: Texts as Polars keeps them, who then need not copy each of them."""

        def whole() -> pa.Table:
            with self._engine.explained(), ExitStack() as after:
                if text_views and self._engine.text_views:
                    self._connection.execute(_TEXT_VIEWS)
                    after.callback(self._connection.execute, _TEXTS)
                # At once: DuckDB fills it with all its threads, and hands batches over with one.
                return self._relation.to_arrow_table()

        return interruptible(self._connection, whole).rename_columns(self._names)


def _distinct(names: Iterable[str]) -> list[str]:
    """Number repeated names, so that each column has one of its own."""
    found: list[str] = []
    taken = set(names := list(names))
    for name in names:
        candidate = name
        for number in itertools.count(1):
            if candidate not in found and (candidate == name or candidate not in taken):
                break
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found
