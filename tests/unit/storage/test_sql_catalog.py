"""The catalog in an SQL database, where several commit to one table."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pyiceberg.table import Table

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
