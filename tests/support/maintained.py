"""One table with a clock of its own, and what it must hold, told without the code under test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import polars as pl
from pyiceberg.table import StaticTable
from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import DAY_US, month_range
from lakehouse_ray.silver.regions import partition_of
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.committer import CommitRequest, Committer
from lakehouse_ray.storage.files import Region, index_files
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.storage.parquet import TableWriter, to_rows

TABLE = DATASETS["fundingRate"].table()
START = month_range(2024, 1).start_us
HOUR_US = 3_600_000_000


@dataclass
class Time:
    """A clock that moves when it is told to."""

    us: int

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.us / 1e6

    def sleep(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)

    def time(self) -> float:
        """For what takes it for the module."""
        return self.us / 1e6


@dataclass
class Kept:
    """A table that keeps what it should hold at every snapshot.

    rows: By day, of each snapshot that was ever committed.
    """

    root: Path
    clock: Time
    rows: dict[int | None, dict[int, float]] = field(default_factory=lambda: {None: {}})
    made: int = 0

    def __post_init__(self) -> None:
        self.store = LocalStore(self.root / "data")
        self.access = CatalogAccess(f"sqlite:///{self.root}/catalog.db", self.store.root, {})

    @property
    def table(self) -> IcebergTable:
        found = TableCatalog(self.access).find(TABLE.name)
        assert found is not None
        return found

    def committer(self, run: str = "run") -> Committer:
        made = Committer(self.access, TABLE, run, clock=self.clock)
        self.date_files()
        return made

    def request(
        self, days: Sequence[int], value: float, removed: Sequence[str] = ()
    ) -> CommitRequest:
        """Write a file with a row on each day, and ask for its commit."""
        self.made += 1
        partition = partition_of(TABLE, "um", None, "BTCUSDT", START)
        frame = pl.DataFrame(
            {
                "market": "um",
                "symbol": "BTCUSDT",
                "calc_time": [START + day * DAY_US for day in days],
                "funding_interval_hours": 8,
                "last_funding_rate": value,
                "source": "monthly",
                "source_key": f"{self.made}",
                "source_version": "v",
                "flags": None,
            }
        ).with_columns(pl.col("calc_time").cast(pl.Datetime("us", "UTC")))
        with TableWriter(TABLE, self.store, partition) as writer:
            writer.write(to_rows(TABLE, frame.cast(dict(frame_schema(TABLE)))))
        self.date_files()
        lo, hi = START + min(days) * DAY_US, START + max(days) * DAY_US
        region = Region(partition, "BTCUSDT", "BTCUSDT", lo, hi)
        return CommitRequest(
            f"unit-{self.made}", writer.files, tuple(removed), (region,), frozenset(removed)
        )

    def commit(
        self, committer: Committer, request: CommitRequest, days: Sequence[int], value: float
    ) -> bool:
        """Commit it; whether it was. Remembers what the table holds from then on."""
        before = self.table.current_snapshot()
        with self.stamped():
            (outcome,) = committer.commit([request])
        self.date_files()
        if outcome.committed:
            rows = dict(self.rows[before.snapshot_id if before else None])
            for day in [d for d in rows if d in self.days_of(request.removed)]:
                del rows[day]
            rows |= dict.fromkeys(days, value)
            self.rows[outcome.snapshot_id] = rows
        return outcome.committed

    def days_of(self, paths: Sequence[str]) -> set[int]:
        return {
            (us - START) // DAY_US
            for path in paths
            for us in pl.read_parquet(path.removeprefix("file://"))["calc_time"].dt.epoch("us")
        }

    def files_of(self, day: int) -> list[str]:
        return [
            entry.path
            for entry in index_files(TABLE, self.table)
            if entry.region.time_min_us <= START + day * DAY_US <= entry.region.time_max_us
        ]

    def stamped(self) -> AbstractContextManager[object]:
        """Within, snapshots are of this clock's time."""
        return patch("pyiceberg.table.snapshots.time", self.clock)

    def date_files(self) -> None:
        """Files that are new are of this clock's time."""
        now_s = self.clock.us / 1e6
        for path in (self.root / "data").rglob("*"):
            if path.is_file() and path.name not in self._dated:
                self._dated.add(path.name)
                os.utime(path, (now_s, now_s))

    _dated: set[str] = field(default_factory=set)

    def read(self, location: str, snapshot_id: int) -> dict[int, float]:
        """What a reader of a version of the metadata finds in one of its snapshots."""
        table = StaticTable.from_metadata(location)
        frame = pl.from_arrow(table.scan(snapshot_id=snapshot_id).to_arrow())
        assert isinstance(frame, pl.DataFrame)
        days = (frame["calc_time"].dt.epoch("us") - START) // DAY_US
        assert days.is_unique().all()
        return dict(zip(days.to_list(), frame["last_funding_rate"].to_list(), strict=True))

    def remember_maintenance(self) -> None:
        """Snapshots that others than `commit` made hold what their parents held."""
        self.date_files()
        for snapshot in sorted(self.table.metadata.snapshots, key=lambda s: s.sequence_number or 0):
            if snapshot.snapshot_id not in self.rows:
                self.rows[snapshot.snapshot_id] = self.rows[snapshot.parent_snapshot_id]

    def check(self) -> None:
        """Every snapshot that is kept holds what it held."""
        table = self.table
        for snapshot in table.metadata.snapshots:
            found = self.read(table.metadata_location, snapshot.snapshot_id)
            assert found == self.rows[snapshot.snapshot_id]
