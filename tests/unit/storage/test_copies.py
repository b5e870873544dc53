"""Copies of a store's files: whole, bounded, and gone with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.storage.copies import LocalCopies, NoRoomError
from lakehouse_ray.storage.objects import LocalStore

COUNT = 6


@pytest.fixture
def sizes(tmp_path: Path) -> dict[str, int]:
    """Files of a store, all about as long."""
    folder = tmp_path / "store" / "data"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        rows = pa.table({"n": pa.array([number] * 1000, pa.int64())})
        path = folder / f"{number}.parquet"
        pq.write_table(
            rows, path, compression="none", use_dictionary=False, write_statistics=False,
            write_page_checksum=True,
        )  # fmt: skip
    return {f"data/{path.name}": path.stat().st_size for path in sorted(folder.iterdir())}


@pytest.fixture
def size(sizes: dict[str, int]) -> int:
    """Some of them are a byte or two shorter: checksums are kept as numbers of any length."""
    return max(sizes.values())


def copies_of(tmp_path: Path, bytes_max: int) -> LocalCopies:
    return LocalCopies(LocalStore(tmp_path / "store"), tmp_path / "copies", bytes_max)


@pytest.fixture
def copies(tmp_path: Path, size: int) -> Iterator[LocalCopies]:
    """Three of the files have room."""
    made = copies_of(tmp_path, 3 * size)
    yield made
    made.close()
    assert [path.name for path in (tmp_path / "copies").iterdir()] == [".lock"]


@pytest.fixture
def room(tmp_path: Path, copies: LocalCopies) -> Iterator[Path]:
    with copies.room() as made:
        yield made
    assert not made.exists()


def go_on() -> None:
    pass


def chosen(sizes: dict[str, int], *numbers: int) -> dict[str, int]:
    return {f"data/{n}.parquet": sizes[f"data/{n}.parquet"] for n in numbers}


def kept(tmp_path: Path) -> int:
    return len(list((tmp_path / "copies").glob("*/*.parquet")))


def test_copies_are_what_is_stored_and_shown_only_where_they_are_to_be(
    tmp_path: Path, copies: LocalCopies, room: Path, sizes: dict[str, int]
) -> None:
    with copies.room() as other, copies.hold(chosen(sizes, 3), other, go_on):
        assert list(room.iterdir()) == []
    with copies.hold(chosen(sizes, 1, 2), room, go_on) as places:
        for path, place in places.items():
            assert Path(place).read_bytes() == (tmp_path / "store" / path).read_bytes()
        assert {*map(Path, places.values())} == {*room.iterdir()}
    assert list(room.iterdir()) == []
    # Once here, the store is not asked again.
    (tmp_path / "store/data/1.parquet").unlink()
    with copies.hold(chosen(sizes, 1), room, go_on) as places:
        assert Path(places["data/1.parquet"]).is_file()
    with copies.hold({}, room, go_on) as places:
        assert places == {}


def test_the_least_lately_used_goes_first_and_never_one_in_use(
    tmp_path: Path, copies: LocalCopies, room: Path, sizes: dict[str, int]
) -> None:
    for number in (0, 1, 2):
        with copies.hold(chosen(sizes, number), room, go_on):
            pass
    with copies.hold(chosen(sizes, 0), room, go_on) as first:
        with copies.hold(chosen(sizes, 3), room, go_on):
            assert kept(tmp_path) == 3
        with copies.hold(chosen(sizes, 4, 5), room, go_on):
            assert kept(tmp_path) == 3
            assert Path(first["data/0.parquet"]).is_file()
            with pytest.raises(NoRoomError) as caught, copies.hold(chosen(sizes, 3), room, go_on):
                pass
            assert caught.value.wanted_bytes < caught.value.bytes_max
    with pytest.raises(NoRoomError) as caught, copies.hold(chosen(sizes, 0, 1, 2, 3), room, go_on):
        pass
    assert caught.value.wanted_bytes > caught.value.bytes_max
    with copies.hold(chosen(sizes, 1, 2, 3), room, go_on):
        assert kept(tmp_path) == 3


def test_a_file_that_is_not_as_its_table_says_is_no_copy(
    tmp_path: Path, copies: LocalCopies, room: Path, sizes: dict[str, int]
) -> None:
    one = tmp_path / "store/data/1.parquet"
    whole = one.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content in (whole + b"x", whole[:-1], bytes(flipped), b"x" * len(whole)):
        one.write_bytes(content)
        with pytest.raises(UnavailableError), copies.hold(chosen(sizes, 0, 1), room, go_on):
            pass
    one.unlink()
    with pytest.raises(UnavailableError), copies.hold(chosen(sizes, 0, 1), room, go_on):
        pass
    one.write_bytes(whole)
    with copies.hold(chosen(sizes, 0, 1), room, go_on) as places:
        assert Path(places["data/1.parquet"]).read_bytes() == whole


def test_who_stops_waiting_is_told_at_once_and_others_get_their_files(
    copies: LocalCopies, room: Path, sizes: dict[str, int]
) -> None:
    def stopped() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError), copies.hold(chosen(sizes, 0, 1), room, stopped):
        pass
    with copies.hold(chosen(sizes, 0, 1, 2), room, go_on) as places:
        assert len(places) == 3


def test_many_at_once_get_right_files_and_stay_within_the_bound(
    tmp_path: Path, copies: LocalCopies, sizes: dict[str, int]
) -> None:
    start = threading.Barrier(4)

    def ask(seed: int) -> int:
        start.wait()
        answered = 0
        for turn in range(60):
            mine = chosen(sizes, *{(seed + turn) % COUNT, (seed * turn) % COUNT})
            try:
                with copies.room() as room, copies.hold(mine, room, go_on) as places:
                    for path, place in places.items():
                        number = int(Path(path).stem)
                        assert pq.read_table(place)["n"][0].as_py() == number
                answered += 1
            except NoRoomError:
                continue
        return answered

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(ask, range(4))) > 60
    assert kept(tmp_path) <= 3


_HOLDS = """
import sys, time
from pathlib import Path
from lakehouse_ray.storage.copies import LocalCopies
from lakehouse_ray.storage.objects import LocalStore
root, size = Path(sys.argv[1]), int(sys.argv[2])
copies = LocalCopies(LocalStore(root / "store"), root / "copies", 1 << 30)
with copies.room() as room, copies.hold({"data/0.parquet": size}, room, lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    size = sizes["data/0.parquet"]
    command = [sys.executable, "-c", _HOLDS, str(tmp_path), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        copies_of(tmp_path, size).close()
        assert kept(tmp_path) == 1
        process.send_signal(signal.SIGKILL)
    assert kept(tmp_path) == 1
    copies_of(tmp_path, size).close()
    assert kept(tmp_path) == 0
