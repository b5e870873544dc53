"""From a pinned table to SQL that reads exactly its files, those that may matter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    LessThan,
)
from pyiceberg.manifest import DataFile

from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.model.dataset import FLAGS
from lakehouse_ray.model.table import Column, ColumnType, Table
from lakehouse_ray.model.timespan import TimeRange, from_us
from lakehouse_ray.query.marks import flags_field, flags_sql
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.storage.manifests import Manifests

SQL_TYPES: Mapping[ColumnType, str] = {
    "string": "VARCHAR",
    "long": "BIGINT",
    "int": "INTEGER",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
}


@dataclass(frozen=True)
class Where:
    """What the caller wants of a table. None: everything.

    equal: Values of text columns such as market and symbol.
    span: Of the table's own time column.
    """

    equal: Mapping[str, str]
    span: TimeRange | None = None

    def alternatives(self) -> Sequence[Mapping[str, str]]:
        """Sets of values: a file that is wanted has all of one of them."""
        return [self.equal]

    def sql(self, table: Table) -> str:
        """The condition on each row."""
        parts = [f"{quoted(name)} = {text(value)}" for name, value in self.equal.items()]
        if self.span is not None:
            time = quoted(table.time)
            parts.append(f"{time} >= {timestamp(self.span.start_us)}")
            parts.append(f"{time} < {timestamp(self.span.end_us)}")
        return " AND ".join(parts) or "true"

    def iceberg(self, table: Table) -> BooleanExpression:
        """The same for files: by partition and by bounds."""
        expression: BooleanExpression = AlwaysTrue()
        for name, value in self.equal.items():
            expression = And(expression, EqualTo(term=name, value=value))
        if self.span is not None:
            first, end = from_us(self.span.start_us), from_us(self.span.end_us)
            expression = And(
                expression,
                GreaterThanOrEqual(term=table.time, value=first.isoformat()),
                LessThan(term=table.time, value=end.isoformat()),
            )
        return expression


EVERYTHING = Where({})


def plan_files(
    pin: Pin, where: Where = EVERYTHING, manifests: Manifests | None = None
) -> list[DataFile]:
    """Return the files of the pinned snapshot that may hold wanted rows, ordered by path.

    manifests: Keeps what is read of the table's metadata for the next question.

    Raises InvalidError where another engine has put delete files into the table.
    """
    if pin.table is None or pin.snapshot_id is None:
        return []
    try:
        if manifests is not None:
            known = manifests.files(
                pin.shape, pin.table, pin.snapshot_id, where.alternatives(), where.span
            )
            if known is not None:
                return sorted(known, key=lambda file: file.file_path)
        scan = pin.table.scan(where.iceberg(pin.shape), snapshot_id=pin.snapshot_id)
        tasks = list(scan.plan_files())
    except OSError as error:
        raise UnavailableError(f"{pin.shape.name}: its metadata cannot be read: {error}") from error
    if any(task.delete_files for task in tasks):
        raise InvalidError(
            f"{pin.shape.name} has delete files, which this lake never writes",
            "another engine wrote to it: compact the table there, or read it with that engine",
        )
    return sorted((task.file for task in tasks), key=lambda file: file.file_path)


def files_sql(
    table: Table, files: Iterable[DataFile], places: Mapping[str, str] | None = None
) -> str:
    """Return a SELECT of all columns of a table from some of its files.

    Columns are found by field id, so files written before a column was added or renamed are read
    rightly. Columns that are the same in all of a partition are constants of their branch: a
    statement that asks for one market or interval opens no file of another. Marks that a file has
    not are worked out from its rows.

    places: Where each file is read, by `DataFile.file_path`. None: where the table says.
    """
    constant = [i for i, p in enumerate(table.partitions) if p.transform == "identity"]
    flags = flags_field(table)
    groups: dict[tuple[tuple[str, ...], bool], list[str]] = defaultdict(list)
    for file in files:
        # Of every column that is in a file its size is known.
        marked = flags is None or flags in (file.column_sizes or {})
        values = tuple(str(file.partition[i]) for i in constant)
        path = file.file_path
        groups[values, marked].append(path if places is None else places[path])
    if not groups:
        return empty_sql(table)
    names = [table.partitions[i].column for i in constant]
    return " UNION ALL ".join(
        _branch(table, dict(zip(names, values, strict=True)), marked, paths)
        for (values, marked), paths in sorted(groups.items())
    )


def empty_sql(table: Table) -> str:
    """The same for a table without files."""
    columns = (f"NULL::{SQL_TYPES[c.type]} AS {quoted(c.name)}" for c in table.columns)
    return f"SELECT {', '.join(columns)} WHERE false"


def _branch(table: Table, constants: Mapping[str, str], marked: bool, paths: list[str]) -> str:
    made = {name: text(value) for name, value in constants.items()}
    if not marked:
        made[FLAGS.name] = flags_sql(table, constants)
    columns = (
        f"{made[c.name]} AS {quoted(c.name)}" if c.name in made else quoted(c.name)
        for c in table.columns
    )
    files = ", ".join(text(path.removeprefix("file://")) for path in paths)
    fields = ", ".join(_field(i, column) for i, column in enumerate(table.columns, start=1))
    return (
        f"SELECT {', '.join(columns)} FROM read_parquet([{files}], schema=MAP {{{fields}}}, "
        "hive_partitioning=false)"
    )


def _field(field_id: int, column: Column) -> str:
    kind = SQL_TYPES[column.type]
    return f"{field_id}: {{name: {text(column.name)}, type: {text(kind)}, default_value: NULL}}"


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text literal in SQL."""
    return "'" + value.replace("'", "''") + "'"


def timestamp(us: int) -> str:
    return f"make_timestamptz({us})"
