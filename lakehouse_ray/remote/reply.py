"""One answer of the service: whole, or an error. Its bytes, its rows, its versions, its next page."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any
from urllib.parse import parse_qs, urljoin, urlsplit

import orjson
import pyarrow as pa

from lakehouse_ray.errors import BadDataError, InvalidError
from lakehouse_ray.query.versions import parse_versions

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
# Beyond this a body waits on disk, not in memory, for who reads it.
MEMORY_BYTES = 32 << 20


class Body:
    """Bytes as they come, hashed; readable from the beginning, any number of times."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        if self._file is None and self.size > MEMORY_BYTES:
            self._file = tempfile.NamedTemporaryFile(prefix="lakehouse-")  # noqa: SIM115 - kept
            self._file.write(self._memory)
            self._memory = bytearray()
        if self._file is not None:
            self._file.write(data)
        else:
            self._memory += data

    def open(self) -> IO[bytes]:
        if self._file is None:
            return io.BytesIO(self._memory)
        self._file.flush()
        return open(self._file.name, "rb")

    def close(self) -> None:
        """Give memory and disk back."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()


class Reply:
    """A whole answer that is no error: its bytes are those that its header says."""

    def __init__(self, url: str, headers: Mapping[str, str], body: Body) -> None:
        """Raises BadDataError for bytes that are others than the server sent."""
        self._url = url
        self._headers = headers
        self.body = body
        self.kind = headers.get("Content-Type", "").partition(";")[0].strip()
        encoding = headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise BadDataError("UNASKED_ENCODING", f"the answer came as {encoding[:40]!r}")
        wanted = _digest(headers.get("Content-Digest", ""))
        if wanted is None:
            raise BadDataError(
                "NO_DIGEST", "the answer has no Content-Digest: is this the query service?"
            )
        if wanted != body.sha256:
            raise BadDataError(
                "DIGEST_MISMATCH", "the answer was changed or cut on its way; ask again"
            )

    @property
    def versions(self) -> str:
        """The versions of the tables that it was read from, as `Lakehouse-Snapshots` says."""
        told = self._headers.get("Lakehouse-Snapshots", "")
        try:
            parse_versions(told)
        except InvalidError as error:
            raise BadDataError("BAD_SNAPSHOTS", str(error)) from error
        return told

    @property
    def rows(self) -> int:
        told = self._headers.get("Lakehouse-Rows", "")
        if not (told.isascii() and told.isdigit()):
            raise BadDataError("NO_ROW_COUNT", "the answer does not say how many rows it has")
        return int(told)

    @property
    def cursor(self) -> str | None:
        """Where the next page begins, by `Link: <…>; rel="next"`; None: this was the last.

        Raises BadDataError for a next page on another server: it would get the key.
        """
        link = self._headers.get("Link")
        if link is None:
            return None
        target, _, parameters = link.strip().removeprefix("<").partition(">")
        asked, following = urlsplit(self._url), urlsplit(urljoin(self._url, target))
        cursor = parse_qs(following.query).get("cursor")
        if 'rel="next"' not in parameters or not cursor or len(cursor) != 1:
            raise BadDataError("BAD_LINK", f"the answer's next page is no page: {link[:200]!r}")
        if (following.scheme, following.netloc) != (asked.scheme, asked.netloc):
            raise BadDataError("BAD_LINK", f"the next page is on another server: {target[:200]!r}")
        return cursor[0]

    def document(self) -> dict[str, Any]:
        if self.kind != JSON:
            raise BadDataError("NOT_JSON", f"the answer is {self.kind[:80]!r}")
        with self.body.open() as file:
            found = orjson.loads(file.read())
        if not isinstance(found, dict):
            raise BadDataError("NOT_JSON", "the answer is no document")
        return found

    @property
    def schema(self) -> pa.Schema:
        with self.body.open() as file, self._stream(file) as stream:
            return stream.schema

    def batches(self, rows_max: int) -> Iterator[pa.RecordBatch]:
        """The rows, in batches of at most so many.

        Raises BadDataError where there are not as many as the answer says.
        """
        count = 0
        with self.body.open() as file, self._stream(file) as stream:
            while True:
                try:
                    batch = stream.read_next_batch()
                except StopIteration:
                    break
                except (pa.ArrowException, OSError) as error:
                    raise BadDataError("NOT_ARROW", str(error)) from error
                count += batch.num_rows
                for start in range(0, batch.num_rows, rows_max):
                    yield batch.slice(start, rows_max)
        if count != self.rows:
            raise BadDataError("ROW_COUNT", f"{count:,} rows came, {self.rows:,} were announced")

    def _stream(self, file: IO[bytes]) -> pa.RecordBatchReader:
        if self.kind != ARROW:
            raise BadDataError("NOT_ARROW", f"the answer is {self.kind[:80]!r}")
        try:
            return pa.ipc.open_stream(file)
        except (pa.ArrowException, OSError) as error:
            raise BadDataError("NOT_ARROW", str(error)) from error


def _digest(header: str) -> bytes | None:
    """The sha256 in a header Content-Digest (RFC 9530)."""
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "sha-256" and value.startswith(":") and value.endswith(":") and len(value) > 2:
            try:
                return base64.b64decode(value[1:-1], validate=True)
            except binascii.Error:
                return None
    return None
