"""Manifests by readers that are kept, held against pyiceberg's own reading of them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyiceberg.manifest import ManifestEntry
from pyiceberg.table import Table as IcebergTable
from support.bars import BarLake, bars

from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.entries import entries_of, manifests_of

TABLES = ("silver.klines_fine", "silver.klines_coarse", "bronze.object_log")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[IcebergTable]:
    """Of several partitionings, with files that were added, kept and removed."""
    lake = BarLake(tmp_path_factory.mktemp("entries"))
    for days in (3, 4):
        lake.put(bars("AAA", "2024-01-01", days, holes=0), bars("BBB", "2024-03-01", 1, holes=0))
        lake.put(bars("AAA", "2024-01-01", 1, interval="1m", holes=0))
    catalog = TableCatalog(
        CatalogAccess(f"sqlite:///{lake.home}/catalog.db", str(lake.home / "data"), {})
    )
    found = [catalog.find(name) for name in TABLES]
    assert sum(table is not None for table in found) >= 2
    return [table for table in found if table is not None]


def spelled(entry: ManifestEntry) -> list[object]:
    """Its own cells and those of its data file; what is read only when asked for is asked for."""
    cells = [*entry._data[:-1], *entry.data_file._data]
    return [dict(cell) if isinstance(cell, Mapping) else repr(cell) for cell in cells]


def told(table: IcebergTable) -> list[object]:
    return [
        (repr(one), [spelled(entry) for entry in entries_of(one, table.io)])
        for snapshot in table.snapshots()
        for one in manifests_of(snapshot, table.io)
    ]


def told_by_pyiceberg(table: IcebergTable) -> list[object]:
    return [
        (repr(one), [spelled(entry) for entry in one.fetch_manifest_entry(table.io)])
        for snapshot in table.snapshots()
        for one in snapshot.manifests(table.io)
    ]


def test_they_say_what_pyiceberg_reads(tables: list[IcebergTable]) -> None:
    for _ in range(2):  # also with readers that another table or the first time has left
        for table in tables:
            assert told(table) == told_by_pyiceberg(table)


def test_many_threads_read_with_the_same_readers(tables: list[IcebergTable]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(told, tables * 10))
    assert found == [told_by_pyiceberg(table) for table in tables] * 10


def test_a_file_that_is_gone_or_torn_is_an_error(tables: list[IcebergTable]) -> None:
    table = tables[0]
    snapshot = table.current_snapshot()
    assert snapshot is not None
    manifest = manifests_of(snapshot, table.io)[0]
    path = Path(manifest.manifest_path.removeprefix("file://"))
    content = path.read_bytes()
    try:
        for torn in (content[:10], content[: len(content) // 2], b""):
            path.write_bytes(torn)
            with pytest.raises(Exception) as theirs:
                manifest.fetch_manifest_entry(table.io)
            with pytest.raises(type(theirs.value)):
                entries_of(manifest, table.io)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            entries_of(manifest, table.io)
    finally:
        path.write_bytes(content)
