"""The catalog that holds the Iceberg tables of the lake.

Everything the rest of the lake knows of pyiceberg goes through here, `schemas`, `parquet`, `files`
and `committer`. pyiceberg is bounded to 0.12: the calls in `committer` carry no promise beyond it.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationError,
)
from pyiceberg.table import StaticTable
from pyiceberg.table import Table as IcebergTable
from pyiceberg.types import NestedField
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from lakehouse_ray.errors import (
    BadDataError,
    DeniedError,
    InvalidError,
    LakehouseError,
    NotFoundError,
    ResourceError,
    UnavailableError,
)
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.objects import explain
from lakehouse_ray.storage.paths import TABLES
from lakehouse_ray.storage.schemas import iceberg_schema, partition_spec, table_properties
from lakehouse_ray.storage.sql_catalog import LakeCatalog, open_catalog

# Of a snapshot: the run that committed it.
RUN_ID_PROPERTY = "lakehouse.run"
# Of a table: its last sweep, which a commit under way has to know of: files of nobody that are older
# go (µs by the store's clock), a hyphen, and its name.
SWEPT_PROPERTY = "lakehouse.swept"
# Of a snapshot that changed no row: what was done.
MAINTENANCE_PROPERTY = "lakehouse.maintenance"
# SQLite waits so long for another process's commit before it gives up.
SQLITE_TIMEOUT_S = 60
# Attempts to add columns to a table that others change meanwhile.
EXTENSIONS_MAX = 20


@dataclass(frozen=True)
class CatalogAccess:
    """What opens the catalog in any process.

    uri: sqlite:///… (on this machine's disk only) or another SQLAlchemy address.
    warehouse: Root of the lake's store.
    """

    uri: str
    warehouse: str
    properties: Mapping[str, str]

    @property
    def sqlite_path(self) -> Path | None:
        return (
            Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None
        )


def explain_catalog(error: Exception, what: str) -> LakehouseError:
    """Turn an error of the catalog's database into the one a caller can act on."""
    text = str(getattr(error, "orig", None) or error).partition("\n")[0]
    if "is full" in text:
        return ResourceError(f"no room left for the catalog while {what}: {text}. Free some space.")
    if "readonly database" in text:
        return DeniedError(
            f"the catalog may not be written while {what}: {text}. Check its rights."
        )
    return UnavailableError(f"the catalog did not answer while {what}: {text}")


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what looking for tables raises into errors a caller can act on."""
    try:
        yield
    except ValidationError as error:
        advice = "`lakehouse repair` sets the table back"
        raise BadDataError(
            "METADATA_UNREADABLE", f"metadata of {name} is torn; {advice} ({error})"
        ) from error
    except SQLAlchemyError as error:
        raise explain_catalog(error, f"looking for {name}") from error
    except OSError as error:
        raise explain(error, f"reading the table {name}") from error


def swept_before_us(told: str | None) -> int:
    """From when on files are surely left alone by sweeps so far, by `SWEPT_PROPERTY`."""
    return 0 if told is None else int(told.partition("-")[0])


def _without_password(uri: str) -> str:
    return re.sub(r"(?<=:)[^:@/]*(?=@)", "***", uri)


def _younger(found: IcebergTable, table: Table) -> list[NestedField]:
    """Declared columns that were never in the table. One that another engine dropped stays so.

    Raises InvalidError where another engine has put its own column in a declared one's place:
    files name columns by these numbers.
    """
    there = {field.field_id: field for field in found.schema().fields}
    # A column that was renamed later is still ours.
    first: dict[int, str] = {}
    for _, schema in sorted(found.schemas().items()):
        for known in schema.fields:
            first.setdefault(known.field_id, known.name)
    declared = iceberg_schema(table).fields
    for field in declared:
        own = there.get(field.field_id)
        if own is None:
            continue
        if own.field_type != field.field_type or first[field.field_id] != field.name:
            raise InvalidError(
                f"{table.name}: column {field.field_id} is {own.name!r} of type {own.field_type}, "
                f"not {field.name!r}",
                "another engine added a column of its own: the lake's tables cannot be extended so",
            )
    return [field for field in declared if field.field_id > found.metadata.last_column_id]


class TableCatalog:
    """The lake's tables by name. Tables are made when first opened for writing."""

    def __init__(self, access: CatalogAccess) -> None:
        """Raises LakehouseError where the catalog cannot be opened."""
        self._access = access
        uri = access.uri
        path = access.sqlite_path
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain(error, f"making the folder of the catalog {path}") from error
            uri = f"{uri}?timeout={SQLITE_TIMEOUT_S}"
        root = access.warehouse
        warehouse = f"{root}/{TABLES}" if "://" in root else f"file://{root}/{TABLES}"
        properties = {"uri": uri, "warehouse": warehouse, **access.properties}
        try:
            self._catalog: Catalog = open_catalog(properties)
        except (ValueError, ArgumentError) as error:
            raise InvalidError(f"catalog.uri {_without_password(access.uri)}: {error}") from error
        except ModuleNotFoundError as error:
            raise InvalidError(
                f"catalog.uri {_without_password(access.uri)}: {error}",
                "for PostgreSQL: pip install 'lakehouse-ray[postgres]'",
            ) from error
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise explain_catalog(error, f"opening {_without_password(access.uri)}") from error

    def find(self, name: str) -> IcebergTable | None:
        """Return the table as it is now, or None.

        Raises BadDataError where its metadata is torn, LakehouseError where it cannot be read.
        """
        with _explained(name):
            try:
                return self._catalog.load_table(name)
            except (NoSuchTableError, NoSuchNamespaceError):
                return None

    def find_all(self, names: Collection[str]) -> dict[str, IcebergTable]:
        """Those of these tables that are there, as they were at one moment: asked together, they
        cost about as much as one.

        Raises as `find` does.
        """
        with _explained(", ".join(names)):
            located = self._sql.locate(names)
        found = {}
        for name, location in located.items():
            with _explained(name):
                found[name] = self._sql.load_at(name, location)
        return found

    def open(self, table: Table) -> IcebergTable:
        """Return the table as it is now, for writing.

        Makes it where it is missing, and adds the columns that it lacks where it was made before
        they were declared.
        """
        found = self.find(table.name)
        if found is not None:
            return self._extended(found, table)
        schema, _, _ = table.name.partition(".")
        try:
            # Two runs may make the same at the same moment; pyiceberg tells of the first as the
            # catalog itself does.
            with contextlib.suppress(NamespaceAlreadyExistsError, IntegrityError):
                self._catalog.create_namespace(schema)
            return self._catalog.create_table(
                table.name,
                iceberg_schema(table),
                partition_spec=partition_spec(table),
                properties=table_properties(table),
            )
        except TableAlreadyExistsError:
            return self._extended(self._catalog.load_table(table.name), table)
        except SQLAlchemyError as error:
            raise explain_catalog(error, f"making {table.name}") from error
        except OSError as error:
            raise explain(error, f"making the table {table.name}") from error

    def _extended(self, found: IcebergTable, table: Table) -> IcebergTable:
        """The table with every declared column. Several processes may add the same at once.

        No file is touched: in those that are there a new column is null.
        """
        for _ in range(EXTENSIONS_MAX):
            missing = _younger(found, table)
            if not missing:
                return found
            try:
                with found.update_schema() as update:
                    for field in missing:
                        update.add_column(field.name, field.field_type, doc=field.doc)
            except (CommitFailedException, CommitStateUnknownException):
                pass  # another writer was first, perhaps with this very change
            except SQLAlchemyError as error:
                raise explain_catalog(error, f"adding columns to {table.name}") from error
            except OSError as error:
                raise explain(error, f"adding columns to {table.name}") from error
            found = self.find(table.name) or found
        raise UnavailableError(
            f"columns could not be added to {table.name}: other writers came first "
            f"{EXTENSIONS_MAX} times"
        )

    def locations(self, name: str) -> tuple[str, str | None]:
        """Where the catalog says that a table's metadata is, and where that of before is.

        Raises NotFoundError where it knows no such table.
        """
        space, _, table = name.partition(".")
        columns = IcebergTables.metadata_location, IcebergTables.previous_metadata_location
        try:
            with self._sql.engine.connect() as connection:
                row = connection.execute(
                    select(*columns).where(*self._row_of(space, table))
                ).one_or_none()
        except SQLAlchemyError as error:
            raise explain_catalog(error, f"looking for {name}") from error
        if row is None or row[0] is None:
            raise NotFoundError(f"the catalog has no table {name}")
        return str(row[0]), None if row[1] is None else str(row[1])

    def set_back(self, name: str, location: str, previous: str) -> bool:
        """Point the catalog to a table's metadata of before; whether it still had the other.

        For metadata that is lost: what was committed with it is lost, too.
        """
        space, _, table = name.partition(".")
        change = (
            update(IcebergTables)
            .where(*self._row_of(space, table), IcebergTables.metadata_location == location)
            .values(metadata_location=previous, previous_metadata_location=None)
        )
        try:
            with self._sql.engine.begin() as connection:
                return connection.execute(change).rowcount == 1
        except SQLAlchemyError as error:
            raise explain_catalog(error, f"setting back {name}") from error

    def read_at(self, location: str) -> StaticTable:
        """A table as a file of its metadata has it. Raises OSError or ValueError where it cannot."""
        try:
            return StaticTable.from_metadata(location, dict(self._access.properties))
        except ValidationError as error:
            raise ValueError(f"{location} is torn: {error}") from error

    @property
    def _sql(self) -> LakeCatalog:
        assert isinstance(self._catalog, LakeCatalog), "the lake's catalogs are in SQL"
        return self._catalog

    def _row_of(self, space: str, table: str) -> tuple[ColumnElement[bool], ...]:
        return (
            IcebergTables.catalog_name == self._sql.name,
            IcebergTables.table_namespace == space,
            IcebergTables.table_name == table,
        )

    def names(self) -> list[str]:
        """Names of all tables, sorted."""
        try:
            return sorted(
                f"{space}.{name}"
                for (space,) in self._catalog.list_namespaces()
                for _, name in self._catalog.list_tables(space)
            )
        except SQLAlchemyError as error:
            raise explain_catalog(error, "listing its tables") from error
