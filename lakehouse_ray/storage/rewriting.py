"""Manifests of a table written together: planning a read opens a few, not one per commit."""

from __future__ import annotations

from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table import Table as IcebergTable
from sqlalchemy.exc import SQLAlchemyError

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.storage.catalog import MAINTENANCE_PROPERTY, explain_catalog
from lakehouse_ray.storage.entries import manifests_of
from lakehouse_ray.storage.objects import explain

ATTEMPTS_MAX = 20


def manifest_count(table: IcebergTable) -> int:
    """Manifests of the current snapshot. Raises LakehouseError where they cannot be read."""
    snapshot = table.current_snapshot()
    try:
        return len(manifests_of(snapshot, table.io)) if snapshot is not None else 0
    except OSError as error:
        raise explain(error, f"reading manifests of {'.'.join(table.name())}") from error


def rewrite_manifests(table: IcebergTable, manifests_max: int, clock: Clock) -> tuple[int, int]:
    """Write manifests together where there are more; returns how many there were, and are.

    A snapshot that adds nothing and merges all. Safe to repeat, and beside any writer. Raises
    UnavailableError where catalog or store do not answer, or others keep coming first.
    """
    name = ".".join(table.name())
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            table.refresh()
            before = manifest_count(table)
            if before <= manifests_max or _just_rewritten(table):
                return before, before
            with table.transaction() as transaction:
                update = transaction.update_snapshot(
                    snapshot_properties={MAINTENANCE_PROPERTY: "manifests"}
                )
                append = update.merge_append()
                # The table's own count is for commits, which leave young ones alone.
                append._min_count_to_merge = 2
                with append:
                    pass  # nothing is appended
            return before, manifest_count(table)
        except (CommitFailedException, CommitStateUnknownException):
            clock.sleep(min(2.0, 0.02 * 2**attempt))
        except SQLAlchemyError as error:
            raise explain_catalog(error, f"rewriting manifests of {name}") from error
        except OSError as error:
            raise explain(error, f"rewriting manifests of {name}") from error
    raise UnavailableError(f"manifests of {name}: other writers came first {ATTEMPTS_MAX} times")


def _just_rewritten(table: IcebergTable) -> bool:
    """Whether nothing came since: what is left then cannot be fewer."""
    snapshot = table.current_snapshot()
    summary = snapshot.summary if snapshot is not None else None
    return summary is not None and summary.get(MAINTENANCE_PROPERTY) == "manifests"
