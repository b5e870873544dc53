"""Every store keeps the same promises; what goes wrong with a bucket is said in words."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.buckets import KEY_ID, REGION, SECRET, Bucket, moto, seaweedfs

from lakehouse_ray.errors import DeniedError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.storage.objects import LocalStore, ObjectStore, S3Access, S3Store, open_store
from lakehouse_ray.testing.store_suite import StoreTests

pytestmark = pytest.mark.integration


class TestLocalStore(StoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return LocalStore(tmp_path / "store")

    def write_directly(self, store: ObjectStore, path: str, data: bytes) -> None:
        target = Path(store.root) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def read_directly(self, store: ObjectStore, path: str) -> bytes | None:
        target = Path(store.root) / path
        return target.read_bytes() if target.is_file() else None

    def list_directly(self, store: ObjectStore) -> set[str]:
        base = Path(store.root)
        return {str(p.relative_to(base)) for p in base.rglob("*") if p.is_file()}


class BucketTests(StoreTests):
    @pytest.fixture
    def store(self, bucket: Bucket) -> ObjectStore:
        self.bucket = bucket
        self.prefix = f"prefix/{time.monotonic_ns()}"
        return S3Store(f"s3://{bucket.name}/{self.prefix}", bucket.access)

    def write_directly(self, store: ObjectStore, path: str, data: bytes) -> None:
        key = f"{self.prefix}/{path}"
        self.bucket.client.put_object(Bucket=self.bucket.name, Key=key, Body=data)

    def read_directly(self, store: ObjectStore, path: str) -> bytes | None:
        client = self.bucket.client
        try:
            key = f"{self.prefix}/{path}"
            answer: bytes = client.get_object(Bucket=self.bucket.name, Key=key)["Body"].read()
            return answer
        except client.exceptions.NoSuchKey:
            return None

    def list_directly(self, store: ObjectStore) -> set[str]:
        return set(self.bucket.objects(f"{self.prefix}/"))


@pytest.fixture(scope="module")
def moto_bucket() -> Iterator[Bucket]:
    with moto() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def seaweedfs_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as bucket:
        yield bucket


class TestS3StoreOnMoto(BucketTests):
    many = 50  # it takes its time; pages are what SeaweedFS is asked for

    @pytest.fixture
    def bucket(self, moto_bucket: Bucket) -> Bucket:
        return moto_bucket


class TestS3StoreOnSeaweedFS(BucketTests):
    @pytest.fixture
    def bucket(self, seaweedfs_bucket: Bucket) -> Bucket:
        return seaweedfs_bucket


CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "put": lambda store: store.put("a/b", b"1"),
    "get": lambda store: store.get("a/b"),
    "exists": lambda store: store.exists("a/b"),
    "delete": lambda store: store.delete("a/b"),
    "walk": lambda store: list(store.walk("a")),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("key_id", "secret"), [(KEY_ID, "another-secret"), ("nobody", SECRET)])
def test_wrong_credentials_are_denied_and_never_said(
    seaweedfs_bucket: Bucket, call: str, key_id: str, secret: str
) -> None:
    access = S3Access(seaweedfs_bucket.endpoint_url, REGION, key_id, secret)
    store = S3Store(f"s3://{seaweedfs_bucket.name}/p", access)
    with pytest.raises(DeniedError, match="credentials") as caught:
        CALLS[call](store)
    assert secret not in f"{caught.value}{caught.value!r}{access!r}"


@pytest.mark.parametrize("call", ["put", "get"])
def test_a_bucket_that_is_not_there_is_not_found(moto_bucket: Bucket, call: str) -> None:
    store = S3Store("s3://no-such-bucket/p", moto_bucket.access)
    with pytest.raises(NotFoundError, match="s3://no-such-bucket/p"):
        CALLS[call](store)


@pytest.mark.parametrize("call", CALLS)
def test_an_endpoint_that_is_not_there_is_unavailable_in_seconds(call: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1"):
            CALLS[call](S3Store("s3://lake/p", S3Access(url, REGION, KEY_ID, SECRET)))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("root", ["s3://", "gs://bucket/p", "http://host/p"])
def test_a_root_of_no_known_kind_is_refused(root: str) -> None:
    with pytest.raises(InvalidError):
        open_store(root, S3Access())
