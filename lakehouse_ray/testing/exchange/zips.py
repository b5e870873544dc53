"""Zip files whose every byte is chosen: fixed dates, and headers that may lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from isal import isal_zlib

# 2024-01-01 00:00: one date for all members, so that equal contents give equal zips.
_DOS_DATE = ((2024 - 1980) << 9) | (1 << 5) | 1
_UTF8_NAME = 0x800
_DEFLATED = 8
SIZE_MAX = 2**32 - 1


@dataclass(frozen=True)
class Member:
    """A compressed file as it goes into a zip.

    deflated: Raw deflate.
    size_bytes: What the headers claim it inflates to.
    """

    name: str
    deflated: bytes
    crc32: int
    size_bytes: int


def deflate(data: bytes, level: int) -> bytes:
    """Compress to raw deflate.

    level: 1 to 9 of zlib, whose result depends on `data`, `level` and zlib's version alone; 0 is
        ISA-L, several times as fast as zlib's 1, whose result may differ between processors.
    """
    if level == 0:
        return bytes(isal_zlib.compress(data, isal_zlib.ISAL_BEST_COMPRESSION, -15))
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def member(name: str, data: bytes, level: int = 6) -> Member:
    return Member(name, deflate(data, level), zlib.crc32(data), len(data))


def repeated(name: str, pattern: bytes, size_bytes: int) -> Member:
    """A member that inflates to `pattern` again and again, to about `size_bytes`, at little cost."""
    unit = pattern * max(1, 2**20 // len(pattern))
    times = min(size_bytes, SIZE_MAX) // len(unit)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # A full flush ends on a byte and forgets the window, so the piece can follow itself.
    piece = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(times):
        crc = zlib.crc32(unit, crc)
    return Member(name, piece * times + packer.flush(zlib.Z_FINISH), crc, times * len(unit))


def pack(*members: Member) -> bytes:
    """The zip that holds `members` in this order."""
    body = bytearray()
    directory = bytearray()
    for item in members:
        name = item.name.encode()
        flags = 0 if name.isascii() else _UTF8_NAME
        common = struct.pack(
            "<HHHHHIIIHH",
            20,
            flags,
            _DEFLATED,
            0,
            _DOS_DATE,
            item.crc32,
            len(item.deflated),
            item.size_bytes,
            len(name),
            0,
        )
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + common
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name
        body += b"PK\x03\x04" + common + name + item.deflated
    count = len(members)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + b"PK\x05\x06" + end)
