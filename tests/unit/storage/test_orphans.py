"""No file that anything speaks of is ever removed, whatever the history; and the rest is."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.exceptions import CommitFailedException
from support.maintained import HOUR_US, Kept, Time

from lakehouse_ray.errors import BadDataError, UnavailableError
from lakehouse_ray.storage.committer import CommitRequest, Committer
from lakehouse_ray.storage.expiry import expire
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.storage.orphans import Guard, Orphans, clock_ahead_us, find_orphans, sweep
from lakehouse_ray.storage.retention import Retention

GUARD = Guard(age_us=48 * HOUR_US, reader_us=HOUR_US)
RETENTION = Retention(age_ms=2 * 3_600_000, count_min=2, daily_days=0, reader_ms=3_600_000)


def make(root: Path) -> Kept:
    # No earlier than now: metadata is of the machine's time, and must not be after its snapshots.
    return Kept(root, Time(time.time_ns() // 1000))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return make(tmp_path)


def sweep_now(kept: Kept) -> Orphans:
    with kept.stamped():
        found = sweep(kept.store, kept.table, GUARD, kept.clock.now_us, kept.clock.sleep)
    kept.remember_maintenance()
    return found


def expire_now(kept: Kept) -> int:
    with kept.stamped():
        found = expire(kept.table, RETENTION, kept.clock)
    kept.date_files()
    return len(found.expired)


def stored(kept: Kept) -> set[str]:
    return {str(path) for path in (kept.root / "data").rglob("*") if path.is_file()}


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 5)),
    st.tuples(st.just("replace"), st.integers(0, 5)),
    st.tuples(st.just("leave"), st.integers(0, 5)),
    st.tuples(st.just("half_commit"), st.integers(0, 5)),
    st.tuples(st.just("wake"), st.integers(0, 5)),
    st.tuples(st.just("read"), st.just(0)),
    st.tuples(st.just("tag"), st.integers(0, 5)),
    st.tuples(st.just("wait_hours"), st.sampled_from([1, 3, 30, 60])),
    st.tuples(st.just("expire"), st.just(0)),
    st.tuples(st.just("sweep"), st.just(0)),
)


@settings(max_examples=6)
@given(st.lists(STEPS, min_size=4, max_size=12))
def test_no_file_that_is_spoken_of_is_removed(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept = make(Path(folder))
        _History(kept).run([*steps, ("expire", 0), ("wait_hours", 60), ("sweep", 0)])


class _History:
    """Writers, readers, kills and maintenance of one table, in some order."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.committer = kept.committer()
        # Written and not committed: by whom, what, the day, the value.
        self.asleep: list[tuple[Committer, CommitRequest, int, float]] = []
        # When a reader opened which version, and which snapshot of it.
        self.readers: list[tuple[int, str, int]] = []

    def run(self, steps: list[tuple[str, int]]) -> None:
        kept = self.kept
        for number, (step, day) in enumerate(steps):
            value = float(number)
            if step in ("write", "replace"):
                removed = kept.files_of(day) if step == "replace" else ()
                request = kept.request([day], value, removed)
                kept.commit(self.committer, request, [day], value)
            elif step == "leave":
                sleeper = kept.committer(f"run-{number}")
                self.asleep.append((sleeper, kept.request([day], value), day, value))
            elif step == "half_commit":
                append = kept.table.transaction().update_snapshot().fast_append()
                append.append_data_file(kept.request([day], value).added[0])
                append._commit()
                kept.date_files()
            elif step == "wake" and self.asleep:
                sleeper, request, day, value = self.asleep.pop(day % len(self.asleep))
                kept.commit(sleeper, request, [day], value)
            elif step == "read" and (snapshot := kept.table.current_snapshot()):
                location = kept.table.metadata_location
                self.readers.append((kept.clock.us, location, snapshot.snapshot_id))
            elif step == "tag":
                self.tag(day, f"tag-{number}")
            elif step == "wait_hours":
                kept.clock.us += day * HOUR_US
            elif step == "expire":
                expire_now(kept)
            elif step == "sweep":
                sweep_now(kept)
                assert not find_orphans(kept.store, kept.table, GUARD, kept.clock.now_us).files
            kept.clock.us += 1_000_000
            if step in ("expire", "sweep", "wake"):
                self.check()

    def tag(self, number: int, name: str) -> None:
        snapshots = self.kept.table.metadata.snapshots
        if snapshots:
            snapshot = snapshots[number % len(snapshots)]
            self.kept.table.manage_snapshots().create_tag(snapshot.snapshot_id, name).commit()
            self.kept.date_files()

    def check(self) -> None:
        kept = self.kept
        kept.check()
        for ref in kept.table.metadata.refs.values():
            assert kept.table.snapshot_by_id(ref.snapshot_id) is not None
        for opened_us, location, snapshot_id in self.readers:
            # The metadata is read once, when a reader opens it; data and manifests whenever.
            if kept.clock.us - opened_us < GUARD.reader_us and Path(location[7:]).exists():
                assert kept.read(location, snapshot_id) == kept.rows[snapshot_id]


