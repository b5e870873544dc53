"""Small files of a table written together, while others write to it, too.

Whoever replaces a file meanwhile is first: what was written of it goes, and it is planned again.
Whoever appends is not in the way. The rows are the same, so nobody has to look at them anew but who
remembers files by their names: a build of derived tables reads what it is made from once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.table import Table
from lakehouse_ray.pipeline.commits import Committers, open_committers
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.compaction import (
    CompactionPolicy,
    CompactionTask,
    compact,
    plan_compaction,
)
from lakehouse_ray.storage.files import index_files

# Tasks that share a snapshot.
TASKS_PER_COMMIT = 8
# Times that what others were first with is planned again.
ROUNDS_MAX = 3

# A build tells by the age of its files whether their rows are those of its log, and writes what it
# touches together by itself.
BUILT = frozenset(product.table.name for product in PRODUCTS.values())


def is_compacted(shape: Table) -> bool:
    """Live rows are folded as whole files, hour by hour: a larger one would have to wait."""
    return shape.name not in BUILT and not shape.live


@dataclass
class Compacted:
    """files, size_bytes: Those written together. written, written_bytes: Those they became.

    overtaken: Tasks that others were first with, in all rounds. failed: What could not be, and why.
    """

    files: int = 0
    size_bytes: int = 0
    written: int = 0
    written_bytes: int = 0
    overtaken: int = 0
    failed: list[str] = field(default_factory=list)


def plan_table(shape: Table, table: IcebergTable, policy: CompactionPolicy) -> list[CompactionTask]:
    """What would be written together as the table is now."""
    return plan_compaction(index_files(shape, table), policy) if is_compacted(shape) else []


def compact_table(
    writer: Writer, shape: Table, table: IcebergTable, policy: CompactionPolicy, run_id: str
) -> Compacted:
    """Write a table's small files together. Safe to repeat, and beside any writer.

    Raises LakehouseError where catalog or store do not answer.
    """
    told = Compacted()
    if not plan_table(shape, table, policy):
        return told
    with open_committers(writer, [shape], run_id, local=True) as committers:
        for number in range(ROUNDS_MAX):
            table.refresh()
            tasks = plan_table(shape, table, policy)
            before = told.overtaken
            for at in range(0, len(tasks), TASKS_PER_COMMIT):
                name = f"compact-{number}-{at}"
                _compact(writer, committers, shape, tasks[at : at + TASKS_PER_COMMIT], name, told)
            if told.overtaken == before:
                break
    return told


def _compact(
    writer: Writer,
    committers: Committers,
    shape: Table,
    tasks: Sequence[CompactionTask],
    name: str,
    told: Compacted,
) -> None:
    requests: list[CommitRequest] = []
    sizes: dict[str, tuple[int, int]] = {}
    for number, task in enumerate(tasks):
        try:
            old, new = compact(writer.store, shape, task)
        except BadDataError as error:
            if str(error) not in told.failed:
                told.failed.append(str(error))
            continue
        if new:
            removed = tuple(file.path for file in old)
            request = CommitRequest(
                f"{name}-{number}", new, removed, (), frozenset(removed), rewrites=True
            )
            requests.append(request)
            sizes[request.id] = len(old), sum(file.size_bytes for file in old)
    if not requests:
        return
    outcomes = committers.commit(shape, requests)
    for request, outcome in zip(requests, outcomes, strict=True):
        if not outcome.committed:
            committers.forget(request)
            told.overtaken += 1
            continue
        files, size_bytes = sizes[request.id]
        told.files += files
        told.size_bytes += size_bytes
        told.written += len(request.added)
        told.written_bytes += sum(file.file_size_in_bytes for file in request.added)
