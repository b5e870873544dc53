"""Cursors: where a page begins, in which question, over which versions of its tables.

Keyset: the last row's key, not a number of rows. So no commit moves a page, and each page costs
what its own rows cost. Opaque to clients; nothing in one is trusted, it is only found to be whole.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.table import ColumnType, Table
from lakehouse_ray.query.scan import quoted, text, timestamp

_VERSION = 1
_SUM_BYTES = 8
LENGTH_MAX = 4096

# Microseconds for a time.
Value = int | float | str
_PYTHON: Mapping[ColumnType, type] = {
    "string": str,
    "long": int,
    "int": int,
    "double": float,
    "timestamp": int,
}


@dataclass(frozen=True)
class Cursor:
    """question: Fingerprint of what was asked. as_of: Versions of its tables.

    after: The key of the last row that was given, in the order of `order_of`.
    """

    question: str
    as_of: str
    after: tuple[Value, ...]


def order_of(table: Table) -> tuple[str, ...]:
    """What a symbol's rows are ordered by: unique within it, the time first."""
    order = tuple(name for name in table.sort if name != "symbol")
    assert order[0] == table.time
    return order


def canonical(question: Mapping[str, object]) -> bytes:
    """The same for the same question, whatever the order of its parameters."""
    return orjson.dumps(dict(question), option=orjson.OPT_SORT_KEYS)


def fingerprint(question: Mapping[str, object]) -> str:
    """The same, short."""
    return hashlib.sha256(canonical(question)).hexdigest()[:16]


def spell_cursor(cursor: Cursor) -> str:
    body = orjson.dumps([_VERSION, cursor.question, cursor.as_of, list(cursor.after)])
    return base64.urlsafe_b64encode(_sum(body) + body).rstrip(b"=").decode()


def parse_cursor(spelled: str, question: str, table: Table) -> Cursor:
    """Read a cursor of this question.

    Raises InvalidError for one that is damaged, of another question, or of another release.
    """
    damaged = InvalidError("the cursor is damaged", "give it as it came, or begin without one")
    try:
        data = base64.b64decode(
            spelled.encode("ascii") + b"=" * (-len(spelled) % 4), altchars=b"-_", validate=True
        )
        if _sum(data[_SUM_BYTES:]) != data[:_SUM_BYTES]:
            raise damaged
        version, asked, as_of, after = orjson.loads(data[_SUM_BYTES:])
    except (UnicodeEncodeError, binascii.Error, ValueError, TypeError) as error:
        raise damaged from error
    if version != _VERSION:
        raise InvalidError("the cursor is of another release", "begin without one")
    if asked != question:
        raise InvalidError(
            "the cursor belongs to another question",
            "give the same parameters as before, but for limit and format",
        )
    if not isinstance(as_of, str) or not isinstance(after, list):
        raise damaged
    kinds = [_PYTHON[table.column(name).type] for name in order_of(table)]
    if list(map(type, after)) != kinds:
        raise damaged
    return Cursor(asked, as_of, tuple(after))


def after_sql(table: Table, after: Sequence[Value]) -> str:
    """The condition on rows that come after a key."""
    names = order_of(table)
    values = [
        _literal(table.column(name).type, value) for name, value in zip(names, after, strict=True)
    ]
    return f"({', '.join(map(quoted, names))}) > ({', '.join(values)})"


def _literal(kind: ColumnType, value: Value) -> str:
    if kind == "timestamp":
        return timestamp(int(value))
    if kind == "string":
        return text(str(value))
    if kind == "double":
        return f"{text(repr(value))}::DOUBLE"
    return str(int(value))


def key_of(table: Table, row: Mapping[str, Any]) -> tuple[Value, ...]:
    """The key of a row, times in microseconds."""
    return tuple(row[name] for name in order_of(table))


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_SUM_BYTES]