def test_what_nothing_speaks_of_goes_once_it_is_old(kept: Kept) -> None:
    committer = kept.committer()
    kept.commit(committer, kept.request([1], 1.0), [1], 1.0)
    left = kept.request([2], 2.0).added[0].file_path.removeprefix("file://")
    assert sweep_now(kept).young == 1
    assert left in stored(kept)
    kept.clock.us += 49 * HOUR_US
    found = find_orphans(kept.store, kept.table, GUARD, kept.clock.now_us)
    assert [f"{kept.root}/data/{file.path}" for file in found.files] == [left]
    assert left in stored(kept)
    swept = sweep_now(kept)
    assert swept.files == found.files
    assert left not in stored(kept)
    kept.check()
    # Swept again, nothing happens: not even a snapshot.
    before = kept.table.metadata_location
    assert sweep_now(kept).files == ()
    assert kept.table.metadata_location == before


def test_files_of_expired_snapshots_go_only_when_readers_are_done(kept: Kept) -> None:
    committer = kept.committer()
    for value in (1.0, 2.0, 3.0, 4.0):
        removed = kept.files_of(1) if value > 1 else ()
        kept.commit(committer, kept.request([1], value, removed), [1], value)
        kept.clock.us += 10 * HOUR_US
    kept.clock.us += 100 * HOUR_US
    assert expire_now(kept) == 2
    files = stored(kept)
    sweep_now(kept)
    assert stored(kept) >= files
    kept.clock.us += 2 * HOUR_US
    assert len([f for f in sweep_now(kept).files if f.path.endswith(".parquet")]) == 2
    kept.check()


def test_a_commit_that_slept_through_a_sweep_does_not_come_about(kept: Kept) -> None:
    sleeper = kept.committer("sleeper")
    kept.commit(kept.committer(), kept.request([1], 1.0), [1], 1.0)
    request = kept.request([2], 2.0)
    with kept.stamped():
        transaction = kept.table.transaction()
        append = transaction.update_snapshot().fast_append()
        append.append_data_file(kept.request([3], 3.0).added[0])
        append.commit()
    kept.date_files()
    kept.clock.us += 72 * HOUR_US
    assert sweep_now(kept).files
    with pytest.raises(CommitFailedException):
        transaction.commit_transaction()
    # And a committer finds that the file is gone: its rows have to be written again.
    assert not kept.commit(sleeper, request, [2], 2.0)
    assert kept.commit(sleeper, kept.request([2], 2.0), [2], 2.0)
    kept.check()


def test_a_commit_in_the_middle_of_a_sweep_leaves_out_what_is_about_to_go(kept: Kept) -> None:
    sleeper = kept.committer("sleeper")
    kept.commit(kept.committer(), kept.request([1], 1.0), [1], 1.0)
    requests = [kept.request([day], 2.0) for day in (2, 3)]
    kept.clock.us += 72 * HOUR_US
    young = kept.request([4], 4.0)
    committed: list[bool] = []

    class Meanwhile(LocalStore):
        """Somebody commits when the sweep has begun, and its files are still there."""

        def delete(self, path: str) -> None:
            if not committed:
                kept.remember_maintenance()
                assert all(
                    Path(file.file_path.removeprefix("file://")).exists()
                    for request in requests
                    for file in request.added
                )
                committed.extend(
                    kept.commit(sleeper, request, [day], 2.0)
                    for request, day in zip(requests, (2, 3), strict=True)
                )
                committed.append(kept.commit(sleeper, young, [4], 4.0))
            super().delete(path)

    with kept.stamped():
        store = Meanwhile(kept.root / "data")
        assert sweep(store, kept.table, GUARD, kept.clock.now_us, kept.clock.sleep).files
    assert committed == [False, False, True]
    assert kept.rows[kept.table.current_snapshot().snapshot_id] == {1: 1.0, 4: 4.0}  # type: ignore[union-attr]
    kept.remember_maintenance()
    kept.check()


