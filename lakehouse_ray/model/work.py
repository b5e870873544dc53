"""What a run has to do: objects, and the units of work they are bundled into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Freq, Market

# Why an object is part of a unit:
#   fetch      new, or listed with another ETag than the one in the lake
#   candidate  a daily file of a month that has a monthly one: fetched only for the days that the
#              monthly one turns out not to cover
#   stored     already in bronze and needed again, since a file that shares rows with it has changed
#              or the rules of decoding have
Role = Literal["fetch", "candidate", "stored"]


@dataclass(frozen=True)
class ObjectTask:
    """One object of a unit, as the listing and the ledger know it.

    last_modified_us: As listed.
    known_sha256, known_version, known_path: Of the version in the lake; empty where there is none.
    """

    key: str
    symbol: str
    freq: Freq
    period: TimeRange
    size: int
    etag: str
    checksum_etag: str | None
    last_modified_us: int
    role: Role
    known_sha256: str = ""
    known_version: str = ""
    known_path: str = ""


@dataclass(frozen=True)
class Unit:
    """What a worker does in one go: objects of some neighbouring symbols of one partition.

    id: The same for the same objects, versions and rules of decoding.
    """

    id: str
    dataset: str
    market: Market
    interval: str | None
    objects: tuple[ObjectTask, ...]

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(sorted({task.symbol for task in self.objects}))

    @property
    def span(self) -> TimeRange:
        """From the first period's start to the last one's end."""
        return TimeRange(
            min(task.period.start_us for task in self.objects),
            max(task.period.end_us for task in self.objects),
        )

    @property
    def compressed_bytes(self) -> int:
        """What will be transferred at least."""
        return sum(task.size for task in self.objects if task.role == "fetch")


def unit_id(objects: tuple[ObjectTask, ...], decoder_version: int) -> str:
    """Name a unit by what it reads and the rules it reads by: 16 hexadecimal digits."""
    digest = hashlib.sha256(str(decoder_version).encode())
    for task in objects:
        digest.update(f"\n{task.role} {task.key} {task.etag} {task.known_sha256}".encode())
    return digest.hexdigest()[:16]


ObjectState = Literal["built", "quarantined", "failed", "skipped"]


@dataclass(frozen=True)
class ObjectResult:
    """What became of an object in a run.

    state: `failed` could not be fetched (try again later); `skipped` was a candidate that the
        monthly file made needless.
    version: Orders the versions of one key and names them in every row of silver.
    """

    task: ObjectTask
    state: ObjectState
    url: str = ""
    etag: str = ""
    last_modified_us: int = 0
    size: int = 0
    published_sha256: str = ""
    sha256: str = ""
    version: str = ""
    path: str = ""
    reason: str = ""
    detail: str = ""
    rows: int = 0
    rows_quarantined: int = 0
    duplicates: int = 0
    days_short: str = ""
    fetched_bytes: int = 0
    csv_bytes: int = 0


@dataclass(frozen=True)
class RawObject:
    """One object that is in bronze, or the reason why not.

    data: Its bytes, where they fit into memory.
    file: Else a local file that holds them; the receiver deletes it.
    """

    result: ObjectResult
    data: bytes | None = None
    file: Path | None = None

    @property
    def arrived(self) -> bool:
        return self.data is not None or self.file is not None


def version_of(last_modified_iso: str, sha256: str, known: str = "") -> str:
    """Spell a version so that later ones sort after earlier ones.

    known: The version this one supersedes. Where its time is not before this one's (published twice
        within a second, or an older file put back), a counter after the time keeps the order.
    """
    version = f"{last_modified_iso} {sha256[:16]}"
    if version > known:
        return version
    time, _, count = known.partition(" ")[0].partition("+")
    return f"{time}+{int(count or 0) + 1:03d} {sha256[:16]}"
