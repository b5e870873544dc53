"""Expiring snapshots: they leave the table's metadata; their files stay until a sweep.

Two properties of the table are kept in the same commit. One says until when a snapshot was current
whose successor is gone: a read as of a later moment must not be given it. The other names what has
expired lately, so that a sweep leaves it to readers who may still be at work.

Tables of live rows get a snapshot a second, and give up old ones soon (`give_up`). Of these the
second property names only those without which a reader might miss files (`retention.still_read`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.table.update import (
    AssertTableUUID,
    RemoveSnapshotsUpdate,
    SetPropertiesUpdate,
    TableUpdate,
    ValidatableTableRequirement,
)
from sqlalchemy.exc import SQLAlchemyError

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.storage.catalog import explain_catalog
from lakehouse_ray.storage.objects import explain
from lakehouse_ray.storage.retention import Era, Retention, expired, given_up, still_read

ATTEMPTS_MAX = 20
# {snapshot id: when it stopped being current, ms}, of those whose successor has expired.
ENDS_PROPERTY = "lakehouse.snapshot-ends"
# {manifest list: when its snapshot expired, ms}
EXPIRED_PROPERTY = "lakehouse.expired"


@dataclass(frozen=True)
class Expiry:
    """What may go of a table. forgotten: Entries of `EXPIRED_PROPERTY` that are of no use any more."""

    snapshots: int
    expired: tuple[int, ...]
    forgotten: int
    properties: Mapping[str, str]

    @property
    def empty(self) -> bool:
        return not self.expired and not self.forgotten


class _Unnamed(ValidatableTableRequirement):
    """The snapshots are still there, and neither tag nor branch names one of them."""

    type: Literal["assert-unnamed-snapshots"] = "assert-unnamed-snapshots"
    snapshot_ids: list[int]

    def validate(  # type: ignore[override]
        self, base_metadata: TableMetadata | None
    ) -> None:
        if base_metadata is None:
            raise CommitFailedException("the table is gone")
        there = {snapshot.snapshot_id for snapshot in base_metadata.snapshots}
        there -= {ref.snapshot_id for ref in base_metadata.refs.values()}
        if not there.issuperset(self.snapshot_ids):
            raise CommitFailedException("a snapshot was named or expired meanwhile")


class _SameProperties(ValidatableTableRequirement):
    """Nobody has written these properties since."""

    type: Literal["assert-properties"] = "assert-properties"
    properties: dict[str, str]

    def validate(  # type: ignore[override]
        self, base_metadata: TableMetadata | None
    ) -> None:
        there = base_metadata.properties if base_metadata is not None else {}
        if any(there.get(name, "{}") != value for name, value in self.properties.items()):
            raise CommitFailedException("another maintenance was first")


def ends(properties: Mapping[str, str]) -> dict[int, int]:
    """When snapshots of a table stopped being current whose successor is not kept, in ms."""
    return {int(i): ms for i, ms in _property(properties, ENDS_PROPERTY).items()}


def lately_expired(metadata: TableMetadata, since_ms: int) -> list[str]:
    """Manifest lists of snapshots that have expired since."""
    return [
        p for p, ms in _property(metadata.properties, EXPIRED_PROPERTY).items() if ms >= since_ms
    ]


def eras(metadata: TableMetadata) -> list[Era] | None:
    """When each snapshot was current, in the order of time.

    None: the table was set back to an older snapshot, and what was current when cannot be told.
    """
    log = metadata.snapshot_log
    if len({entry.snapshot_id for entry in log}) < len(log):
        return None
    known = ends(metadata.properties)
    following: list[int | None] = [entry.timestamp_ms for entry in log[1:]]
    return [
        Era(entry.snapshot_id, entry.timestamp_ms, known.get(entry.snapshot_id, next_ms))
        for entry, next_ms in zip_longest(log, following)
    ]


def plan_expiry(metadata: TableMetadata, retention: Retention, now_ms: int) -> Expiry:
    """Say what may go of a table as it is now. Changes nothing."""
    found = eras(metadata) or []
    going = expired(found, retention, now_ms, _named(metadata))
    return _plan(metadata, found, going, going, retention.reader_ms, now_ms)


def plan_giving_up(metadata: TableMetadata, kept_ms: int, reader_ms: int, now_ms: int) -> Expiry:
    """Say which snapshots of a table of live rows were replaced longer ago. Changes nothing."""
    found = eras(metadata) or []
    going = given_up(found, kept_ms, now_ms, _named(metadata))
    additions = [s.snapshot_id for s in metadata.snapshots if _only_adds(s)]
    told = still_read(found, going, additions, reader_ms, now_ms)
    return _plan(metadata, found, going, told, reader_ms, now_ms)


def _named(metadata: TableMetadata) -> set[int]:
    return {ref.snapshot_id for ref in metadata.refs.values()}


def _only_adds(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and snapshot.summary.operation == Operation.APPEND


def _plan(
    metadata: TableMetadata,
    found: Sequence[Era],
    going: Sequence[int],
    told: Sequence[int],
    reader_ms: int,
    now_ms: int,
) -> Expiry:
    """told: Of those that go, the ones that a sweep has to know of."""
    gone, before = set(going), ends(metadata.properties)
    left = {
        str(era.snapshot_id): era.end_ms
        for era, following in zip_longest(found, found[1:])
        if era.snapshot_id not in gone
        and era.end_ms is not None
        and (era.snapshot_id in before or (following and following.snapshot_id in gone))
    }
    old = _property(metadata.properties, EXPIRED_PROPERTY)
    lately = {path: ms for path, ms in old.items() if ms >= now_ms - reader_ms}
    forgotten = len(old) - len(lately)
    lists = {s.snapshot_id: s.manifest_list for s in metadata.snapshots}
    lately |= {lists[i]: now_ms for i in told}
    properties = {ENDS_PROPERTY: json.dumps(left), EXPIRED_PROPERTY: json.dumps(lately)}
    return Expiry(len(metadata.snapshots), tuple(going), forgotten, properties)


def expire(table: IcebergTable, retention: Retention, clock: Clock) -> Expiry:
    """Take out of the table what may go. Safe to repeat, and beside any writer.

    Raises UnavailableError where catalog or store do not answer, or others keep coming first.
    """
    return _expire(table, lambda found, ms: plan_expiry(found, retention, ms), clock, ATTEMPTS_MAX)


def give_up(
    table: IcebergTable,
    kept_ms: int,
    reader_ms: int,
    clock: Clock,
    *,
    attempts_max: int = ATTEMPTS_MAX,
) -> Expiry:
    """Take those snapshots out of a table of live rows that were replaced longer ago than `kept_ms`.

    reader_ms: How long readers may be at work with one. Raises UnavailableError as `expire` does.
    """

    def plan(metadata: TableMetadata, now_ms: int) -> Expiry:
        return plan_giving_up(metadata, kept_ms, reader_ms, now_ms)

    return _expire(table, plan, clock, attempts_max)


def _expire(
    table: IcebergTable,
    plan: Callable[[TableMetadata, int], Expiry],
    clock: Clock,
    attempts_max: int,
) -> Expiry:
    name = ".".join(table.name())
    for attempt in range(1, attempts_max + 1):
        try:
            table.refresh()
            found = plan(table.metadata, clock.now_us() // 1000)
            if found.empty:
                return found
            now = {key: table.metadata.properties.get(key, "{}") for key in found.properties}
            requirements: Any = (
                AssertTableUUID(uuid=table.metadata.table_uuid),
                _Unnamed(snapshot_ids=list(found.expired)),
                _SameProperties(properties=now),
            )
            updates: list[TableUpdate] = [SetPropertiesUpdate(updates=dict(found.properties))]
            if found.expired:
                gone = {"snapshot-ids": list(found.expired)}
                updates.append(RemoveSnapshotsUpdate.model_validate(gone))
            table.catalog.commit_table(table, requirements, tuple(updates))
            return found
        except (CommitFailedException, CommitStateUnknownException):
            if attempt < attempts_max:
                clock.sleep(min(2.0, 0.02 * 2**attempt))
        except SQLAlchemyError as error:
            raise explain_catalog(error, f"expiring snapshots of {name}") from error
        except OSError as error:
            raise explain(error, f"expiring snapshots of {name}") from error
    raise UnavailableError(f"expiry of {name}: other writers came first {attempts_max} times")


def _property(properties: Mapping[str, str], name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(properties.get(name, "{}"))
    return found
