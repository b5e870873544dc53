"""The catalog in an SQL database, asked and tidied at less cost than pyiceberg's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO
from pyiceberg.table import CommitTableResponse
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.metadata import TableMetadata, TableMetadataV2
from pyiceberg.table.update import TableRequirement, TableUpdate
from pyiceberg.typedef import Identifier
from sqlalchemy import bindparam, select, tuple_
from sqlalchemy.exc import DBAPIError

# Tables that it keeps in its own database.
_TABLES = 2


class LakeCatalog(SqlCatalog):
    """Asks its database each time where a table's metadata is, and reads it when that is news.

    A metadata file is never changed under its name, and most questions come between two commits:
    reading it again would take more time than the rest of a look.
    """

    def __init__(self, name: str, **properties: str) -> None:
        super().__init__(name, **properties)
        # The last one of each table: its location, and the table as it was read.
        self._last: dict[tuple[str, str], tuple[str, IcebergTable]] = {}
        kind = self._iceberg_type_filter()
        self._location = select(IcebergTables.metadata_location).where(
            IcebergTables.catalog_name == name,
            IcebergTables.table_namespace == bindparam("namespace"),
            IcebergTables.table_name == bindparam("table"),
            *(() if kind is None else (kind,)),
        )
        columns = IcebergTables.table_namespace, IcebergTables.table_name
        self._locations = select(*columns, IcebergTables.metadata_location).where(
            IcebergTables.catalog_name == name,
            tuple_(*columns).in_(bindparam("tables", expanding=True)),
            *(() if kind is None else (kind,)),
        )

    def locate(self, names: Iterable[str]) -> dict[str, str]:
        """Where the metadata of these tables is at one moment; without those that are not there."""
        asked = [tuple(name.split(".")) for name in names]
        with self.engine.connect() as connection:
            rows = connection.execute(self._locations, {"tables": asked}).all()
        return {f"{space}.{table}": location for space, table, location in rows if location}

    def load_at(self, name: str, location: str) -> IcebergTable:
        """A table as its metadata there has it."""
        namespace, _, table = name.partition(".")
        known = self._last.get((namespace, table))
        if known is not None and known[0] == location:
            return self._own(known[1], known[1].metadata, location)
        row = IcebergTables(
            catalog_name=self.name,
            table_namespace=namespace,
            table_name=table,
            metadata_location=location,
            previous_metadata_location=None,
        )
        return self._convert_orm_to_iceberg(row)

    def load_table(self, identifier: str | Identifier) -> IcebergTable:
        namespace = self.namespace_to_string(self.namespace_from(identifier))
        table = self.table_name_from(identifier)
        # A row of its database as an object takes several times as long as its one column.
        with self.engine.connect() as connection:
            location = connection.scalar(self._location, {"namespace": namespace, "table": table})
        if location is None:
            raise NoSuchTableError(f"there is no table {namespace}.{table}")
        known = self._last.get((namespace, table))
        if known is not None and known[0] == location:
            return self._own(known[1], known[1].metadata, location)
        return super().load_table(identifier)

    def _convert_orm_to_iceberg(self, orm_table: IcebergTables) -> IcebergTable:
        location = orm_table.metadata_location
        key = orm_table.table_namespace, orm_table.table_name
        known = self._last.get(key)
        if known is not None and known[0] == location:
            table = known[1]
        else:
            read = super()._convert_orm_to_iceberg(orm_table)
            table = self._own(read, _never_changed(read.metadata), read.metadata_location)
            self._last[key] = table.metadata_location, table
        return self._own(table, table.metadata, table.metadata_location)

    def commit_table(
        self,
        table: IcebergTable,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
    ) -> CommitTableResponse:
        response = super().commit_table(table, requirements, updates)
        log = response.metadata.metadata_log
        namespace = self.namespace_to_string(self.namespace_from(table.name()))
        key = namespace, self.table_name_from(table.name())
        known = self._last.get(key)
        if known is not None and log and known[0] == log[-1].metadata_file:
            SqlCatalog._delete_old_metadata(table.io, known[1].metadata, response.metadata)
        # What was written just now need not be read for the next commit.
        location = response.metadata_location
        self._last[key] = location, self._own(table, response.metadata, location)
        return response

    @staticmethod
    def _delete_old_metadata(io: FileIO, base: TableMetadata, metadata: TableMetadata) -> None:
        """Nothing more: `commit_table` has deleted what this commit put out of the table's log.

        pyiceberg goes by `base`, the table as the committer knew it: where others have committed
        since, it warns of files that these have deleted, and leaves one behind.
        """

    def _own(self, table: IcebergTable, metadata: TableMetadata, location: str) -> IcebergTable:
        # A commit changes the table through which it is made.
        return IcebergTable(table.name(), metadata, location, table.io, self)


class _NeverChanged(TableMetadataV2):
    """Metadata whose parts may be shared by copies of it.

    pyiceberg makes a deep copy of all snapshots some twenty times a commit, though it changes none in
    place: most of a commit's time where a table has a hundred of them.
    """

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        return super().model_copy(update=update)


def _never_changed(metadata: TableMetadata) -> TableMetadata:
    if type(metadata) is not TableMetadataV2:
        return metadata
    return _NeverChanged.model_construct(metadata.model_fields_set, **metadata.__dict__)


def open_catalog(properties: Mapping[str, str]) -> Catalog:
    """Open the catalog; makes its own tables where they are missing."""
    for _ in range(_TABLES):
        try:
            return LakeCatalog("lakehouse", **properties)
        except DBAPIError as error:
            # Another run made one of them between our look and our attempt.
            if "already exists" not in str(error):
                raise
    return LakeCatalog("lakehouse", **properties)
