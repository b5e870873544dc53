"""Opening the archive's zips: one CSV each, and nothing trusted that the zip says of itself."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import deflate
from isal import igzip_lib, isal_zlib

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.sources.source import Csv

# Its stubs do not say that it is an exception.
_ISAL_ERROR: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]

# Small files are no danger however well they pack.
_RATIO_CHECKED_FROM_BYTES = 16 << 20
# Lines of this archive have some hundred bytes.
_LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Member:
    """Where the one CSV of a zip lies.

    offset: Of its compressed bytes.
    """

    name: str
    offset: int
    compressed_bytes: int
    inflated_bytes: int
    crc: int
    deflated: bool


def find_member(
    file: io.BufferedIOBase, key: str, *, inflated_bytes_max: int, inflate_ratio_max: int
) -> Member:
    """Find the one CSV in a zip, before a byte of it is inflated.

    Raises BadDataError: ZIP_CORRUPT, ZIP_MEMBERS (not exactly one, `__MACOSX/` not counted),
    ZIP_MEMBER_NAME, ZIP_BOMB, or NOT_A_ZIP (an error page saved under the name of a zip).
    """
    start = file.read(4)
    if start[:2] != b"PK":
        raise BadDataError("NOT_A_ZIP", f"begins with {(start + file.read(60))!r}")
    try:
        with zipfile.ZipFile(file) as archive:
            infos = [i for i in archive.infolist() if not i.filename.startswith("__MACOSX/")]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        raise BadDataError("ZIP_CORRUPT", str(error)) from error
    if len(infos) != 1:
        names = ", ".join(info.filename for info in infos[:5])
        raise BadDataError("ZIP_MEMBERS", f"{len(infos)} members instead of one: {names}")
    info = infos[0]
    expected = key.rpartition("/")[2].removesuffix(".zip") + ".csv"
    if info.filename != expected:
        raise BadDataError("ZIP_MEMBER_NAME", f"{info.filename!r} instead of {expected!r}")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadDataError(
            "ZIP_CORRUPT", f"compression {info.compress_type}, flags {info.flag_bits}"
        )
    ratio = info.file_size / max(1, info.compress_size)
    if info.file_size > inflated_bytes_max or (
        info.file_size > _RATIO_CHECKED_FROM_BYTES and ratio > inflate_ratio_max
    ):
        raise BadDataError(
            "ZIP_BOMB",
            f"says it inflates from {info.compress_size:,} to {info.file_size:,} bytes; the limits "
            f"are {inflated_bytes_max:,} bytes and a ratio of {inflate_ratio_max}",
        )
    if info.header_offset < 0:
        raise BadDataError("ZIP_CORRUPT", "its directory points before its beginning")
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise BadDataError("ZIP_CORRUPT", "no local header where the directory says")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    return Member(
        info.filename,
        info.header_offset + 30 + name_bytes + extra_bytes,
        info.compress_size,
        info.file_size,
        info.CRC,
        info.compress_type == zipfile.ZIP_DEFLATED,
    )


def inflate(data: bytes, member: Member) -> Csv:
    """Return the CSV inside a zip that fits into memory.

    Raises BadDataError (ZIP_CORRUPT) where size or CRC differ.
    """
    packed = memoryview(data)[member.offset : member.offset + member.compressed_bytes]
    if member.deflated:
        # A quarter faster than isal, which can also do it in pieces; it gives no byte more than is
        # promised, and refuses a stream that holds more.
        try:
            content: Csv = deflate.deflate_decompress(packed, member.inflated_bytes)
        except deflate.DeflateError as error:
            raise BadDataError("ZIP_CORRUPT", str(error)) from error
    else:
        content = bytes(packed)
    if len(content) != member.inflated_bytes or isal_zlib.crc32(content) != member.crc:
        raise BadDataError(
            "ZIP_CORRUPT", f"size or CRC of {member.name} differ from the zip's directory"
        )
    return content


def inflate_pieces(file: io.BufferedIOBase, member: Member, piece_bytes: int) -> Iterator[bytes]:
    """Yield the CSV of an open zip in pieces that end with a line, in bounded memory.

    A piece is about `piece_bytes` long. Raises BadDataError (ZIP_CORRUPT), the last piece at the
    latest: nothing of the file may be used before the iterator has ended.
    """
    file.seek(member.offset)
    inflated, crc, rest = 0, 0, b""
    for content in _inflated(file, member, piece_bytes):
        inflated += len(content)
        if inflated > member.inflated_bytes:
            break
        crc = isal_zlib.crc32(content, crc)
        rest += content
        if len(rest) >= piece_bytes:
            end = rest.rfind(b"\n") + 1
            if end:
                yield rest[:end]
                rest = rest[end:]
            elif len(rest) > piece_bytes + _LINE_BYTES_MAX:
                raise BadDataError(
                    "LINE_TOO_LONG", f"{member.name} has a line of {len(rest):,} bytes"
                )
    if inflated != member.inflated_bytes or crc != member.crc:
        raise BadDataError(
            "ZIP_CORRUPT", f"size or CRC of {member.name} differ from the zip's directory"
        )
    if rest:
        yield rest


def _inflated(file: io.BufferedIOBase, member: Member, bytes_max: int) -> Iterator[bytes]:
    """Yield what is inflated, at most `bytes_max` at a time; ends early where the zip does."""
    left = member.compressed_bytes
    machine = isal_zlib.decompressobj(-15) if member.deflated else None
    while left > 0:
        packed = file.read(min(left, 1 << 20, 1 << 20 if machine else bytes_max))
        if not packed:
            return
        left -= len(packed)
        if machine is None:
            yield packed
            continue
        while not machine.eof:
            try:
                content = machine.decompress(packed, bytes_max)
            except _ISAL_ERROR as error:
                raise BadDataError("ZIP_CORRUPT", str(error)) from error
            packed = machine.unconsumed_tail
            if content:
                yield content
            # All input may be taken in while output still waits inside: only a step that gives
            # less than it may has given all.
            if not packed and len(content) < bytes_max:
                break
