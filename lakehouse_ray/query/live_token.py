"""Where a follower was: `resume=` goes on with exactly the next event.

A token names versions of tables and how many events of the step from these it has told. Opaque to
users; nothing in one is trusted: it is found to be whole, and what it asks for anyone may ask for.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.step_rows import Wanted
from lakehouse_ray.query.versions import parse_versions

LENGTH_MAX = 8192
_VERSION = 1


@dataclass(frozen=True)
class LiveToken:
    """asked: Of what it is (`asked_for`); empty: of anything.

    seq: Number of the last event.
    versions: By table, those that have been told of in full.
    step: The table and its version whose changes are being told. at: How many events of it were.
    """

    asked: str = ""
    seq: int = 0
    versions: Mapping[str, int | None] = field(default_factory=dict)
    step: tuple[str, int | None] | None = None
    at: int = 0

    def before(self, events: int) -> LiveToken:
        """Where it was so many events ago, within the same step."""
        return replace(self, seq=self.seq - events, at=self.at - events)

    def spell(self) -> str:
        data = orjson.dumps(
            [_VERSION, self.asked, self.seq, self.versions, self.step, self.at],
            option=orjson.OPT_SORT_KEYS,
        )
        whole = zlib.crc32(data).to_bytes(4, "big") + data
        return base64.urlsafe_b64encode(whole).rstrip(b"=").decode()


def asked_for(wanted: Wanted) -> str:
    """What a token is of: the same for equal `wanted` alone, but for accidents."""
    symbols = "*" if wanted.symbols is None else ",".join(sorted(wanted.symbols))
    parts = (wanted.market, wanted.dataset.name, wanted.interval or "", symbols)
    return f"{zlib.crc32(chr(0).join(parts).encode()):08x}"


def parse_live_token(text: str, wanted: Wanted) -> LiveToken:
    """Also of the versions that an answer tells (`meta.as_of`), from which following then begins.

    Raises InvalidError for what is no token, or one of other rows.
    """
    versions = parse_versions(text) if len(text) <= LENGTH_MAX and "@" in text else None
    if versions is not None:
        known = {table.name for table in wanted.tables}
        if not known & versions.keys():
            raise InvalidError(
                f"these versions say nothing of {', '.join(sorted(known))}",
                "give what an answer of the same data set says in meta.as_of",
            )
        every = {table.name for table in wanted.dataset.stored_tables}
        return LiveToken(versions={n: v for n, v in versions.items() if n in every})
    found = _parse(text)
    if found.asked != asked_for(wanted):
        raise InvalidError(
            "resume is of other rows", "go on with the same data set, market, interval and symbols"
        )
    return found


def _parse(text: str) -> LiveToken:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        whole = base64.b64decode(padded, altchars=b"-_", validate=True)
        data = whole[4:]
        if len(text) > LENGTH_MAX or zlib.crc32(data).to_bytes(4, "big") != whole[:4]:
            raise ValueError
        version, asked, seq, versions, step, at = orjson.loads(data)
        if version != _VERSION or not isinstance(asked, str) or not (_whole(seq) and _whole(at)):
            raise ValueError
        if not all(_name(name) and _snapshot(one) for name, one in versions.items()):
            raise ValueError
        if step is not None and not (len(step) == 2 and _name(step[0]) and _snapshot(step[1])):
            raise ValueError
        found = LiveToken(asked, seq, versions, None if step is None else (step[0], step[1]), at)
        if found.spell() != text:  # in base64 one can be written in several ways
            raise ValueError
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise InvalidError(
            "resume is no token of a follower, or was changed on its way",
            "give what an event's resume said, or an answer's meta.as_of",
        ) from error
    return found


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _snapshot(value: Any) -> bool:
    return value is None or _whole(value)


def _name(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("silver.") and len(value) <= 60
