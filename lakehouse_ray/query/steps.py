"""What moved: the tables of a data set from one state to the next, one table and one commit's reach at
a time.

A row of a hot table is dropped there when a main table has it. So a main table's step is taken before
that of the hot one, and in every state between a row is in one of them at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from pyiceberg.manifest import DataFile

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.model.table import Table
from lakehouse_ray.query.pins import FindTable, Pin, pin_tables
from lakehouse_ray.query.scan import plan_files
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.query.versions import FixedTables, Versions, spell_versions


@dataclass(frozen=True)
class State:
    """Tables of one data set at one version each, and the log of gaps where its rows come live."""

    pins: Mapping[str, Pin]

    @property
    def versions(self) -> dict[str, int | None]:
        return {name: pin.snapshot_id for name, pin in self.pins.items()}

    def of(self, tables: Sequence[Table]) -> dict[str, Pin]:
        return {table.name: self.pins[table.name] for table in tables}


@dataclass(frozen=True)
class Step:
    """One table moved; the others are in both states what they are in `after`."""

    dataset: Dataset
    before: State
    after: State
    moved: Table

    @property
    def committed_us(self) -> int:
        """When the later version was; 0: it has no rows."""
        table = self.after.pins[self.moved.name].table
        snapshot_id = self.after.pins[self.moved.name].snapshot_id
        if table is None or snapshot_id is None:
            return 0
        snapshot = table.snapshot_by_id(snapshot_id)
        assert snapshot is not None
        return snapshot.timestamp_ms * 1000

    @property
    def commits(self) -> int:
        """Commits of the table between the two states, as far as they are still kept."""
        table = self.after.pins[self.moved.name].table
        if table is None:
            return 0
        first, last = (_number(one.pins[self.moved.name]) for one in (self.before, self.after))
        return sum(first < (one.sequence_number or 0) <= last for one in table.snapshots())

    def files(self, engine: Engine) -> tuple[list[DataFile], list[DataFile]]:
        """The moved table's files that one state alone has: gone, and new."""
        old, new = (state.pins[self.moved.name] for state in (self.before, self.after))
        table = new.table or old.table
        if table is None:
            return [], []
        try:
            # The later metadata need not know the earlier snapshot any more: a hot table keeps few.
            if engine.kept is not None and old.table is not None and new.table is not None:
                return engine.kept.manifests.difference(
                    self.moved, old.table, old.snapshot_id, new.table, new.snapshot_id
                )
        except OSError as error:
            raise UnavailableError(
                f"{self.moved.name}: its metadata cannot be read: {error}"
            ) from error
        before = {file.file_path: file for file in plan_files(old)}
        after = {file.file_path: file for file in plan_files(new)}
        gone = [file for path, file in before.items() if path not in after]
        return gone, [file for path, file in after.items() if path not in before]


def followed_tables(dataset: Dataset) -> tuple[Table, ...]:
    """Tables that tell of a data set's rows, the hot one first."""
    return _followed_tables(dataset.name)


@cache
def _followed_tables(name: str) -> tuple[Table, ...]:
    dataset = DATASETS[name]
    return (*dataset.stored_tables, STREAM_GAPS) if dataset.streamed else dataset.stored_tables


def state_now(find: FindTable, dataset: Dataset) -> State:
    return State(pin_tables(find, followed_tables(dataset)))


def state_at(find: FindTable, dataset: Dataset, versions: Versions) -> State:
    """The state of these versions; tables that they do not name are as they are now.

    Raises ExpiredError for a version that is not kept any more.
    """
    tables = {table.name: table for table in followed_tables(dataset)}
    named = [table for name, table in tables.items() if name in versions]
    # What is told of a table without live rows says nothing of these: none were seen.
    told = {table.name: versions[table.name] for table in named}
    if named:
        told |= {t.name: None for t in tables.values() if t.live and t.name not in told}
        named = [table for name, table in tables.items() if name in told]
    pins = pin_tables(find, [table for name, table in tables.items() if name not in told])
    if named:
        fixed = FixedTables(find, named, spell_versions(told))
        pins |= {t.name: Pin(t, fixed.find(t.name), told[t.name]) for t in named}
    return State({name: pins[name] for name in tables})


def next_step(dataset: Dataset, state: State, now: State) -> Step | None:
    """The first step on the way from one state to another; None: nothing has moved on.

    now: Found with the hot table first. Of a table that it has in an earlier version (it may have been
        looked at before the other one was) there is no step back.
    """
    for table in sorted(followed_tables(dataset), key=lambda table: table.live):
        old, new = state.pins[table.name], now.pins[table.name]
        if old.snapshot_id != new.snapshot_id and _number(new) > _number(old):
            return Step(dataset, state, State({**state.pins, table.name: new}), table)
    return None


def _number(pin: Pin) -> int:
    """Of the commit; 0: there was none."""
    if pin.table is None or pin.snapshot_id is None:
        return 0
    snapshot = pin.table.snapshot_by_id(pin.snapshot_id)
    return 0 if snapshot is None else snapshot.sequence_number or 0
