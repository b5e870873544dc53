"""Defects of a zip as a whole, and the way a content defect gets into one."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lakehouse_ray.testing.exchange.defects import CONTENT, Defect, Params, Table, Value
from lakehouse_ray.testing.exchange.keys import ArchiveKey
from lakehouse_ray.testing.exchange.zips import Member, member, pack, repeated

LEVEL = 1


@dataclass(frozen=True)
class ZipDefect:
    """A defect of the file.

    fresh_checksum: Whether the CHECKSUM is, by default, that of the defective bytes: true for a
        file that was published so, false for one that was damaged later.
    """

    apply: Callable[[bytes, Params, random.Random], bytes]
    defaults: Params
    fresh_checksum: bool = True


def rewrite_rows(
    defect: Defect, key: ArchiveKey, body: bytes, params: Params, rng: random.Random
) -> bytes:
    """Apply a content defect to the CSV within the zip `body`."""
    name, data = _only_member(body)
    table = defect.apply(Table.parse(key, data), params, rng)
    return pack(member(name, table.render(), LEVEL))


def _truncated_zip(body: bytes, params: Params, rng: random.Random) -> bytes:
    return body[: int(len(body) * float(params["keep"]))]


def _corrupt_zip(body: bytes, params: Params, rng: random.Random) -> bytes:
    """Flip bits within the compressed data, where only inflating (or its CRC) can tell."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        info = archive.infolist()[0]
    start = 30 + int.from_bytes(body[26:28], "little") + int.from_bytes(body[28:30], "little")
    damaged = bytearray(body)
    for _ in range(int(params["flips"])):
        damaged[start + rng.randrange(info.compress_size)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _extra_member(body: bytes, params: Params, rng: random.Random) -> bytes:
    name, data = _only_member(body)
    return pack(member(name, data, LEVEL), member(str(params["name"]), data, LEVEL))


def _wrong_member_name(body: bytes, params: Params, rng: random.Random) -> bytes:
    name, data = _only_member(body)
    return pack(member(str(params["name"]) or f"copy-of-{name}", data, LEVEL))


def _macosx_member(body: bytes, params: Params, rng: random.Random) -> bytes:
    name, data = _only_member(body)
    resource = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(104)
    return pack(member(name, data, LEVEL), member(f"__MACOSX/._{name}", resource, LEVEL))


def _zip_bomb(body: bytes, params: Params, rng: random.Random) -> bytes:
    name, data = _only_member(body)
    pattern = (data.splitlines() or [b"0"])[-1] + b"\n"
    bomb = repeated(name, pattern, int(params["inflated_bytes"]))
    if params["claims"] == "honest":
        return pack(bomb)
    return pack(Member(name, bomb.deflated, bomb.crc32, len(data)))


def _empty_zip(body: bytes, params: Params, rng: random.Random) -> bytes:
    return pack()


def _with(**defaults: Value) -> Params:
    return MappingProxyType(defaults)


ZIP: Mapping[str, ZipDefect] = MappingProxyType(
    {
        "truncated_zip": ZipDefect(_truncated_zip, _with(keep=0.5), fresh_checksum=False),
        "corrupt_zip": ZipDefect(_corrupt_zip, _with(flips=1), fresh_checksum=False),
        "empty_zip": ZipDefect(_empty_zip, _with()),
        "extra_member": ZipDefect(_extra_member, _with(name="extra.csv")),
        "wrong_member_name": ZipDefect(_wrong_member_name, _with(name="")),
        "macosx_member": ZipDefect(_macosx_member, _with()),
        "zip_bomb": ZipDefect(_zip_bomb, _with(inflated_bytes=2 * 2**30, claims="honest")),
    }
)


def alter(name: str, key: ArchiveKey, body: bytes, params: Params, rng: random.Random) -> bytes:
    """Apply the defect of this name, of either kind."""
    if name in CONTENT:
        return rewrite_rows(CONTENT[name], key, body, params, rng)
    return ZIP[name].apply(body, params, rng)


def _only_member(body: bytes) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        name = archive.namelist()[0]
        return name, archive.read(name)
