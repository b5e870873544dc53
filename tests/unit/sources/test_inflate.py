"""Opening zips: what is whole comes out whole, anything else has a reason and gives no row."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.sources.binance.inflate import find_member, inflate, inflate_pieces

KEY = "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01.zip"
NAME = "BTCUSDT-1m-2024-01.csv"


def packed(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def open_all(data: bytes, bytes_max: int = 1 << 30, ratio_max: int = 200) -> bytes:
    member = find_member(
        io.BytesIO(data), KEY, inflated_bytes_max=bytes_max, inflate_ratio_max=ratio_max
    )
    return inflate(data, member)


def pieces(data: bytes, piece_bytes: int) -> list[bytes]:
    file = io.BytesIO(data)
    member = find_member(file, KEY, inflated_bytes_max=1 << 40, inflate_ratio_max=10**9)
    return list(inflate_pieces(file, member, piece_bytes))


def reason_of(data: bytes, **limits: int) -> str:
    with pytest.raises(BadDataError) as caught:
        open_all(data, **limits)
    return caught.value.reason


def rows(count: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    return b"".join(b"%d,%d.50000000,abc\n" % (i, rng.randrange(10**6)) for i in range(count))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_the_one_member_comes_out_byte_for_byte(method: int) -> None:
    body = rows(500)
    assert open_all(packed((NAME, body), method=method)) == body
    assert b"".join(pieces(packed((NAME, body), method=method), 1000)) == body


def test_a_mac_leaves_a_folder_beside_the_member_that_does_not_count() -> None:
    assert open_all(packed((NAME, b"1,2\n"), ("__MACOSX/._" + NAME, b"\0" * 100))) == b"1,2\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (packed(), "ZIP_MEMBERS"),
        (packed((NAME, b"1\n"), ("more.csv", b"2\n")), "ZIP_MEMBERS"),
        (packed(("another.csv", b"1\n")), "ZIP_MEMBER_NAME"),
        (packed(("../" + NAME, b"1\n")), "ZIP_MEMBER_NAME"),
        (packed((NAME, b"1\n"), method=zipfile.ZIP_BZIP2), "ZIP_CORRUPT"),
        (b"", "NOT_A_ZIP"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "NOT_A_ZIP"),
        (b"PK", "ZIP_CORRUPT"),
        (packed((NAME, rows(100)))[:-30], "ZIP_CORRUPT"),
    ],
)
def test_each_kind_of_broken_zip_has_its_reason(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_an_encrypted_member_is_refused() -> None:
    data = bytearray(packed((NAME, b"1\n")))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert reason_of(bytes(data)) == "ZIP_CORRUPT"


def test_a_member_that_says_it_inflates_too_far_is_refused_before_it_is_inflated() -> None:
    data = packed((NAME, b"0" * (20 << 20)))
    assert reason_of(data, ratio_max=200) == "ZIP_BOMB"
    assert reason_of(data, bytes_max=1 << 20, ratio_max=10**6) == "ZIP_BOMB"
    assert len(open_all(data, ratio_max=10**6)) == 20 << 20


def lying(declared: int, inflated: int) -> bytes:
    """A zip whose directory declares fewer bytes than its member inflates to."""
    data = bytearray(packed((NAME, b"0,1\n" * (inflated // 4))))
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", data, data.index(signature) + at, declared)
    return bytes(data)


def test_a_bomb_that_lies_about_its_size_is_refused_in_little_memory() -> None:
    data = lying(declared=1000, inflated=64 << 20)
    tracemalloc.start()
    try:
        assert reason_of(data) == "ZIP_CORRUPT"
        with pytest.raises(BadDataError, match="ZIP_CORRUPT"):
            pieces(data, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_line_without_an_end_is_refused_in_little_memory() -> None:
    data = packed((NAME, b"0" * (64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(BadDataError, match="LINE_TOO_LONG"):
            pieces(data, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


LINES = st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"") + b"\n"), max_size=60)


@given(
    lines=LINES,
    last=st.binary(max_size=20),
    repeat=st.integers(1, 300),
    piece_bytes=st.integers(1, 5000),
    stored=st.booleans(),
)
def test_pieces_of_any_size_are_whole_lines_and_add_up_to_the_content(
    lines: list[bytes], last: bytes, repeat: int, piece_bytes: int, stored: bool
) -> None:
    body = b"".join(lines) * repeat + last.replace(b"\n", b"")
    data = packed((NAME, body), method=zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
    made = pieces(data, piece_bytes)
    assert b"".join(made) == body
    assert all(piece.endswith(b"\n") for piece in made[:-1])


def test_content_that_packs_very_well_comes_out_whole_in_pieces() -> None:
    """What the machine has inflated but not yet given must not be taken for the end."""
    body = b"1704067200000,42000.00,42000.00,42000.00,42000.00,0,0,0,0,0,0,0\n" * 100_000
    assert b"".join(pieces(packed((NAME, body)), 8192)) == body


def damaged(data: bytes) -> list[bytes]:
    """Truncations everywhere near the ends, flips of every bit of the headers, random damage."""
    rng = random.Random(7)
    cuts = [data[:n] for n in (*range(40), *range(len(data) - 150, len(data)))]
    flips = []
    for at in (*range(60), *range(len(data) - 130, len(data))):
        for bit in range(8):
            copy = bytearray(data)
            copy[at] ^= 1 << bit
            flips.append(bytes(copy))
    wild = []
    for _ in range(800):
        copy = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            copy[rng.randrange(len(copy))] = rng.randrange(256)
        wild.append(bytes(copy))
    return cuts + flips + wild


def test_a_damaged_zip_gives_its_exact_content_or_a_reason_and_never_anything_else() -> None:
    body = rows(600)
    refused = 0
    for data in damaged(packed((NAME, body))):
        for read in (open_all, lambda d: b"".join(pieces(d, 700))):
            try:
                assert read(data) == body
            except BadDataError:
                refused += 1
    assert refused > 1000
