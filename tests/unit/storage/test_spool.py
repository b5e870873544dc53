"""What was appended is read back; a torn end is cut; what has no room is a loss that is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.storage.records import FRAME, MARK, Record
from lakehouse_ray.storage.spool import Spool, list_segments, read_segment

HEADER = b'{"market":"spot"}'


def spool(folder: Path, **options: int) -> Spool:
    return Spool(folder, HEADER, **{"bytes_max": 1 << 20, **options})


frames = st.lists(
    st.tuples(st.integers(0, 2**62), st.integers(0, 2**32 - 1), st.binary(max_size=50)), max_size=20
)


@settings(max_examples=60, deadline=None)
@given(frames, st.integers(0, 20))
def test_a_segment_reads_back_as_written(
    tmp_path_factory: pytest.TempPathFactory,
    given_frames: list[tuple[int, int, bytes]],
    singly: int,
) -> None:
    written = spool(tmp_path_factory.mktemp("spool"))
    for frame in given_frames[:singly]:
        written.append(*frame)
    written.extend(
        [us for us, _, _ in given_frames[singly:]],
        [connection for _, connection, _ in given_frames[singly:]],
        [data for _, _, data in given_frames[singly:]],
    )
    path = written.seal()
    if not given_frames:
        assert path is None
        return
    assert path is not None
    segment = read_segment(path)
    assert segment.records == [Record(us, c, FRAME, data) for us, c, data in given_frames]
    assert (segment.number, segment.header, segment.torn_bytes) == (1, HEADER, 0)


def test_wherever_a_kill_cuts_the_file_whole_records_are_read(tmp_path: Path) -> None:
    written = spool(tmp_path)
    ends = []
    for place in range(5):
        written.append(place, 0, b"frame %d" % place)
        written.flush()
        ends.append(written.bytes_kept)
    path = tmp_path / "000000000001.open"
    whole = path.read_bytes()
    start = len(whole) - ends[-1] + ends[0] - (ends[1] - ends[0])
    for cut in range(start, len(whole) + 1):
        path.write_bytes(whole[:cut])
        segment = read_segment(path)
        assert len(segment.records) == sum(end <= cut for end in ends)
        assert segment.torn_bytes == cut - max([start, *(e for e in ends if e <= cut)])
    for cut in range(start):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadDataError, match="SPOOL_CORRUPT"):
            read_segment(path)


def test_a_flipped_bit_ends_the_segment_there_and_is_told(tmp_path: Path) -> None:
    written = spool(tmp_path)
    for place in range(3):
        written.append(place, 0, b"x" * 10)
        written.flush()
    path = written.seal()
    assert path is not None
    data = bytearray(path.read_bytes())
    data[-15] ^= 1
    path.write_bytes(data)
    segment = read_segment(path)
    assert len(segment.records) == 2
    assert segment.torn_bytes > 0


def test_who_comes_next_finds_what_was_left_and_writes_behind_it(tmp_path: Path) -> None:
    first = spool(tmp_path)
    first.append(1, 0, b"a")
    sealed = first.seal()
    first.append(2, 0, b"b")
    first.flush()  # and is killed
    second = spool(tmp_path)
    assert [path.name for _, path in list_segments(tmp_path)] == [
        "000000000001.seg",
        "000000000002.open",
    ]
    second.append(3, 0, b"c")
    path = second.seal()
    assert path is not None
    assert path.name == "000000000003.seg"
    assert sealed is not None
    before = second.bytes_kept
    second.acknowledge(sealed)
    assert second.bytes_kept < before
    assert not sealed.exists()
    # A number is never used again, whatever was deleted.
    for _, rest in list_segments(tmp_path):
        rest.unlink()
    third = spool(tmp_path, number_from=4)
    third.append(4, 0, b"d")
    path = third.seal()
    assert path is not None
    assert path.name == "000000000004.seg"


def test_what_has_no_room_is_lost_and_the_loss_is_marked(tmp_path: Path) -> None:
    written = spool(tmp_path, bytes_max=400)
    written.append(10, 1, b"x" * 200)
    assert written.flush()
    for time in (20, 30):
        written.append(time, 1, b"y" * 200)
        assert not written.flush()
    sealed = written.seal()
    assert sealed is not None
    written.acknowledge(sealed)
    written.append(40, 1, b"z")
    assert written.flush()
    path = written.seal()
    assert path is not None
    frame, mark = read_segment(path).records
    assert (frame.data, mark.kind) == (b"z", MARK)
    assert mark.data.startswith(b"lost 2 frames from 20 to ")
    assert written.lost_total == 2


def test_a_loss_is_told_where_the_segment_ends_with_it(tmp_path: Path) -> None:
    """Nobody may write another one."""
    written = spool(tmp_path, bytes_max=400)
    written.append(1, 0, b"x" * 500)
    assert not written.flush()
    written.append(2, 0, b"kept")
    path = written.seal()
    assert path is not None
    _, mark = read_segment(path).records
    assert (mark.kind, mark.data.split(b" from ")[0]) == (MARK, b"lost 1 frames")


@pytest.mark.parametrize("begun", [True, False])
def test_a_full_disk_is_a_loss_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    written = spool(tmp_path)
    if begun:
        written.append(1, 0, b"kept")
        written.flush()
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 8 or data[:5] == b"LHSP1":
            return write(file, data[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    written.append(2, 0, b"lost")
    assert not written.flush()
    monkeypatch.undo()
    written.append(3, 0, b"kept again")
    assert written.flush()
    path = written.seal()
    assert path is not None
    segment = read_segment(path)
    assert [r.data for r in segment.records if r.kind == FRAME] == [
        *([b"kept"] if begun else []),
        b"kept again",
    ]
    assert sum(r.kind == MARK for r in segment.records) == 1
    assert segment.torn_bytes == 0
