"""A folder as an archive: what is served, and what is not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange import FolderArchive, archive, walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for key in ("spot/b.zip", "spot/a/x.zip", "spot/a.zip", "币/z.zip", "spot/.hidden.zip"):
        path = tmp_path / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
    (tmp_path / "data" / "empty" / "emptier").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path


def test_keys_come_in_byte_order_without_empty_folders_and_hidden_files(root: Path) -> None:
    served = FolderArchive(root)
    expected = ["data/spot/a.zip", "data/spot/a/x.zip", "data/spot/b.zip", "data/币/z.zip"]
    assert list(walk(served)) == expected
    assert list(walk(served, "data/", descend=False)) == ["data/spot/", "data/币/"]
    assert list(walk(served, "", descend=False)) == ["data/"]


@pytest.mark.parametrize(
    "key",
    [
        "secret.txt",
        "data/../secret.txt",
        "data/spot/../../secret.txt",
        "data//spot/a.zip",
        "/data/spot/a.zip",
        "data/./spot/a.zip",
        "data/spot/.hidden.zip",
        "data/spot",
        "data/spot/",
        "data/spot/a.zip/",
        "data/spot/a.zip\0",
        "data/" + "x" * 5000,
        "data/\ud800",
        "",
    ],
)
def test_no_other_file_can_be_reached(root: Path, key: str) -> None:
    served = FolderArchive(root)
    assert served.version(key) is None
    assert served.head(key) is None
    assert served.read(key) is None


@pytest.mark.parametrize("folder", ["data/../", "data/nowhere/", "../", "/", "data/spot/a.zip/"])
def test_no_other_folder_can_be_listed(root: Path, folder: str) -> None:
    assert FolderArchive(root).children(folder) == []


def test_a_changed_file_has_a_new_version_and_etag(root: Path) -> None:
    served = FolderArchive(root)
    before = served.version("data/spot/a.zip"), served.head("data/spot/a.zip")
    path = root / "data/spot/a.zip"
    path.write_bytes(b"new")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    head = served.head("data/spot/a.zip")
    assert before[0] != served.version("data/spot/a.zip")
    assert head is not None
    assert head.etag == hashlib.md5(b"new").hexdigest()
    assert (head.size_bytes, head.modified_s) == (3, 1_700_000_000)
    blob = served.read("data/spot/a.zip")
    assert blob is not None
    assert (blob.head, blob.bytes()) == (head, b"new")


def test_a_new_file_and_a_removed_one_show_at_once(root: Path) -> None:
    served = FolderArchive(root)
    list(walk(served))
    (root / "data/empty/emptier/new.zip").write_bytes(b"1")
    (root / "data/spot/b.zip").unlink()
    keys = list(walk(served))
    assert "data/empty/emptier/new.zip" in keys
    assert "data/spot/b.zip" not in keys
    assert served.head("data/spot/b.zip") is None


def test_a_large_file_is_not_held_in_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "IN_MEMORY_BYTES_MAX", 4)
    blob = FolderArchive(root).read("data/spot/b.zip")
    assert blob is not None
    assert (blob.body, blob.bytes()) == (b"", b"spot/b.zip")
    assert blob.head.etag == hashlib.md5(b"spot/b.zip").hexdigest()


def test_a_folder_without_data_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="no folder 'data'"):
        FolderArchive(tmp_path)


def test_a_link_that_runs_in_a_circle_ends(root: Path) -> None:
    (root / "data/spot/loop").symlink_to(root / "data/spot", target_is_directory=True)
    first = next(key for key in walk(FolderArchive(root)) if "loop" in key)
    assert first == "data/spot/loop/a.zip"
