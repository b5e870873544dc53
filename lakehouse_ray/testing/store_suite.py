"""The contract of an `ObjectStore`, one test per sentence. Every implementation subclasses it.

class TestMyStore(StoreTests):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MyStore(...)

    def write_directly(self, store, path, data): ...   # without the store under test
    def read_directly(self, store, path): ...
    def list_directly(self, store): ...
"""

from __future__ import annotations

import hashlib
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.storage.objects import ObjectStore

# More than one part of a multipart upload (pyarrow: 10 MiB), and no multiple of anything.
LARGE = 23_456_789


class StoreTests:
    """Promises of `ObjectStore`, whatever stands behind them.

    A test's store is empty at its beginning.

    many: More objects than one page of a listing has.
    """

    many = 1_100

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError("a subclass says which store it tests")

    def write_directly(self, store: ObjectStore, path: str, data: bytes) -> None:
        """Make an object without the store."""
        raise NotImplementedError

    def read_directly(self, store: ObjectStore, path: str) -> bytes | None:
        """Return an object's bytes without the store; None where there is none."""
        raise NotImplementedError

    def list_directly(self, store: ObjectStore) -> set[str]:
        """Return the paths of all objects without the store."""
        raise NotImplementedError

    def test_the_root_is_absolute_and_has_no_slash_at_its_end(self, store: ObjectStore) -> None:
        assert store.root.startswith(("/", "s3://"))
        assert not store.root.endswith("/")

    @pytest.mark.parametrize(
        "path",
        [
            "a",
            "a/b/c.zip",
            "a/b.jsonl.gz",
            "币安人生USDT/x@0.zip",
            "a b/c+d=e&f.parquet",
            "x=1/y=%2F",
        ],
    )
    def test_what_is_put_is_there_under_its_path(self, store: ObjectStore, path: str) -> None:
        store.put(path, b"some bytes")
        assert self.read_directly(store, path) == b"some bytes"
        assert self.list_directly(store) == {path}
        assert store.get(path) == b"some bytes"
        assert list(store.walk("")) == [(path, 10)]

    def test_an_object_may_be_empty(self, store: ObjectStore) -> None:
        store.put("empty", b"")
        assert self.read_directly(store, "empty") == b""
        assert store.get("empty") == b""
        assert store.exists("empty")

    def test_a_large_object_comes_back_byte_for_byte(self, store: ObjectStore) -> None:
        data = hashlib.shake_256(b"large").digest(LARGE)
        store.put("large", data)
        assert self.read_directly(store, "large") == data
        assert store.get("large") == data

    def test_put_replaces_an_object_of_the_same_path(self, store: ObjectStore) -> None:
        self.write_directly(store, "a/b", b"old, and longer")
        store.put("a/b", b"new")
        assert self.read_directly(store, "a/b") == b"new"
        assert self.list_directly(store) == {"a/b"}

    def test_put_file_moves_a_file_into_the_store(self, store: ObjectStore, tmp_path: Path) -> None:
        data = hashlib.shake_256(b"file").digest(LARGE)
        file = tmp_path / "file"
        file.write_bytes(data)
        store.put_file("a/file", file)
        assert self.read_directly(store, "a/file") == data
        assert self.list_directly(store) == {"a/file"}
        assert not file.exists()

    def test_a_file_that_cannot_be_read_leaves_nothing(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        with pytest.raises(NotFoundError):
            store.put_file("a/file", tmp_path / "missing")
        assert self.list_directly(store) == set()

    def test_get_reads_what_others_wrote(self, store: ObjectStore) -> None:
        self.write_directly(store, "of/others", b"their bytes")
        assert store.get("of/others") == b"their bytes"

    def test_get_raises_not_found_where_there_is_none(self, store: ObjectStore) -> None:
        self.write_directly(store, "a/b", b"")
        for missing in ("c", "a/c", "a/b/c"):
            with pytest.raises((NotFoundError, ValueError)):
                store.get(missing)

    def test_exists_tells_objects_from_folders_and_from_nothing(self, store: ObjectStore) -> None:
        self.write_directly(store, "a/b", b"1")
        assert store.exists("a/b")
        assert not store.exists("a")
        assert not store.exists("a/c")
        assert not store.exists("nothing/at/all")

    def test_delete_removes_one_object(self, store: ObjectStore) -> None:
        for path in ("a/b", "a/bc", "a/d"):
            self.write_directly(store, path, b"1")
        store.delete("a/b")
        assert self.list_directly(store) == {"a/bc", "a/d"}
        assert not store.exists("a/b")

    def test_delete_of_nothing_does_nothing(self, store: ObjectStore) -> None:
        self.write_directly(store, "a/b", b"1")
        store.delete("a/c")
        store.delete("nothing/at/all")
        assert self.list_directly(store) == {"a/b"}

    def test_an_object_deleted_last_leaves_its_folder_empty(self, store: ObjectStore) -> None:
        store.put("a/b", b"1")
        store.delete("a/b")
        assert list(store.walk("")) == []

    def test_walk_yields_path_and_size_below_a_folder(self, store: ObjectStore) -> None:
        for path, size in (("a/b", 1), ("a/c/d", 22), ("ab/e", 3), ("f", 4)):
            self.write_directly(store, path, b"x" * size)
        assert sorted(store.walk("a")) == [("a/b", 1), ("a/c/d", 22)]
        assert sorted(store.walk("")) == [("a/b", 1), ("a/c/d", 22), ("ab/e", 3), ("f", 4)]
        assert list(store.walk("nothing")) == []

    def test_walk_comes_to_an_end_with_every_object(self, store: ObjectStore) -> None:
        paths = {f"many/{n % 7}/{n:05}" for n in range(self.many)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: self.write_directly(store, path, b"1"), paths))
        found = [path for path, _ in store.walk("many")]
        assert len(found) == self.many
        assert set(found) == paths

    def test_the_filesystem_knows_objects_by_the_paths_of_locate(self, store: ObjectStore) -> None:
        store.put("a/b", b"by the store")
        with store.filesystem.open_input_file(store.locate("a/b")) as file:
            assert file.readall() == b"by the store"
        with store.filesystem.open_output_stream(store.locate("a/c")) as file:
            file.write(b"by the file system")
        assert store.get("a/c") == b"by the file system"

    def test_an_object_is_visible_whole_or_not_at_all(self, store: ObjectStore) -> None:
        first, second = b"1" * LARGE, b"2" * LARGE
        store.put("a/b", first)
        writer = threading.Thread(target=store.put, args=("a/b", second))
        writer.start()
        seen = {first}
        while writer.is_alive():
            seen.add(self.read_directly(store, "a/b") or b"")
            assert {path for path, _ in store.walk("")} == {"a/b"}
        writer.join()
        assert seen <= {first, second}
        assert self.read_directly(store, "a/b") == second

    def test_several_threads_may_use_it_at_once(self, store: ObjectStore) -> None:
        def use(number: int) -> bytes:
            path = f"t/{number % 5}/{number}"
            store.put(path, str(number).encode())
            assert store.exists(path)
            return store.get(path)

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(use, range(100))) == [str(n).encode() for n in range(100)]
        assert len(list(store.walk("t"))) == 100

    def test_it_pickles(self, store: ObjectStore) -> None:
        self.write_directly(store, "a/b", b"1")
        again: ObjectStore = pickle.loads(pickle.dumps(store))
        assert (again.root, again.get("a/b")) == (store.root, b"1")
