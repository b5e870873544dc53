"""Where bytes are kept: a folder or a bucket.

Paths are relative to the store's root. An object is visible whole or not at all.
`lakehouse_ray.testing.store_suite` holds both kinds to this contract.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import fs as pafs

from lakehouse_ray.errors import (
    DeniedError,
    InvalidError,
    LakehouseError,
    NotFoundError,
    ResourceError,
    UnavailableError,
)


class ObjectStore(Protocol):
    """Whole objects by path. All methods may be called from several threads at once."""

    @property
    def root(self) -> str:
        """Absolute path, or s3://bucket/prefix; no slash at the end."""

    @property
    def filesystem(self) -> pafs.FileSystem:
        """For libraries that read and write through pyarrow; paths as `locate` gives them."""

    def locate(self, path: str) -> str:
        """The path by which `filesystem` knows the object."""

    def put(self, path: str, data: bytes) -> None:
        """Write an object whole; replaces one of the same path."""

    def put_file(self, path: str, file: Path) -> None:
        """Move a local file into the store."""

    def get(self, path: str) -> bytes:
        """Raises NotFoundError where there is none."""

    def exists(self, path: str) -> bool: ...

    def delete(self, path: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield path and size in bytes of every object below a folder, in no order."""


# As pyarrow spells the errors of S3.
_S3_DENIALS = (
    "ACCESS_DENIED",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_SIGNATURE",
    "INVALID_CLIENT_TOKEN_ID",
    "REQUEST_EXPIRED",
)


def explain(error: OSError, what: str) -> LakehouseError:
    """Turn the system's error into the one a caller can act on."""
    text = str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(
            f"no room left while {what}: {text}. Free some space and run it again."
        )
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if refused or any(code in text for code in _S3_DENIALS):
        return DeniedError(f"no permission while {what}: {text}. Check rights and credentials.")
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return InvalidError(f"{what} failed: {text}", "storage.root must be a folder")
    if isinstance(error, FileNotFoundError) or "NoSuchBucket" in text or "NO_SUCH_BUCKET" in text:
        return NotFoundError(f"not found while {what}: {text}")
    return UnavailableError(f"{what} failed: {text}")


class LocalStore:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._made: set[str] = set()

    @property
    def root(self) -> str:
        return str(self._root)

    @property
    def filesystem(self) -> pafs.FileSystem:
        return pafs.LocalFileSystem()

    def __reduce__(self) -> tuple[type[LocalStore], tuple[Path]]:
        return LocalStore, (self._root,)

    def locate(self, path: str) -> str:
        return str(self._root / path)

    def put(self, path: str, data: bytes) -> None:
        # Plain strings and calls: a run of ten thousand small objects feels pathlib.
        target = f"{self._root}/{path}"
        folder = target.rpartition("/")[0]
        self._make(folder)
        aside = f"{folder}/.{uuid.uuid4().hex}.part"
        try:
            file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
            finally:
                os.close(file)
            os.replace(aside, target)
        except OSError as error:
            self._made.discard(folder)
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise explain(error, f"writing {target}") from error

    def put_file(self, path: str, file: Path) -> None:
        target = self._target(path)
        aside = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            shutil.move(file, aside)  # a copy where it comes from another file system
            os.replace(aside, target)
        except OSError as error:
            self._made.discard(str(target.parent))
            aside.unlink(missing_ok=True)
            raise explain(error, f"writing {target}") from error

    def get(self, path: str) -> bytes:
        try:
            return (self._root / path).read_bytes()
        except OSError as error:
            raise explain(error, f"reading {self._root / path}") from error

    def exists(self, path: str) -> bool:
        return (self._root / path).is_file()

    def delete(self, path: str) -> None:
        try:
            (self._root / path).unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, f"deleting {self._root / path}") from error

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        base = str(self._root)
        for folder, _, names in os.walk(self._root / prefix):
            for name in names:
                if name.endswith(".part"):
                    continue
                full = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    yield os.path.relpath(full, base), os.stat(full).st_size

    def _target(self, path: str) -> Path:
        target = self._root / path
        self._make(str(target.parent))
        return target

    def _make(self, folder: str) -> None:
        if folder in self._made:
            return
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise explain(error, f"making the folder {folder}") from error
        self._made.add(folder)


