"""Bodies and their headers."""

from __future__ import annotations

import base64
import hashlib
import io

import pyarrow as pa
import pytest

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.remote.reply import MEMORY_BYTES, Body, Reply

URL = "http://127.0.0.1:1/lake/v1/klines?symbol=X"


def reply(data: bytes, **headers: str) -> Reply:
    body = Body()
    body.write(data)
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(URL, {"Content-Digest": f"sha-256=:{digest}:", **named}, body)


def stream(rows: int) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"a": list(range(rows))})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_a_body_beyond_memory_is_read_as_often_as_one_likes() -> None:
    body = Body()
    pieces = [bytes([n]) * (MEMORY_BYTES // 3) for n in range(4)]
    for piece in pieces:
        body.write(piece)
    whole = b"".join(pieces)
    assert body.size == len(whole) > MEMORY_BYTES
    assert body.sha256 == hashlib.sha256(whole).digest()
    with body.open() as first, body.open() as second:
        assert first.read(10) == whole[:10]
        assert second.read() == whole
        assert first.read() == whole[10:]
    body.close()


def test_batches_are_no_longer_than_asked() -> None:
    found = reply(
        stream(10), Content_Type="application/vnd.apache.arrow.stream", Lakehouse_Rows="10"
    )
    for _ in range(2):
        assert [batch.num_rows for batch in found.batches(4)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("link", "cursor"),
    [
        ('</v1/klines?symbol=X&cursor=a-b_c>; rel="next"', "a-b_c"),
        ('<http://127.0.0.1:1/v1/klines?cursor=a%2Cb>; rel="next"', "a,b"),
    ],
)
def test_the_next_page_is_found(link: str, cursor: str) -> None:
    assert reply(b"", Link=link).cursor == cursor


@pytest.mark.parametrize(
    "link",
    [
        '<https://127.0.0.1:1/v1/klines?cursor=a>; rel="next"',
        '<//elsewhere/v1/klines?cursor=a>; rel="next"',
        '</v1/klines>; rel="next"',
        '</v1/klines?cursor=a&cursor=b>; rel="next"',
        "nonsense",
    ],
)
def test_a_next_page_that_leads_elsewhere_is_refused(link: str) -> None:
    with pytest.raises(BadDataError, match="BAD_LINK"):
        _ = reply(b"", Link=link).cursor


@pytest.mark.parametrize("digest", ["", "sha-256=abc", "md5=:AAAA:", "sha-256=:!!:"])
def test_what_has_no_hash_is_refused(digest: str) -> None:
    with pytest.raises(BadDataError, match="NO_DIGEST"):
        Reply(URL, {"Content-Digest": digest}, Body())


def test_what_was_packed_is_refused() -> None:
    with pytest.raises(BadDataError, match="gzip"):
        reply(b"x", Content_Encoding="gzip")
