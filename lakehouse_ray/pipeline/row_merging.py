"""Rows of REST or of a stream into the main tables: merged, committed, merged again on conflict.

A unit's rows are committed before its refusals: whoever dies in between finds the rows there when
the work is repeated, and refuses the same rows again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.live import LIVE_LOGS
from lakehouse_ray.model.table import Table
from lakehouse_ray.pipeline.commits import Committers
from lakehouse_ray.pipeline.execution import CONFLICT_ROUNDS_MAX
from lakehouse_ray.silver.rows_work import BuiltRows, RowsUnit, build_rows, cut_rows
from lakehouse_ray.storage.files import index_files


@dataclass
class RowsMerged:
    """What became of rows that were merged, as in `silver.rows_work.BuiltRows`; and the commits."""

    rows: int = 0
    rows_replaced: int = 0
    rows_known: int = 0
    rows_refused: int = 0
    commits: int = 0
    conflicts: int = 0

    def add(self, other: RowsMerged) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def count(self, built: BuiltRows) -> None:
        self.rows += built.rows
        self.rows_replaced += built.rows_replaced
        self.rows_known += built.rows_known
        self.rows_refused += built.rows_refused


def tables_of(dataset: Dataset) -> tuple[Table, ...]:
    """Tables whose committers merging rows of a data set needs."""
    return (*dataset.tables, QUARANTINE, *LIVE_LOGS)


class RowMerger:
    """Merges rows in this process. Not for several threads.

    committers: Of the tables of `tables_of` each data set that will come.
    """

    def __init__(self, writer: Writer, committers: Committers, run_id: str) -> None:
        self._writer = writer
        self._committers = committers
        self._run_id = run_id
        self.report = RowsMerged()

    def merge(self, dataset: Dataset, frame: pl.DataFrame) -> None:
        """Merge rows of one data set and make them visible; merging them again changes nothing.

        frame: See `silver.rows_work.cut_rows`, which says what it raises.
        Raises UnavailableError where other writers keep coming first; what was committed until then
        stays, and is found when the merge is repeated.
        """
        by_table: dict[str, list[RowsUnit]] = defaultdict(list)
        for unit in cut_rows(dataset, frame):
            by_table[unit.table.name].append(unit)
        for units in by_table.values():
            left = units
            for _ in range(CONFLICT_ROUNDS_MAX):
                left = [built.unit for built in self.commit(self.build(left))]
                if not left:
                    break
            else:
                raise UnavailableError(
                    f"merging rows into {units[0].table.name}: other writers came first "
                    f"{CONFLICT_ROUNDS_MAX} times"
                )

    def build(self, units: Sequence[RowsUnit]) -> list[BuiltRows]:
        """Write the files of units of one table, against what it holds now."""
        table = units[0].table
        index = index_files(table, self._writer.catalog.find(table.name))
        store, now_us = self._writer.store, self._writer.clock.now_us()
        return [
            build_rows(store, unit, unit.seen(index), run_id=self._run_id, now_us=now_us)
            for unit in units
        ]

    def commit(self, batch: list[BuiltRows]) -> list[BuiltRows]:
        """Commit units of one table; returns those that another writer came before.

        As `pipeline.commits.CommitQueue` wants it, where workers do the building.
        """
        self._committers.commit_sealed(built.sealed for built in batch)
        outcomes = self._committers.commit(batch[0].unit.table, [built.silver for built in batch])
        committed = [b for b, o in zip(batch, outcomes, strict=True) if o.committed]
        conflicts = [b for b, o in zip(batch, outcomes, strict=True) if not o.committed]
        for built in conflicts:
            self._committers.forget(built.silver)
            self._committers.forget(built.quarantine)
        refusals = [b.quarantine for b in committed if not b.quarantine.empty]
        if refusals:
            self._committers.commit(QUARANTINE, refusals)
        self.report.commits += 1
        self.report.conflicts += len(conflicts)
        for built in committed:
            self.report.count(built)
        return conflicts
