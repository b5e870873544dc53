"""The catalog in an SQL database, where several commit to one table."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pyiceberg.table import StaticTable, Table

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog

KEPT = 20


def test_old_metadata_is_deleted_whoever_commits_and_nobody_is_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    access = CatalogAccess(f"sqlite:///{tmp_path}/catalog.db", str(tmp_path / "data"), {})
    one = TableCatalog(access).open(QUARANTINE)
    other = TableCatalog(access).open(QUARANTINE)

    def change(table: Table, number: int) -> None:
        with table.transaction() as transaction:
            transaction.set_properties({"number": str(number)})

    with caplog.at_level(logging.WARNING):
        for number in range(KEPT + 5):
            change(one, number)
        # It knows the table of long ago, as who gives up snapshots now and then.
        change(other, KEPT + 5)
    files = list(tmp_path.rglob("*.metadata.json"))
    assert len(files) == KEPT + 1
    assert caplog.text == ""


def test_tables_looked_for_together_are_what_each_is_by_itself(tmp_path: Path) -> None:
    access = CatalogAccess(f"sqlite:///{tmp_path}/catalog.db", str(tmp_path / "data"), {})
    reader, writer = TableCatalog(access), TableCatalog(access)
    bars = KLINES.table("1m")
    names = [QUARANTINE.name, bars.name, "silver.never_made", "silver.it's"]
    assert reader.find_all(names) == {}
    assert reader.find_all([]) == {}
    opened = {table.name: writer.open(table) for table in (QUARANTINE, bars)}
    for number in range(3):
        with opened[bars.name].transaction() as transaction:
            transaction.set_properties({"number": str(number)})
        found = reader.find_all(names)
        assert set(found) == set(opened)
        for name, table in found.items():
            alone = reader.find(name)
            assert alone is not None
            assert table.name() == alone.name()
            assert table.metadata_location == opened[name].metadata_location
            assert table.metadata == alone.metadata
        assert found[bars.name].properties["number"] == str(number)


def test_torn_metadata_is_told_with_the_name_of_its_table(tmp_path: Path) -> None:
    access = CatalogAccess(f"sqlite:///{tmp_path}/catalog.db", str(tmp_path / "data"), {})
    writer, bars = TableCatalog(access), KLINES.table("1m")
    writer.open(QUARANTINE)
    Path(writer.open(bars).metadata_location.removeprefix("file://")).write_text("{")
    with pytest.raises(BadDataError, match=f"metadata of {bars.name} is torn"):
        TableCatalog(access).find_all([QUARANTINE.name, bars.name])


def test_a_commit_knows_what_its_file_says_and_copies_no_snapshots(tmp_path: Path) -> None:
    access = CatalogAccess(f"sqlite:///{tmp_path}/catalog.db", str(tmp_path / "data"), {})
    catalog = TableCatalog(access)
    table = catalog.open(QUARANTINE)
    for _ in range(3):
        with table.transaction() as transaction, transaction.update_snapshot().fast_append():
            before = transaction.table_metadata
            told = before.model_dump_json()
        assert before.model_dump_json() == told
        assert len(table.metadata.snapshots) == len(before.snapshots) + 1
        assert all(
            kept is known
            for kept, known in zip(table.metadata.snapshots, before.snapshots, strict=False)
        )
        # As another process reads it.
        written = StaticTable.from_metadata(table.metadata_location).metadata
        assert table.metadata.model_dump() == written.model_dump()
        assert catalog.open(QUARANTINE).metadata.model_dump() == written.model_dump()