@dataclass(frozen=True)
class S3Access:
    """How a bucket is reached. Empty values come from the AWS environment."""

    endpoint_url: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)

    def iceberg_properties(self) -> Mapping[str, str]:
        """The same in the words of pyiceberg's FileIO."""
        named = {
            "s3.endpoint": self.endpoint_url,
            "s3.region": self.region,
            "s3.access-key-id": self.access_key_id,
            "s3.secret-access-key": self.secret_access_key,
        }
        return {name: value for name, value in named.items() if value}


class S3Store:
    """A prefix of a bucket. S3 shows an object only once it is whole."""

    def __init__(self, root: str, access: S3Access) -> None:
        self._root = root.rstrip("/")
        self._access = access
        self._base = self._root.removeprefix("s3://")
        options: dict[str, object] = {}
        if access.endpoint_url:
            scheme, _, host = access.endpoint_url.partition("://")
            options |= {"endpoint_override": host, "scheme": scheme}
        if access.region:
            options["region"] = access.region
        if access.access_key_id:
            options |= {
                "access_key": access.access_key_id,
                "secret_key": access.secret_access_key,
            }
        # What is smaller than a part (10 MiB) is one request then, and not the three of an upload in parts.
        self._fs = pafs.S3FileSystem(
            connect_timeout=10, request_timeout=60, allow_delayed_open=True, **options
        )

    @property
    def root(self) -> str:
        return self._root

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._fs

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, S3Access]]:
        return S3Store, (self._root, self._access)

    def locate(self, path: str) -> str:
        return f"{self._base}/{path}"

    def put(self, path: str, data: bytes) -> None:
        try:
            with self._fs.open_output_stream(self.locate(path), compression=None) as stream:
                stream.write(data)
        except OSError as error:
            raise explain(error, f"writing {self._root}/{path}") from error

    def put_file(self, path: str, file: Path) -> None:
        try:
            with (
                file.open("rb") as source,
                self._fs.open_output_stream(self.locate(path), compression=None) as stream,
            ):
                try:
                    shutil.copyfileobj(source, stream, 8 << 20)
                except BaseException:
                    # Closing the stream shows what was written so far, and nothing else ends it.
                    stream.close()
                    self.delete(path)
                    raise
            file.unlink()
        except OSError as error:
            raise explain(error, f"writing {self._root}/{path}") from error

    def get(self, path: str) -> bytes:
        try:
            with self._fs.open_input_file(self.locate(path)) as stream:
                data: bytes = stream.readall()
                return data
        except OSError as error:
            raise explain(error, f"reading {self._root}/{path}") from error

    def exists(self, path: str) -> bool:
        try:
            info = self._fs.get_file_info(self.locate(path))
        except OSError as error:
            raise explain(error, f"looking for {self._root}/{path}") from error
        return bool(info.type == pafs.FileType.File)

    def delete(self, path: str) -> None:
        try:
            self._fs.delete_file(self.locate(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise explain(error, f"deleting {self._root}/{path}") from error

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        selector = pafs.FileSelector(self.locate(prefix), allow_not_found=True, recursive=True)
        try:
            for info in self._fs.get_file_info(selector):
                if info.type == pafs.FileType.File:
                    yield info.path.removeprefix(f"{self._base}/"), info.size
        except OSError as error:
            raise explain(error, f"listing {self._root}/{prefix}") from error


def open_store(root: str, access: S3Access) -> ObjectStore:
    """Return the store at a path or at s3://bucket/prefix.

    Raises InvalidError for any other kind of address.
    """
    if root.startswith("s3://"):
        if len(root.removeprefix("s3://").strip("/")) == 0:
            raise InvalidError(f"storage.root {root!r} names no bucket", "s3://bucket/prefix")
        try:
            return S3Store(root, access)
        except pa.ArrowInvalid as error:
            raise InvalidError(f"storage.root {root!r}: {error}") from error
    if "://" in root:
        raise InvalidError(f"storage.root {root!r}", "a path or s3://bucket/prefix")
    return LocalStore(Path(root))
