"""Columns of a table as they stand there, read by Polars.

A statement that only chooses columns, and rows by texts, has nothing for DuckDB to work out, and rows
on their way through it to Polars take more than twice the time: its texts are made anew. Whatever is
not certain to be the same either way is left to DuckDB. Memory: that of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
from pyiceberg.manifest import DataFile

from lakehouse_ray.model.table import Table
from lakehouse_ray.query.live import is_live
from lakehouse_ray.query.narrowing import (
    PLAIN_TABLE,
    column_of,
    conditions_of,
    is_cast,
    name_of,
    text_of,
)
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.views import View, copied
from lakehouse_ray.storage.footers import ARROW_TYPES, Footer
from lakehouse_ray.storage.kept import KeptFiles

# Below, what DuckDB takes longer is less than it is worth to look at a statement.
ROWS_MIN = 300_000
# Footers are looked at before rows are read.
FILES_MAX = 2_000

_TREE = "SELECT json_serialize_sql(?::VARCHAR, skip_null := true, skip_empty := true, skip_default := true)"
_PLACE = frozenset(("class", "type", "query_location", "query_location_length"))
_SELECT = frozenset(("type", "cte_map", "select_list", "from_table", "where_clause", "aggregate_handling"))  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """What a statement takes of one view.

    columns: Of the view, in the order of the answer. equal: Texts that rows must have.
    """

    view: View
    columns: tuple[str, ...]
    equal: Mapping[str, str]


@dataclass(frozen=True)
class PlainReading:
    """A statement over pinned files, for whoever can answer it without DuckDB."""

    kept: KeptFiles
    query: str
    parameters: object
    views: Sequence[View]
    planned: Sequence[tuple[Pin, Sequence[DataFile]]]

    @property
    def worth_it(self) -> bool:
        """Whether there are rows enough, no more files than can be looked at, and none of live
        rows, of which the main tables tell which count.
        """
        if is_live(self.planned):
            return False
        files = [file for _, some in self.planned for file in some]
        rows = sum(file.record_count for file in files)
        return "://" not in self.kept.store.root and len(files) <= FILES_MAX and rows >= ROWS_MIN

    def frame(
        self, connection: duckdb.DuckDBPyConnection, schema: pl.Schema
    ) -> pl.DataFrame | None:
        """Its rows, in the order in which DuckDB gives them; None: it has to be asked.

        connection: To parse with. schema: Of the answer.
        """
        ((spelled,),) = connection.execute(_TREE, [self.query]).fetchall()
        found = chosen_in(json.loads(spelled), self.views, self.parameters)
        if found is None or len(found.columns) != len(schema):
            return None
        names = dict(zip(schema.names(), found.columns, strict=True))
        tables = [table.name for table in found.view.tables]
        held = [(pin, some) for pin, some in self.planned if some and pin.shape.name in tables]
        try:
            parts = [
                part
                for pin, files in held
                for part in self._parts(pin.shape, files, names, found.equal)
            ]
            if not parts or any(part.collect_schema() != schema for part in parts):
                return None
            return pl.concat(parts).collect()
        except (OSError, pa.ArrowException, pl.exceptions.PolarsError):
            # Something is the matter with a file: DuckDB's account of it is what callers know.
            return None

    def _parts(
        self,
        table: Table,
        files: Iterable[DataFile],
        names: Mapping[str, str],
        equal: Mapping[str, str],
    ) -> Iterable[pl.LazyFrame]:
        """Files of the same constants, in the order of `scan.files_sql`.

        names: From columns of the answer to those of the view.
        """
        identity = [i for i, p in enumerate(table.partitions) if p.transform == "identity"]
        groups: dict[tuple[str, ...], list[str]] = {}
        for file in files:
            values = tuple(str(file.partition[i]) for i in identity)
            groups.setdefault(values, []).append(self.kept.place(file.file_path))
        for values, paths in sorted(groups.items()):
            constants = {
                table.partitions[i].column: v for i, v in zip(identity, values, strict=True)
            }
            if any(constants.get(name, value) != value for name, value in equal.items()):
                continue
            for path in paths:
                if not _as_declared(table, self.kept.footers.get(table, path)):
                    raise pl.exceptions.SchemaError(path)
            market = constants.get("market", "")
            sources = {name: copied(column, market) for name, column in names.items()}
            if all(of in constants for of in sources.values()):
                # Nothing of the files is chosen, and Polars would give one row for all of them.
                raise pl.exceptions.SchemaError("constants alone")
            rows = pl.scan_parquet(paths, hive_partitioning=False)
            for name, value in equal.items():
                if name not in constants:
                    rows = rows.filter(pl.col(name) == value)
            yield rows.select(
                (pl.lit(constants[of], pl.String) if of in constants else pl.col(of)).alias(name)
                for name, of in sources.items()
            )


def _as_declared(table: Table, footer: Footer) -> bool:
    """Whether a file has all columns under our names and in our types."""
    return all(
        footer.names.get(number) == column.name
        and footer.types.get(number) == ARROW_TYPES[column.type]
        for number, column in enumerate(table.columns, start=1)
    )


def chosen_in(tree: Mapping[str, Any], views: Sequence[View], parameters: object) -> Chosen | None:
    """What a statement takes, where it is one SELECT of columns of one view and nothing else."""
    statements = tree.get("statements", ())
    node = statements[0].get("node", {}) if len(statements) == 1 else {}
    table = node.get("from_table", {})
    if (
        node.get("type") != "SELECT_NODE"
        or not set(node) <= _SELECT
        or node.get("cte_map")
        or node.get("aggregate_handling") != "STANDARD_HANDLING"
        or table.get("type") != "BASE_TABLE"
        or not set(table) <= PLAIN_TABLE
    ):
        return None
    view = next((one for one in views if one.name == name_of(table)), None)
    if view is None or not view.plain:
        return None
    called = str(table.get("alias") or table["table_name"]).lower()
    known = [*view.tables[0].names, *(name for name, _ in view.added)]
    columns = _columns(node.get("select_list", ()), called, known)
    texts = {column.name for column in view.tables[0].columns if column.type == "string"}
    equal = _equal(node.get("where_clause"), called, texts, parameters)
    # Of a name that is a column's and the table's, which is meant is DuckDB's to say.
    if columns is None or equal is None or called in known:
        return None
    return Chosen(view, tuple(columns), equal)


def _columns(
    selected: Iterable[Mapping[str, Any]], called: str, known: Sequence[str]
) -> list[str] | None:
    columns: list[str] = []
    for one in selected:
        if one.get("type") == "STAR" and set(one) <= _PLACE:
            columns += known
            continue
        column = column_of(one, called)
        if (
            column is None
            or column not in known
            or not set(one) <= _PLACE | {"alias", "column_names"}
        ):
            return None
        columns.append(column)
    return columns


def _equal(
    where: object, called: str, texts: set[str], parameters: object
) -> dict[str, str] | None:
    equal: dict[str, str] = {}
    for one in conditions_of(where) if where is not None else ():
        column, value = column_of(one.get("left"), called), None
        if one.get("type") == "COMPARE_EQUAL" and column in texts and not is_cast(one.get("right")):
            value = text_of(one.get("right"), parameters)
        if column is None or value is None or equal.setdefault(column, value) != value:
            return None
    return equal
