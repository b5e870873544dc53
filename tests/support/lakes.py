"""What a lake holds, read without this package: SQLite, pyiceberg, pyarrow, the file system."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal
from pyiceberg.table import StaticTable

# Differ between any two runs; the rest must not.
RUN_COLUMNS = ("run_id", "unit_id", "seen_at", "fetched", "quarantined_at", "url")
KEYS = {
    "silver.klines_fine": ("market", "symbol", "interval", "open_time"),
    "silver.klines_coarse": ("market", "symbol", "interval", "open_time"),
}


@dataclass(frozen=True)
class Contents:
    """A lake at one moment.

    tables: Rows of each table, sorted; of the logs, what they say in the end.
    snapshots: Ids of each table's snapshots, sorted.
    bronze: sha256 of each object by its path in bronze.
    """

    tables: Mapping[str, pl.DataFrame]
    snapshots: Mapping[str, tuple[int, ...]]
    bronze: Mapping[str, str]

    def rows(self, table: str) -> int:
        return self.tables[table].height if table in self.tables else 0


def metadata_locations(home: Path) -> dict[str, str]:
    """Where the catalog says that each table's metadata is."""
    path = home / "catalog.db"
    if not path.is_file():
        return {}
    # Not read-only: what a killed process left half-written is rolled back by whoever opens it.
    connection = sqlite3.connect(path, timeout=60)
    try:
        found = connection.execute(
            "select table_namespace || '.' || table_name, metadata_location from iceberg_tables"
        )
        return dict(found.fetchall())
    finally:
        connection.close()


def read_lake(
    home: Path,
    properties: Mapping[str, str] | None = None,
    bronze: Mapping[str, bytes] | None = None,
) -> Contents:
    """Read everything that the catalog in `home` knows of.

    properties, bronze: Where the store is no local folder, how pyiceberg reaches it, and what it
        has in bronze.
    """
    tables, snapshots = {}, {}
    for name, location in sorted(metadata_locations(home).items()):
        table = StaticTable.from_metadata(location, dict(properties or {}))
        snapshots[name] = tuple(sorted(s.snapshot_id for s in table.metadata.snapshots))
        frame = pl.from_arrow(table.scan().to_arrow())
        assert isinstance(frame, pl.DataFrame)
        tables[name] = _settled(name, frame)
    if bronze is None:
        return Contents(tables, snapshots, read_bronze(home / "data"))
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in bronze.items()}
    return Contents(tables, snapshots, hashes)


def _settled(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of a table in an order of their own; of a log, the final word on each thing."""
    if name == "bronze.object_log":
        rows = rows.sort("seen_at", maintain_order=True).unique("key", keep="last")
    left = rows.drop(RUN_COLUMNS, strict=False)
    if name == "silver.quarantine_log":
        left = left.unique()
    return left.sort(KEYS.get(name, left.columns), nulls_last=False)


def read_bronze(root: Path) -> dict[str, str]:
    """Each visible object: what is written aside has a name with a dot in front."""
    base = root / "bronze"
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in base.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def assert_sound(lake: Contents) -> None:
    """Hold a lake to what must be true of any, whatever happened to it."""
    for name, key in KEYS.items():
        if name in lake.tables:
            doubled = lake.tables[name].group_by(key).len().filter(pl.col("len") > 1)
            assert doubled.is_empty(), f"{name} has keys twice: {doubled}"
    for path, sha256 in lake.bronze.items():
        assert path.endswith(f"@{sha256}.zip"), f"{path} holds other bytes"
    objects = [path.rpartition("@")[0] for path in lake.bronze]
    assert len(objects) == len(set(objects)), "bronze has an object twice"


def assert_same(lake: Contents, wanted: Contents) -> None:
    """Hold a lake to another's contents, row for row, cell for cell, byte for byte."""
    assert_sound(lake)
    assert sorted(lake.tables) == sorted(wanted.tables)
    for name, frame in wanted.tables.items():
        assert_frame_equal(lake.tables[name], frame, check_exact=True)
    assert lake.bronze == wanted.bronze
