"""An answer that was given, and how it is spelled where others keep it.

    8 bytes   "lakeans1"
    4 bytes   length of the head, big-endian
    32 bytes  sha256 of the head
    head      JSON: key, form, rows, size, sha256 of the body, following
    body

What is read back comes from outside: it is an answer only if every part of it is what was written
under this very key.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

import orjson

from lakehouse_ray.serve.cursors import LENGTH_MAX
from lakehouse_ray.serve.formats import Format, Whole

_MAGIC = b"lakeans1"
_PREFIX = struct.Struct(f">{len(_MAGIC)}sI32s")
# Its longest part is the cursor.
_HEAD_BYTES_MAX = LENGTH_MAX + 1024
# No value's head, with what comes before it, is longer.
BESIDE_BYTES_MAX = _PREFIX.size + _HEAD_BYTES_MAX
_CURSOR = re.compile(rf"[A-Za-z0-9_-]{{1,{LENGTH_MAX}}}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Written:
    """An answer, complete. following: Cursor of the next page; None: this was the last."""

    whole: Whole
    following: str | None = None


@dataclass(frozen=True)
class Head:
    """What is said of a body before it. rows: None where it is no rows."""

    form: Format
    rows: int | None
    size: int
    sha256: bytes
    following: str | None

    def holding(self, data: bytes) -> Written:
        """The answer with its body. Raises DamagedError for a body that is not the one."""
        if len(data) != self.size or hashlib.sha256(data).digest() != self.sha256:
            raise DamagedError("the body is not the one that was kept")
        return Written(
            Whole(self.form, self.rows, self.size, self.sha256, data, None), self.following
        )


class DamagedError(Exception):
    """What was kept under a key is no answer to its question."""


def spell_head(key: str, stored: Written) -> bytes:
    """What stands before the body."""
    whole = stored.whole
    document = {
        "key": key,
        "form": whole.form,
        "rows": whole.rows,
        "size": whole.size,
        "sha256": whole.sha256.hex(),
        "following": stored.following,
    }
    head = orjson.dumps(document)
    return _PREFIX.pack(_MAGIC, len(head), hashlib.sha256(head).digest()) + head


def read_head(data: bytes, key: str, form: Format) -> tuple[Head, int]:
    """Read the head of an answer in that format, and where its body begins.

    data: The value, or so much of it that a head fits in.

    Raises DamagedError for anything that was not written under this key.
    """
    if len(data) < _PREFIX.size:
        raise DamagedError("shorter than any answer")
    magic, length, sha256 = _PREFIX.unpack_from(data)
    begins = _PREFIX.size + length
    head = data[_PREFIX.size : begins]
    if magic != _MAGIC or length > _HEAD_BYTES_MAX or hashlib.sha256(head).digest() != sha256:
        raise DamagedError("not spelled as answers are")
    try:
        told = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise DamagedError("its head is no JSON") from error
    return _checked(told, key, form), begins


def _checked(told: object, key: str, form: Format) -> Head:
    match told:
        case {
            "key": str(kept),
            "form": str(spelled),
            "rows": int() | None as rows,
            "size": int(size),
            "sha256": str(sha256),
            "following": str() | None as following,
            **more,
        } if not more:
            pass
        case _:
            raise DamagedError("its head has other members")
    if kept != key or spelled != form:
        raise DamagedError("it is the answer to another question")
    if isinstance(rows, bool) or isinstance(size, bool) or size < 0 or (rows or 0) < 0:
        raise DamagedError("its counts cannot be")
    if not _SHA256.fullmatch(sha256) or not (following is None or _CURSOR.fullmatch(following)):
        raise DamagedError("its words cannot be")
    return Head(form, rows, size, bytes.fromhex(sha256), following)


def read_value(data: bytes, key: str, form: Format) -> Written:
    """Read a whole value. Raises DamagedError for anything that was not written under this key."""
    head, begins = read_head(data, key, form)
    return head.holding(data[begins:])
