"""Frames on this machine's disk, from when they are received until what they say is committed.

A folder of segments, `<number>.open` while it is written and `<number>.seg` when it is whole, then
deleted by whoever has committed it. A segment is a header and records, each with a checksum:

    header   LHSP1, length, crc32; a text that says what the frames are
    record   length, crc32; number of frames; of each when it was received (µs), its connection, its
             kind and its length; the frames themselves

A record is what one `flush` has written, a twentieth of a second.

Policy of fsync: what is appended is handed to the system at every `flush`, several times a second,
so that a process that is killed loses what its socket loses with it. A segment is synced to the disk
before it is read, so that nothing is committed that a loss of power could take back.

Bounded: beyond `bytes_max`, or where the disk is full, frames are not kept. That is a loss, and the
next segment that has room says so in a mark: from when to when, and how many.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal.isal_zlib import crc32

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.storage.records import FRAME, MARK, Records

_MAGIC = b"LHSP1"
_HEADER = struct.Struct("<II")
_COUNT = struct.Struct("<I")
_FRAME = np.dtype(
    [("received_us", "<i8"), ("connection", "<u4"), ("kind", "u1"), ("length", "<u4")]
)
_NAME = re.compile(r"([0-9]{12})\.(open|seg)")
# What a system says that has no room on its disk.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Segment:
    """A segment that was read.

    torn_bytes: At its end, of a record that was not written whole; they are left out.
    """

    number: int
    header: bytes
    records: Records
    torn_bytes: int


class Spool:
    """The segments of one writer. The folder is its own.

    header: Stands at the beginning of every segment. number_from: No segment has a smaller number.
    bytes_max: Of all segments together.
    """

    def __init__(
        self, folder: Path, header: bytes, *, bytes_max: int, number_from: int = 1
    ) -> None:
        self._folder = folder
        self._header = header
        self._bytes_max = bytes_max
        folder.mkdir(parents=True, exist_ok=True)
        kept = list_segments(folder)
        self._number = max([number_from - 1, *(number for number, _ in kept)]) + 1
        self._kept_bytes = sum(path.stat().st_size for _, path in kept)
        self._file: int | None = None
        self._written = 0
        # What was appended, in columns: a list of tuples would be looked through for circles.
        self._times: list[int] = []
        self._connections: list[int] = []
        self._kinds: list[int] = []
        self._frames: list[bytes] = []
        # What could not be kept: how many frames, from when to when.
        self._lost = 0
        self._lost_from_us = self._lost_to_us = 0
        self.lost_total = 0

    @property
    def bytes_kept(self) -> int:
        """Of all segments, the one that is written included."""
        return self._kept_bytes + self._written

    @property
    def segment_bytes(self) -> int:
        """Of the segment that is written."""
        return self._written

    def append(self, received_us: int, connection: int, data: bytes, kind: int = FRAME) -> None:
        """Take a record; it is on its way to the disk with the next `flush`."""
        self._times.append(received_us)
        self._connections.append(connection)
        self._kinds.append(kind)
        self._frames.append(data)

    def extend(self, received_us: list[int], connections: list[int], frames: list[bytes]) -> None:
        """Take many frames at once."""
        self._times += received_us
        self._connections += connections
        self._kinds += [FRAME] * len(frames)
        self._frames += frames

    def flush(self) -> bool:
        """Hand over what was appended to the system. False: it was lost, there is no room."""
        if not self._frames:
            return True
        times, self._times = self._times, []
        connections, self._connections = self._connections, []
        kinds, self._kinds = self._kinds, []
        frames, self._frames = self._frames, []
        piece = _spell(times, connections, kinds, frames)
        if self.bytes_kept + len(piece) > self._bytes_max or not self._write(piece):
            if not self._lost:
                self._lost_from_us = times[0]
            self._lost += len(frames)
            self._lost_to_us = times[-1]
            self.lost_total += len(frames)
            return False
        if self._lost:
            self._tell_loss()
        return True

    def seal(self) -> Path | None:
        """End the segment that is written; return its path, None where it has no record."""
        self.flush()
        # Where there was no room and is again, the mark of the loss belongs into this segment.
        self.flush()
        if self._file is None:
            return None
        os.close(self._file)
        self._file = None
        self._kept_bytes += self._written
        self._written = 0
        path = self._folder / f"{self._number:012d}.seg"
        os.rename(self._folder / f"{self._number:012d}.open", path)
        self._number += 1
        return path

    def acknowledge(self, path: Path) -> None:
        """Delete a segment: what it says is committed."""
        size = path.stat().st_size
        path.unlink()
        self._kept_bytes -= size

    def close(self) -> None:
        """End the segment that is written, for who comes next."""
        self.seal()

    def _write(self, piece: bytes) -> bool:
        """Append to the open segment; undone where the disk is full."""
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            done = 0
            while done < len(piece):
                done += os.write(self._file, memoryview(piece)[done:])
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._undo()
            return False
        self._written += len(piece)
        return True

    def _undo(self) -> None:
        """Leave the open segment as it was before a piece that was written in part."""
        if self._file is None:
            return
        if self._written:
            os.ftruncate(self._file, self._written)
            os.lseek(self._file, self._written, os.SEEK_SET)
            return
        os.close(self._file)
        self._file = None
        (self._folder / f"{self._number:012d}.open").unlink()

    def _open(self) -> None:
        path = self._folder / f"{self._number:012d}.open"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        head = _MAGIC + _HEADER.pack(len(self._header), crc32(self._header)) + self._header
        self._written = 0
        done = 0
        while done < len(head):
            done += os.write(self._file, memoryview(head)[done:])
        self._written = len(head)

    def _tell_loss(self) -> None:
        count, self._lost = self._lost, 0
        text = f"lost {count} frames from {self._lost_from_us} to {self._lost_to_us}: no room"
        self.append(self._lost_to_us, 0, text.encode(), MARK)


def list_segments(folder: Path) -> list[tuple[int, Path]]:
    """Numbers and paths of the segments in a folder, in order; those not ended too."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def read_segment(path: Path) -> Segment:
    """Sync a segment to the disk and read it, up to the first record that is not whole.

    Raises BadDataError (SPOOL_CORRUPT) where not even its header can be read.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        data = file.read()
    match = _NAME.fullmatch(path.name)
    assert match is not None, "a segment's name is its number"
    start = len(_MAGIC) + _HEADER.size
    if not data.startswith(_MAGIC) or len(data) < start:
        raise BadDataError("SPOOL_CORRUPT", f"{path.name} does not begin as a segment")
    length, crc = _HEADER.unpack_from(data, len(_MAGIC))
    header = data[start : start + length]
    if len(header) != length or crc32(header) != crc:
        raise BadDataError("SPOOL_CORRUPT", f"the header of {path.name} is not what was written")
    heads: list[np.ndarray] = []
    bodies: list[memoryview] = []
    place = start + length
    while (end := _read(data, place, heads, bodies)) is not None:
        place = end
    return Segment(int(match[1]), header, _records(heads, bodies), len(data) - place)


def keep_bad(path: Path) -> Path:
    """Keep a segment beside the others as `<number>.bad`, which nobody reads or deletes.

    Safe to repeat. Takes no room on the disk: it is another name of the same file.
    """
    kept, count = path.with_suffix(".bad"), 1
    while True:
        try:
            os.link(path, kept)
        except FileExistsError:
            if not kept.samefile(path):
                # Another one had this number: one that was unreadable, or the state was lost.
                count += 1
                kept = path.with_name(f"{path.stem}-{count}.bad")
                continue
        return kept


def count_bad(folder: Path) -> int:
    """How many segments are kept as bad in a folder."""
    return len(list(folder.glob("*.bad")))


def _spell(
    times: list[int], connections: list[int], kinds: list[int], frames: list[bytes]
) -> bytes:
    heads = np.empty(len(frames), _FRAME)
    heads["received_us"] = times
    heads["connection"] = connections
    heads["kind"] = kinds
    heads["length"] = list(map(len, frames))
    body = b"".join([_COUNT.pack(len(frames)), heads.tobytes(), *frames])
    return _HEADER.pack(len(body), crc32(body)) + body


def _read(data: bytes, place: int, heads: list[np.ndarray], bodies: list[memoryview]) -> int | None:
    """Add the frames of the record at a place; return where it ends, None where it is not whole."""
    start = place + _HEADER.size
    if start > len(data):
        return None
    length, crc = _HEADER.unpack_from(data, place)
    end = start + length
    if end > len(data) or length < _COUNT.size:
        return None
    if crc32(memoryview(data)[start:end]) != crc:
        return None
    (count,) = _COUNT.unpack_from(data, start)
    heads.append(np.frombuffer(data, _FRAME, count, start + _COUNT.size))
    bodies.append(memoryview(data)[start + _COUNT.size + count * _FRAME.itemsize : end])
    return int(end)


def _records(heads: list[np.ndarray], bodies: list[memoryview]) -> Records:
    every = np.concatenate(heads) if heads else np.empty(0, _FRAME)
    return Records(
        np.ascontiguousarray(every["received_us"]),
        np.ascontiguousarray(every["connection"]),
        np.ascontiguousarray(every["kind"]),
        np.cumsum(every["length"], dtype=np.int64),
        b"".join(bodies),
    )
