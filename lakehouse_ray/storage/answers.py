"""Answers of REST in bronze: many small ones in one object, each byte for byte as it came.

A pack is gzip of JSON lines. A line with `fill` says what was asked for; the lines after it are its
answers, in the order in which they were read: `url`, `received_us`, `server_us`, `sha256` and the
`body` as text (`body_base64` where it is none). `spoiled` marks an answer that could not be read.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.fills import Fill, RawAnswer
from lakehouse_ray.model.timespan import TimeRange, format_time
from lakehouse_ray.model.venue import parse_market
from lakehouse_ray.model.work import version_of
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.paths import BronzePath

_VENUE = "binance"
_GZIP_LEVEL = 4
# What a pack may inflate to; it is written with far less.
_INFLATED_BYTES_MAX = 2 << 30


@dataclass(frozen=True)
class Pack:
    """An object of bronze with answers of one market and data set.

    received_us: When its last answer came.
    """

    path: str
    sha256: str
    size: int
    received_us: int

    @property
    def version(self) -> str:
        """What rows name as their source's version."""
        return version_of(format_time(self.received_us), self.sha256)


@dataclass(frozen=True)
class Kept:
    """What a pack has of one fill. spoiled: An answer that could not be read, if any."""

    fill: Fill
    answers: tuple[RawAnswer, ...]
    spoiled: RawAnswer | None = None


def keep(store: ObjectStore, fills: Iterable[Kept], now_us: int) -> Pack:
    """Put the answers of some fills, all of one market and data set, into bronze."""
    lines: list[bytes] = []
    last_us = 0
    first: Fill | None = None
    for one in fills:
        first = first or one.fill
        lines.append(orjson.dumps({"fill": _spelled(one.fill)}))
        answers = [(raw, False) for raw in one.answers]
        if one.spoiled is not None:
            answers.append((one.spoiled, True))
        for raw, spoiled in answers:
            last_us = max(last_us, raw.received_us)
            lines.append(orjson.dumps(_line(raw, spoiled)))
    assert first is not None, "a pack has a fill"
    data = gzip.compress(b"\n".join(lines) + b"\n", _GZIP_LEVEL, mtime=0)
    sha256 = hashlib.sha256(data).hexdigest()
    received_us = last_us or now_us
    day = format_time(received_us)[:10]
    path = str(BronzePath(_VENUE, f"rest/{first.market}/{first.dataset}/{day}", sha256))
    store.put(path, data)
    return Pack(path, sha256, len(data), received_us)


def open_pack(store: ObjectStore, path: str, sha256: str) -> list[Kept]:
    """Read a pack.

    Raises NotFoundError where bronze has lost it, BadDataError (CHECKSUM_MISMATCH) where it is not
    what was put there.
    """
    data = store.get(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadDataError("CHECKSUM_MISMATCH", f"{path} is not what was received")
    text = gzip.decompress(data)
    assert len(text) <= _INFLATED_BYTES_MAX, "packs are cut by the number of their requests"
    found: list[Kept] = []
    for line in text.split(b"\n"):
        if not line:
            continue
        item = orjson.loads(line)
        if "fill" in item:
            found.append(Kept(_fill(item["fill"]), ()))
        elif item.get("spoiled"):
            found[-1] = replace(found[-1], spoiled=_raw(item))
        else:
            found[-1] = replace(found[-1], answers=(*found[-1].answers, _raw(item)))
    return found


def _spelled(fill: Fill) -> dict[str, Any]:
    spelled = {
        "market": fill.market,
        "dataset": fill.dataset,
        "symbol": fill.symbol,
        "interval": fill.interval,
        "start_us": fill.span.start_us,
        "end_us": fill.span.end_us,
        "asked_us": fill.asked_us,
    }
    return spelled | ({} if fill.ids is None else {"ids": fill.ids})


def _fill(item: dict[str, Any]) -> Fill:
    return Fill(
        parse_market(item["market"]),
        item["dataset"],
        item["symbol"],
        item["interval"],
        TimeRange(item["start_us"], item["end_us"]),
        item["asked_us"],
        tuple(item["ids"]) if "ids" in item else None,
    )


def _line(raw: RawAnswer, spoiled: bool) -> dict[str, Any]:
    line: dict[str, Any] = {
        "url": raw.url,
        "received_us": raw.received_us,
        "server_us": raw.server_us,
        "sha256": hashlib.sha256(raw.body).hexdigest(),
    }
    try:
        line["body"] = raw.body.decode()
    except UnicodeDecodeError:
        line["body_base64"] = base64.b64encode(raw.body).decode()
    if spoiled:
        line["spoiled"] = True
    return line


def _raw(item: dict[str, Any]) -> RawAnswer:
    if "body" in item:
        body = item["body"].encode()
    else:
        body = base64.b64decode(item["body_base64"])
    return RawAnswer(item["url"], item["received_us"], item["server_us"], body)
