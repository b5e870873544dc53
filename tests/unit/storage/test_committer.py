"""Two writers of one table: what is committed, what conflicts, and what asking twice gives."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pyiceberg.expressions.visitors import _ManifestEvalVisitor

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import DAY_US, month_range
from lakehouse_ray.silver.regions import partition_of
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.committer import CommitRequest, Committer
from lakehouse_ray.storage.files import FileEntry, FileIndex, Region, index_files
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.storage.parquet import TableWriter

TABLE = DATASETS["fundingRate"].table()
START = month_range(2024, 1).start_us
# Days whose multiples begin regions in years of their own, as far as these tests go.
YEAR = 366


class Hurry:
    """A clock that waits for nothing."""

    def now_us(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None: ...


class Lake:
    """One table, and requests on it in words of days and values."""

    def __init__(self, root: Path) -> None:
        self.store = LocalStore(root / "data")
        self.access = CatalogAccess(f"sqlite:///{root}/catalog.db", self.store.root, {})
        self.made = 0

    def committer(self) -> Committer:
        return Committer(self.access, TABLE, "run", clock=Hurry())

    def entries(self) -> list[FileEntry]:
        return list(index_files(TABLE, TableCatalog(self.access).find(TABLE.name)))

    def add(
        self,
        days: range,
        value: float,
        *,
        seen: Sequence[str] = (),
        removed: Sequence[str] = (),
    ) -> CommitRequest:
        """A request that adds a row on each day; it has seen and removes the files named."""
        self.made += 1
        files = ()
        start_us = START + (days.start if days else 0) // YEAR * YEAR * DAY_US
        partition = partition_of(TABLE, "um", None, "BTCUSDT", start_us)
        if days:
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
                arrow = frame.cast(frame_schema(TABLE)).to_arrow(  # type: ignore[arg-type]
                    compat_level=pl.CompatLevel.oldest()
                )
                writer.write(
                    pa.Table.from_arrays(
                        [arrow.column(f.name).cast(f.type) for f in writer.schema],
                        schema=writer.schema,
                    )
                )
            files = writer.files
        region = Region(partition, "BTCUSDT", "BTCUSDT", start_us, start_us + 9 * DAY_US)
        return CommitRequest(
            f"unit-{self.made}", files, tuple(removed), (region,), frozenset([*seen, *removed])
        )

    def rows(self) -> dict[int, float]:
        table = TableCatalog(self.access).find(TABLE.name)
        assert table is not None
        frame = pl.scan_iceberg(table.metadata_location, reader_override="pyiceberg").collect()
        days = (frame["calc_time"].dt.epoch("us") - START) // DAY_US
        assert days.is_unique().all()
        return dict(zip(days.to_list(), frame["last_funding_rate"].to_list(), strict=True))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def path_of(request: CommitRequest) -> str:
    (file,) = request.added
    return file.file_path


def test_what_is_committed_can_be_read(lake: Lake) -> None:
    (outcome,) = lake.committer().commit([lake.add(range(3), 1.0)])
    assert outcome.committed
    assert lake.rows() == {0: 1.0, 1: 1.0, 2: 1.0}


def test_two_appends_to_one_region_conflict_unless_the_second_has_seen_the_first(
    lake: Lake,
) -> None:
    one, other = lake.committer(), lake.committer()
    first = lake.add(range(2), 1.0)
    assert one.commit([first])[0].committed
    assert not other.commit([lake.add(range(2, 4), 2.0)])[0].committed
    assert other.commit([lake.add(range(2, 4), 2.0, seen=[path_of(first)])])[0].committed
    assert lake.rows() == {0: 1.0, 1: 1.0, 2: 2.0, 3: 2.0}


def test_of_two_that_replace_one_file_the_second_conflicts(lake: Lake) -> None:
    first = lake.add(range(2), 1.0)
    lake.committer().commit([first])
    one, zombie = lake.committer(), lake.committer()
    replace = [lake.add(range(2), value, removed=[path_of(first)]) for value in (2.0, 3.0)]
    assert one.commit(replace[:1])[0].committed
    assert not zombie.commit(replace[1:])[0].committed
    assert lake.rows() == {0: 2.0, 1: 2.0}


def test_of_two_in_one_batch_the_second_conflicts(lake: Lake) -> None:
    first, second = lake.add(range(2), 1.0), lake.add(range(2), 2.0)
    outcomes = lake.committer().commit([first, second])
    assert [o.committed for o in outcomes] == [True, False]
    assert lake.rows() == {0: 1.0, 1: 1.0}


def test_asking_again_for_what_is_committed_is_answered_and_changes_nothing(lake: Lake) -> None:
    request = lake.add(range(2), 1.0)
    one = lake.committer()
    (done,) = one.commit([request])
    for committer in (one, lake.committer()):
        (again,) = committer.commit([request])
        assert again.committed
        assert again.snapshot_id == done.snapshot_id
    assert lake.rows() == {0: 1.0, 1: 1.0}


def test_a_request_that_removes_what_is_gone_conflicts(lake: Lake) -> None:
    first = lake.add(range(2), 1.0)
    committer = lake.committer()
    committer.commit([first])
    committer.commit([lake.add(range(2), 2.0, removed=[path_of(first)])])
    assert not committer.commit([lake.add(range(0), 0.0, removed=[path_of(first)])])[0].committed
    assert lake.rows() == {0: 2.0, 1: 2.0}


def test_nothing_to_write_conflicts_if_what_was_seen_has_gone(lake: Lake) -> None:
    """It had nothing to write because the rows were there; now they are another's."""
    first = lake.add(range(2), 1.0)
    zombie = lake.committer()
    lake.committer().commit([first])
    nothing = lake.add(range(0), 0.0, seen=[path_of(first)])
    assert lake.committer().commit([nothing])[0].committed
    lake.committer().commit([lake.add(range(1), 2.0, removed=[path_of(first)])])
    assert not lake.committer().commit([nothing])[0].committed
    assert not zombie.commit([lake.add(range(5, 6), 1.0, seen=[path_of(first)])])[0].committed


