"""What the catalog's own file may be like, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog

pytestmark = pytest.mark.integration


def test_a_file_that_is_no_catalog_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"something else, long enough to be read" * 100)
    access = CatalogAccess(f"sqlite:///{tmp_path}/catalog.db", str(tmp_path), {})
    with pytest.raises(UnavailableError, match="file is not a database") as caught:
        TableCatalog(access)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["nonsense://someone:hunter2@127.0.0.1:1/lake", "no address"])
def test_an_address_of_no_known_kind_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(InvalidError) as caught:
        TableCatalog(CatalogAccess(uri, "/nowhere", {}))
    assert uri.partition("://")[0] in str(caught.value)
    assert "hunter2" not in f"{caught.value}{caught.value!r}"
