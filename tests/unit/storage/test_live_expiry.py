"""Tables of live rows give up a snapshot a second, and no reader misses a file by it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.maintained import HOUR_US, Kept, Time

from lakehouse_ray.storage.expiry import EXPIRED_PROPERTY, give_up
from lakehouse_ray.storage.orphans import Guard, sweep
from lakehouse_ray.storage.retention import Era, given_up, still_read

GUARD = Guard(age_us=48 * HOUR_US, reader_us=HOUR_US)
SECOND_US = 1_000_000
KEPT_MS, READER_MS = 600_000, 3_600_000


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path, Time(time.time_ns() // 1000))


def append(kept: Kept, days: range, every_us: int) -> None:
    committer = kept.committer()
    for day in days:
        kept.commit(committer, kept.request([day], float(day)), [day], float(day))
        kept.clock.us += every_us


def fold(kept: Kept) -> None:
    """All files are dropped at once, as when their rows are in another table."""
    committer = kept.committer("fold")
    removed = [path for day in kept.rows[snapshot_of(kept)] for path in kept.files_of(day)]
    request = kept.request([99], 99.0, list(dict.fromkeys(removed)))
    assert kept.commit(committer, request, [99], 99.0)


def snapshot_of(kept: Kept) -> int:
    snapshot = kept.table.current_snapshot()
    assert snapshot is not None
    return snapshot.snapshot_id


def give_up_now(kept: Kept) -> int:
    found = give_up(kept.table, KEPT_MS, READER_MS, kept.clock)
    kept.date_files()
    return len(found.expired)


def sweep_now(kept: Kept) -> int:
    with kept.stamped():
        found = sweep(kept.store, kept.table, GUARD, kept.clock.now_us, kept.clock.sleep)
    kept.remember_maintenance()
    return len([file for file in found.files if file.path.endswith(".parquet")])


class Reader:
    """Who opened a table and reads it later: the metadata is in memory."""

    def __init__(self, kept: Kept) -> None:
        self.table, self.snapshot_id = kept.table, snapshot_of(kept)
        self.rows = kept.rows[self.snapshot_id]

    def check(self) -> None:
        frame = self.table.scan(snapshot_id=self.snapshot_id).to_arrow()
        assert sorted(frame["last_funding_rate"].to_pylist()) == sorted(self.rows.values())


def test_files_that_a_fold_dropped_stay_for_who_reads_an_older_snapshot(kept: Kept) -> None:
    append(kept, range(3), SECOND_US)
    # Nobody folded for days, so that the files are old when they are dropped.
    kept.clock.us += 60 * HOUR_US
    append(kept, range(3, 6), SECOND_US)
    reader = Reader(kept)
    fold(kept)
    kept.clock.us += 15 * 60 * SECOND_US
    assert give_up_now(kept) > 0
    assert reader.table.metadata.snapshots[0].snapshot_id not in {
        snapshot.snapshot_id for snapshot in kept.table.metadata.snapshots
    }
    assert sweep_now(kept) == 0
    reader.check()
    # After the reader's time they go.
    kept.clock.us += HOUR_US + SECOND_US
    give_up_now(kept)
    assert sweep_now(kept) == 3
    kept.check()


def test_what_was_replaced_a_moment_ago_is_not_given_up_however_old_it_is(kept: Kept) -> None:
    append(kept, range(2), SECOND_US)
    kept.clock.us += 60 * HOUR_US
    reader = Reader(kept)
    fold(kept)
    assert give_up_now(kept) <= 1
    assert reader.snapshot_id in {s.snapshot_id for s in kept.table.metadata.snapshots}


def test_manifests_that_an_append_wrote_together_stay_for_who_opened_them(kept: Kept) -> None:
    kept.committer()
    kept.table.transaction().set_properties(
        {"commit.manifest.min-count-to-merge": "6"}
    ).commit_transaction()
    append(kept, range(3), SECOND_US)
    kept.clock.us += 60 * HOUR_US
    append(kept, range(3, 5), SECOND_US)
    reader = Reader(kept)
    assert len(manifests_of(kept)) == 5
    append(kept, range(5, 12), SECOND_US)
    assert not manifests_of(kept) & manifests_of(kept, reader.snapshot_id)
    kept.clock.us += 15 * 60 * SECOND_US
    assert give_up_now(kept) > 0
    sweep_now(kept)
    reader.check()


def manifests_of(kept: Kept, snapshot_id: int | None = None) -> set[str]:
    snapshot = kept.table.snapshot_by_id(snapshot_id or snapshot_of(kept))
    assert snapshot is not None
    return {manifest.manifest_path for manifest in snapshot.manifests(kept.table.io)}


def test_what_is_remembered_of_a_commit_a_second_is_little(kept: Kept) -> None:
    append(kept, range(30), SECOND_US)
    kept.clock.us += 15 * 60 * SECOND_US
    assert give_up_now(kept) >= 28
    assert kept.table.properties[EXPIRED_PROPERTY].count(".avro") == 1


def test_which_snapshots_readers_may_still_need() -> None:
    eras = [Era(n, n * 1000, (n + 1) * 1000) for n in range(10)] + [Era(10, 10_000, None)]
    assert given_up(eras, 3_000, 10_000) == [0, 1, 2, 3, 4, 5]
    assert given_up(eras, 3_000, 10_000, {2, 3}) == [0, 1, 4, 5]
    going = [0, 1, 2, 3, 4, 5]
    # The first that a reader may have, and those before what is no addition (5 dropped files).
    additions = {n for n in range(11) if n != 5}
    assert still_read(eras, going, additions, reader_ms=8_000, now_ms=10_000) == [1, 4]
    assert still_read(eras, going, set(), reader_ms=8_000, now_ms=10_000) == [1, 2, 3, 4, 5]
    assert still_read(eras, going, additions, reader_ms=3_000, now_ms=10_000) == []
    assert still_read([], [], set(), reader_ms=3_000, now_ms=10_000) == [], (
        "nothing was committed yet"
    )
