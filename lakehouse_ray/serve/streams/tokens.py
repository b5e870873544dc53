"""Where a connection was: `resume=` goes on with exactly the next event.

A token names versions of tables and the place of the last event. Opaque to clients; nothing in one
is trusted: it is found to be whole, and what it asks for anyone may ask for.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.serve.streams.events import Place

LENGTH_MAX = 8192
_VERSION = 1


@dataclass(frozen=True)
class Token:
    """seq: Number of the last event.

    versions: By table. Of a replay, what it reads; live, what has been told of in full.
    step: Live, the table and the version whose rows are being told; place is among them.
    place: Of the last event; None: none yet.
    start_us, end_us: Of a replay.
    """

    live: bool
    seq: int
    versions: Mapping[str, int | None] = field(default_factory=dict)
    step: tuple[str, int | None] | None = None
    place: Place | None = None
    start_us: int | None = None
    end_us: int | None = None

    def spell(self) -> str:
        data = orjson.dumps(
            [
                _VERSION, self.live, self.seq, self.versions, self.step, self.place,
                self.start_us, self.end_us,
            ]
        )  # fmt: skip
        whole = zlib.crc32(data).to_bytes(4, "big") + data
        return base64.urlsafe_b64encode(whole).rstrip(b"=").decode()


def marked(table: str, dataset: str) -> str:
    """A table's name in a token. The log of gaps is followed for each data set by itself."""
    return f"{table}/{dataset}" if table == STREAM_GAPS.name else table


def unmarked(name: str) -> tuple[str, str]:
    """The table, and the data set if it says one."""
    table, _, dataset = name.partition("/")
    return table, dataset


def parse_token(text: str) -> Token:
    """Raises InvalidError for what is no token."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        whole = base64.b64decode(padded, altchars=b"-_", validate=True)
        data = whole[4:]
        if len(text) > LENGTH_MAX or zlib.crc32(data).to_bytes(4, "big") != whole[:4]:
            raise ValueError
        version, live, seq, versions, step, place, start_us, end_us = orjson.loads(data)
        if version != _VERSION or not isinstance(live, bool) or not _whole(seq):
            raise ValueError
        if not all(_name(name) and _snapshot(one) for name, one in versions.items()):
            raise ValueError
        if step is not None and not (len(step) == 2 and _name(step[0]) and _snapshot(step[1])):
            raise ValueError
        if place is not None and not (
            len(place) >= 4 and _whole(place[0]) and isinstance(place[1], str) and _whole(place[2])
            and all(isinstance(value, int | float | str) for value in place)
        ):  # fmt: skip
            raise ValueError
        if not all(value is None or _whole(value) for value in (start_us, end_us)):
            raise ValueError
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise InvalidError(
            "resume is no token of this service, or was changed on its way",
            "give what the last event said, or begin without it",
        ) from error
    return Token(
        live, seq, versions, None if step is None else (step[0], step[1]),
        None if place is None else tuple(place), start_us, end_us,
    )  # fmt: skip


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _snapshot(value: object) -> bool:
    return value is None or _whole(value)


def _name(value: object) -> bool:
    return isinstance(value, str) and value.startswith("silver.") and len(value) <= 60