def test_a_committer_made_long_ago_sees_what_came_since(lake: Lake) -> None:
    """The committer of a killed run may live on for seconds."""
    zombie = lake.committer()
    first = lake.add(range(2), 1.0)
    lake.committer().commit([first])
    assert not zombie.commit([lake.add(range(2), 9.0)])[0].committed
    assert lake.rows() == {0: 1.0, 1: 1.0}
    assert [entry.path for entry in lake.entries()] == [path_of(first)]


def test_a_batch_is_one_snapshot(lake: Lake) -> None:
    committer = lake.committer()
    first = lake.add(range(2), 1.0)
    second = lake.add(range(2, 4), 2.0, seen=[path_of(first)])
    ids = {outcome.snapshot_id for outcome in committer.commit([first, second])}
    assert len(ids) == 1
    assert lake.rows() == {0: 1.0, 1: 1.0, 2: 2.0, 3: 2.0}


def test_every_file_to_remove_is_found_however_the_threads_of_a_commit_take_turns(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyIceberg keeps the manifest that an evaluator is at in the evaluator, which all its threads
    share: a manifest judged by another's bounds is passed over, and with it a file to remove."""
    committer = lake.committer()
    first = [lake.add(range(year * YEAR, year * YEAR + 1), 1.0) for year in range(8)]
    for request in first:
        committer.commit([request])

    def keep(self: _ManifestEvalVisitor, partitions: list[object]) -> None:
        self.__dict__["kept"] = partitions
        threading.Event().wait(0.002)  # the other threads' turn

    slow = property(lambda self: self.__dict__["kept"], keep)
    monkeypatch.setattr(_ManifestEvalVisitor, "partition_fields", slow, raising=False)
    days = range(3 * YEAR, 3 * YEAR + 1)
    (outcome,) = committer.commit([lake.add(days, 2.0, removed=[path_of(first[3])])])
    assert outcome.committed
    assert lake.rows() == {year * YEAR: 2.0 if year == 3 else 1.0 for year in range(8)}


def test_files_that_may_hold_rows_of_a_region_are_all_found() -> None:
    """Against looking at every one."""
    entries = [
        FileEntry(f"{p}{lead}{time}", Region((p,), lead, lead + "~", time, time + 3), 1, 1)
        for p in range(2)
        for lead in "ACE"
        for time in range(0, 12, 2)
    ]
    index = FileIndex(entries)
    for low, high in (("A", "A"), ("B", "D"), ("C~", "C~"), ("F", "G")):
        for start in range(-1, 16):
            region = Region((1,), low, high, start, start + 1)
            wanted = [
                e.path
                for e in entries
                if e.region.partition == (1,)
                and not (e.region.lead_max < low or e.region.lead_min > high)
                and not (e.region.time_max_us < start or e.region.time_min_us > start + 1)
            ]
            assert [e.path for e in index.overlapping(region)] == sorted(wanted)
