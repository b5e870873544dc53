"""Large answers in the store: whole or not at all, bounded, and removable at any time."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ticking import TickingClock

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import DeniedError, InvalidError
from lakehouse_ray.serve.cache.in_store import Kept, StoreLevel, pieces, to_remove
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.formats import Format, Whole, hold_rows
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.storage.paths import answer_path

T = TypeVar("T")
MIB = 1 << 20


def key(number: int) -> str:
    return f"{number:032x}"


def in_memory(size: int) -> Written:
    return Written(hold_rows(os.urandom(size), Format.ARROW, size), "next_-9")


def on_disk(size: int) -> Written:
    data = os.urandom(size)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the answer
    file.write(data)
    file.flush()
    whole = hold_rows(data, Format.ARROW, size)
    return Written(Whole(whole.form, whole.rows, size, whole.sha256, None, file))


def body(written: Written) -> bytes:
    return b"".join(pieces(written.whole, 1000))


class Level:
    """The level of one process, over a folder."""

    def __init__(self, folder: Path, bytes_max: int = 64 * MIB, **more: Any) -> None:
        self.clock = more.pop("clock", SystemClock())
        store = more.pop("store", None) or LocalStore(folder / "data")
        self.level = StoreLevel(
            store, folder / "tmp", self.clock, bytes_max=bytes_max, ttl_s=more.pop("ttl_s", 3600)
        )

    def put(self, key: str, stored: Written) -> None:
        run(self.level.put(key, stored))

    def get(self, key: str, form: Format = Format.ARROW) -> Written | None:
        return run(self.level.get(key, form))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.mark.parametrize("size", [2 * MIB, 4 * MIB, 4 * MIB + 1, 9 * MIB])
def test_what_one_process_puts_another_gets(tmp_path: Path, size: int) -> None:
    one, two = Level(tmp_path), Level(tmp_path)
    for number, made in enumerate((in_memory(size), on_disk(size))):
        assert one.level.takes(size)
        assert two.get(key(number)) is None
        one.put(key(number), made)
        found = two.get(key(number))
        assert found is not None
        assert body(found) == body(made)
        assert (found.whole.data is None) == (size > 4 * MIB)
        assert (found.whole.digest, found.whole.rows) == (made.whole.digest, made.whole.rows)
        assert found.following == made.following
    counts = two.level.counts
    assert (counts.hits, counts.misses, counts.errors) == (2, 2, 0)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_several_read_one_answer_on_disk_at_once() -> None:
    made = on_disk(5000)
    first, second = pieces(made.whole, 999), pieces(made.whole, 700)
    got = (b"".join(x for x, _ in zip(first, range(3), strict=False)), b"".join(second))
    assert got[1].startswith(got[0])
    assert len(got[1]) == 5000


@pytest.mark.parametrize("damage", ["cut", "grown", "changed", "empty", "garbage", "of another"])
def test_a_damaged_object_is_a_miss_and_removed(tmp_path: Path, damage: str) -> None:
    level = Level(tmp_path)
    level.put(key(1), made := in_memory(5 * MIB))
    path = tmp_path / "data" / answer_path(key(1))
    data = path.read_bytes()
    level.put(key(2), in_memory(5 * MIB))
    path.write_bytes(
        {
            "cut": data[:-1],
            "grown": data + b"x",
            "changed": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
            "empty": b"",
            "garbage": os.urandom(3 * MIB),
            "of another": (tmp_path / "data" / answer_path(key(2))).read_bytes(),
        }[damage]
    )
    assert level.get(key(1)) is None
    assert level.level.counts.damaged == 1
    assert not path.exists()
    level.put(key(1), made)
    found = level.get(key(1))
    assert found is not None
    assert body(found) == body(made)
    assert level.get(key(1), Format.CSV) is None


def test_it_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    level = Level(tmp_path, 16 * MIB)
    folder = tmp_path / "data/cache/answers"
    for number in range(30):
        level.put(key(number), in_memory(2 * MIB))
        os.utime(folder / key(number), (number, 2e9 + number))
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 16 * MIB
    kept = sorted(int(path.name, 16) for path in folder.iterdir())
    assert kept == list(range(30 - len(kept), 30))
    assert len(kept) >= 5
    assert not level.level.takes(5 * MIB)
    assert not level.level.takes(MIB)


def test_old_ones_go_whatever_room_there_is(tmp_path: Path) -> None:
    clock = TickingClock()
    level = Level(tmp_path, clock=clock, ttl_s=100)
    folder = tmp_path / "data/cache/answers"
    level.put(key(1), in_memory(2 * MIB))
    os.utime(folder / key(1), (0, clock.now / 1e6))
    clock.sleep(99)
    level.put(key(2), in_memory(2 * MIB))
    os.utime(folder / key(2), (0, clock.now / 1e6))
    assert len(list(folder.iterdir())) == 2
    clock.sleep(1)
    level.put(key(3), in_memory(2 * MIB))
    assert {path.name for path in folder.iterdir()} == {key(2), key(3)}


def test_what_killed_processes_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    clock = SystemClock()
    level = Level(tmp_path, clock=clock)
    folder, temp = tmp_path / "data/cache/answers", tmp_path / "tmp"
    for path in (folder, temp):
        path.mkdir(parents=True)
    hour_ago = clock.now_us() / 1e6 - 3700
    for name, old in ((folder / ".a.part", 1), (folder / ".b.part", 0), (temp / "answer-a", 1),
                      (temp / "answer-b", 0), (temp / "duckdb-1-1", 1)):  # fmt: skip
        name.write_bytes(b"x" * 100)
        if old:
            os.utime(name, (hour_ago, hour_ago))
    level.put(key(1), in_memory(2 * MIB))
    assert {path.name for path in folder.iterdir()} == {".b.part", key(1)}
    assert {path.name for path in temp.iterdir()} == {"answer-b", "duckdb-1-1"}


def test_all_of_it_may_be_removed_while_it_is_in_use(tmp_path: Path) -> None:
    level = Level(tmp_path)
    level.put(key(1), made := in_memory(2 * MIB))
    shutil.rmtree(tmp_path / "data")
    assert level.get(key(1)) is None
    # The store believes that its folder is there; at the latest the second time it is.
    level.put(key(1), made)
    again = Level(tmp_path)
    again.put(key(1), made)
    assert again.get(key(1)) is not None


class ReadOnly(LocalStore):
    """As a bucket with rights to read alone."""

    def put_file(self, path: str, file: Path) -> None:
        raise DeniedError("no permission")


def test_a_store_that_may_not_be_written_is_left_alone(tmp_path: Path) -> None:
    clock = TickingClock()
    Level(tmp_path).put(key(1), made := in_memory(2 * MIB))
    level = Level(tmp_path, store=ReadOnly(tmp_path / "data"), clock=clock)
    for _ in range(20):
        level.put(key(2), made)
    assert (level.level.counts.errors, level.level.counts.skipped) == (1, 19)
    assert level.get(key(1)) is not None
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "..", "a" * 31, "../" + "a" * 32, "A" * 32, "a" * 65, "²" * 32]
)
def test_only_keys_become_paths(name: str) -> None:
    with pytest.raises(InvalidError):
        answer_path(name)


KEPT = st.lists(
    st.builds(Kept, st.uuids().map(str), st.integers(0, 40), st.integers(0, 100)),
    max_size=30,
    unique_by=lambda one: one.path,
)


@given(KEPT, st.integers(0, 120), st.integers(1, 200), st.integers(1, 60), st.data())
def test_what_stays_is_young_the_newest_and_fits(
    kept: list[Kept], now: int, most: int, ttl: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.integers(0, most // 4))
    removed = set(to_remove(kept, now, bytes_max=most, ttl_us=ttl, wanted=wanted))
    stays = set(kept) - removed
    assert sum(one.size for one in stays) + wanted <= most or not stays
    assert all(one.written_us + ttl > now for one in stays)
    young = {one for one in removed if one.written_us + ttl > now}
    if young and stays:
        newest = max(one.written_us for one in young)
        assert newest <= min(one.written_us for one in stays)
    if sum(one.size for one in kept) + wanted <= most:
        assert not young
