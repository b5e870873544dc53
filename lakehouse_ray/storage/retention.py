"""Which snapshots of a table may go: pure functions of when each was current.

What counts is not when a snapshot was made but when it was replaced: until then every reader opened
it. One that was made a year ago and replaced a minute ago may have been opened two minutes ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Era:
    """When a snapshot was what the table was: from `start_ms` until `end_ms`; None: it still is."""

    snapshot_id: int
    start_ms: int
    end_ms: int | None


@dataclass(frozen=True)
class Retention:
    """What is kept.

    age_ms: Snapshots that were current within this time.
    count_min: So many of the latest, however old.
    daily_days: The last snapshot of each day (UTC), for so many days.
    reader_ms: Whatever a reader may have opened within this time.
    """

    age_ms: int
    count_min: int
    daily_days: int
    reader_ms: int


def expired(
    eras: Sequence[Era], retention: Retention, now_ms: int, referenced: Iterable[int] = ()
) -> list[int]:
    """Return the ids of the snapshots that may go, oldest first.

    eras: In the order of time. referenced: Ids that a tag or a branch names; they stay.
    """
    kept = set(referenced)
    kept |= {era.snapshot_id for era in eras[max(0, len(eras) - max(1, retention.count_min)) :]}
    since_ms = now_ms - max(retention.age_ms, retention.reader_ms)
    kept |= {era.snapshot_id for era in eras if era.end_ms is None or era.end_ms >= since_ms}
    kept |= {
        era.snapshot_id
        for era in eras
        if _ends_a_day(era) and (era.end_ms or 0) >= now_ms - retention.daily_days * DAY_MS
    }
    return [era.snapshot_id for era in eras if era.snapshot_id not in kept]


def given_up(
    eras: Sequence[Era], kept_ms: int, now_ms: int, referenced: Iterable[int] = ()
) -> list[int]:
    """Return the ids of the snapshots that were replaced longer ago than `kept_ms`, oldest first."""
    named = set(referenced)
    return [
        era.snapshot_id
        for era in eras
        if era.end_ms is not None and era.end_ms < now_ms - kept_ms and era.snapshot_id not in named
    ]


def still_read(
    eras: Sequence[Era], going: Iterable[int], additions: Iterable[int], reader_ms: int, now_ms: int
) -> list[int]:
    """Of snapshots that go, return those without which readers might miss old files.

    Of a table with a commit a second they are few: what was current while readers opened it leads to
    what the next one leads to, where that only added files. Manifests are written together now and
    then, but those that are older than the readers are in the first of these snapshots already.

    additions: Ids of snapshots that took no data file away.
    """
    gone, added = set(going), set(additions)
    found: list[int] = []
    for era, following in zip_longest(eras, eras[1:]):
        if era.snapshot_id not in gone or era.end_ms is None or era.end_ms < now_ms - reader_ms:
            continue
        if not found or following is None or following.snapshot_id not in added:
            found.append(era.snapshot_id)
    return found


def _ends_a_day(era: Era) -> bool:
    """Whether it was current at a midnight."""
    return era.end_ms is None or era.start_ms // DAY_MS != era.end_ms // DAY_MS