def test_files_are_as_old_as_the_store_says(kept: Kept) -> None:
    """The store's clock is days behind this machine's: what it dates now is young all the same."""
    kept.commit(kept.committer(), kept.request([1], 1.0), [1], 1.0)
    left = kept.request([2], 2.0).added[0].file_path.removeprefix("file://")
    behind_us = 100 * HOUR_US
    machine = Time(kept.clock.us + behind_us)

    class Behind(LocalStore):
        def put(self, path: str, data: bytes) -> None:
            super().put(path, data)
            os.utime(kept.root / "data" / path, (kept.clock.us / 1e6,) * 2)

    store = Behind(kept.root / "data")
    ahead_us = clock_ahead_us(store, machine)
    assert abs(ahead_us + behind_us) < 1_000_000
    assert not list((kept.root / "data/tmp").iterdir())
    guard = replace(GUARD, store_ahead_us=ahead_us)
    assert find_orphans(store, kept.table, guard, machine.now_us).files == ()
    assert find_orphans(store, kept.table, GUARD, machine.now_us).files != ()
    machine.us += 49 * HOUR_US
    (found,) = find_orphans(store, kept.table, guard, machine.now_us).files
    assert left.endswith(found.path)


def test_a_log_whose_file_was_swept_is_said_and_not_passed_over(kept: Kept) -> None:
    sleeper = kept.committer("sleeper")
    kept.commit(kept.committer(), kept.request([1], 1.0), [1], 1.0)
    request = replace(kept.request([2], 2.0), regions=())
    kept.clock.us += 72 * HOUR_US
    assert sweep_now(kept).files
    with pytest.raises(UnavailableError, match="slept for days"):
        sleeper.commit([request])
    kept.check()


def test_nothing_is_swept_where_the_catalog_was_set_back(kept: Kept) -> None:
    committer = kept.committer()
    kept.commit(committer, kept.request([1], 1.0), [1], 1.0)
    earlier = (kept.root / "catalog.db").read_bytes()
    kept.commit(committer, kept.request([2], 2.0), [2], 2.0)
    kept.clock.us += 72 * HOUR_US
    (kept.root / "catalog.db").write_bytes(earlier)
    files = stored(kept)
    with pytest.raises(BadDataError, match="CATALOG_BEHIND"):
        sweep_now(kept)
    assert stored(kept) == files


def test_nothing_is_swept_where_it_cannot_be_told_what_is_live(kept: Kept) -> None:
    kept.commit(kept.committer(), kept.request([1], 1.0), [1], 1.0)
    kept.request([2], 2.0)
    kept.clock.us += 72 * HOUR_US
    snapshot = kept.table.current_snapshot()
    assert snapshot is not None
    manifest = Path(snapshot.manifests(kept.table.io)[0].manifest_path.removeprefix("file://"))
    manifest.write_bytes(manifest.read_bytes()[:40])
    files = stored(kept)
    with pytest.raises(BadDataError, match="METADATA_UNREADABLE"):
        sweep_now(kept)
    assert stored(kept) == files


def test_a_tagged_snapshot_does_not_expire_even_when_it_is_tagged_meanwhile(kept: Kept) -> None:
    committer = kept.committer()
    for value in (1.0, 2.0, 3.0, 4.0):
        removed = kept.files_of(1) if value > 1 else ()
        kept.commit(committer, kept.request([1], value, removed), [1], value)
        kept.clock.us += 10 * HOUR_US
    kept.clock.us += 100 * HOUR_US
    first = kept.table.metadata.snapshots[0].snapshot_id
    table = kept.table  # planned by this, before the tag
    kept.table.manage_snapshots().create_tag(first, "backtest").commit()
    with kept.stamped():
        assert len(expire(table, RETENTION, kept.clock).expired) == 1
    assert kept.table.metadata.refs["backtest"].snapshot_id == first
    kept.check()
