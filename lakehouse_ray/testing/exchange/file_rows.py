"""The rows of an archive's files, in memory or piece by piece.

A file that inflates to more than `WHOLE_BYTES` is never held whole: of its pieces it is remembered
which rows they have, so that the next question inflates the file up to the one it needs and parses no
other.
"""

from __future__ import annotations

import io
import threading
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from lakehouse_ray.testing.exchange.archive import Archive, Blob
from lakehouse_ray.testing.exchange.cache import BoundedCache
from lakehouse_ray.testing.exchange.keys import SHAPES, ArchiveKey, columns

# The datasets whose rows are numbered, and in which column.
ID_COLUMNS = {"trades": 0, "aggTrades": 0, "bookTicker": 0}
# Those of which there is one row at a time.
BY_TIME = (
    *(name for name, shape in SHAPES.items() if shape.by_interval), "fundingRate", "metrics",
)  # fmt: skip
WHOLE_BYTES = 32 * 2**20
PIECE_BYTES = 8 * 2**20
# Large files of whose pieces something is remembered.
_LARGE_MAX = 1024
# What Python and numpy add to the text of each line.
_LINE_BYTES = 65
# What zipfile raises of what is no zip, ends early, is packed or locked in some other way.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)
# Rows that are made at a time: most questions are for no more.
_AT_ONCE = 1024
# Times of 16 digits are microseconds, as spot has them from 2025; those of 13 are milliseconds.
_MICROS_FROM = 10**15

Ints = npt.NDArray[np.int64]


class Row(NamedTuple):
    """One row of a file.

    time_us: What places it in time (open_time, time, …), in microseconds since 1970-01-01 UTC,
        whatever the file counts in.
    cells: The file's own text, without quotes, in the order of `keys.columns(market, dataset)`.
    """

    time_us: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Lines of a file, or of a piece of one, in order of time."""

    lines: Sequence[bytes]
    times: Ints
    ids: Ints
    size_bytes: int

    def between(self, span: tuple[int, int], newest: int | None = None) -> Iterator[Row]:
        """The rows in [start, end), or only the `newest` last of them."""
        first, last = np.searchsorted(self.times, span).tolist()
        if newest is not None:
            first = max(first, last - newest)
        for start in range(first, last, _AT_ONCE):
            end = min(last, start + _AT_ONCE)
            times = self.times[start:end].tolist()
            for time_us, line in zip(times, self.lines[start:end], strict=True):
                yield Row(time_us, _cells(line))

    def from_id(self, first_id: int, span: tuple[int, int]) -> Iterator[Row]:
        wanted = (self.ids >= first_id) & (self.times >= span[0]) & (self.times < span[1])
        for at in np.flatnonzero(wanted).tolist():
            yield Row(int(self.times[at]), _cells(self.lines[at]))


@dataclass(frozen=True)
class Piece:
    """What the rows of a part of a file span. start, end: Its bytes in the inflated file."""

    start: int
    end: int
    rows: int
    first_us: int
    last_us: int
    last_id: int

    @classmethod
    def of(cls, start: int, end: int, table: Table) -> Piece:
        rows = len(table.lines)
        if not rows:
            return cls(start, end, 0, 2**62, -1, -1)
        last_id = int(table.ids.max()) if len(table.ids) else -1
        return cls(start, end, rows, int(table.times[0]), int(table.times[-1]), last_id)

    def meets(self, start_us: int, end_us: int) -> bool:
        return self.last_us >= start_us and self.first_us < end_us


@dataclass
class _Large:
    """The pieces of a large file as far as it was read."""

    version: Hashable
    pieces: list[Piece] = field(default_factory=list)
    complete: bool = False


class FileRows:
    """Reads files of an archive. Safe to use from several threads.

    cache_bytes_max: For the files and pieces that were asked for last.
    """

    def __init__(self, archive: Archive, cache_bytes_max: int) -> None:
        self._archive = archive
        self._tables: BoundedCache[Table] = BoundedCache(cache_bytes_max)
        self._large: dict[str, _Large] = {}
        self._lock = threading.Lock()

    def tables(self, key: ArchiveKey, wanted: Callable[[Piece], bool]) -> Iterator[Table]:
        """Yield the rows of a file: all of a small one, the pieces of a large one that are wanted.

        Nothing of a file that is not there or cannot be read.
        """
        name = str(key)
        version = self._archive.version(name)
        if version is None:
            return
        table = self._tables.get(name, version)
        if table is not None:
            yield table
            return
        blob = self._archive.read(name)
        if blob is None:
            return
        try:
            with zipfile.ZipFile(_source(blob)) as opened:
                member = _member(opened)
                if member is None:
                    return
                with opened.open(member) as file:
                    if member.file_size > WHOLE_BYTES:
                        yield from self._pieces(file, key, version, wanted)
                        return
                    table = _parse(file.read(), key)
        except _UNREADABLE:
            return
        self._tables.put(name, version, table, table.size_bytes)
        yield table

    def newest(self, key: ArchiveKey, count: int, end_us: int) -> Iterator[Table]:
        """Yield what has the last `count` rows before a time; of a large file no more than that."""
        for table in self.tables(key, lambda piece: False):  # a small file has no pieces
            yield table
            return
        with self._lock:
            large = self._large.get(str(key))
            pieces = list(large.pieces) if large is not None else []
        chosen, rows = set(), 0
        for piece in reversed(pieces):
            if piece.first_us < end_us and rows < count:
                chosen.add(piece.start)
                rows += piece.rows if piece.last_us < end_us else 0
        yield from self.tables(key, lambda piece: piece.start in chosen)

    def _pieces(
        self, file: IO[bytes], key: ArchiveKey, version: Hashable, wanted: Callable[[Piece], bool]
    ) -> Iterator[Table]:
        name = str(key)
        large = self._known(name, version)
        number = 0
        while number < len(large.pieces) or not large.complete:
            cached = f"{name}#{number}"
            if number < len(large.pieces):
                piece = large.pieces[number]
                table = self._tables.get(cached, version) if wanted(piece) else None
                if table is None and wanted(piece):
                    file.seek(piece.start)
                    table = _parse(file.read(piece.end - piece.start), key)
                    self._tables.put(cached, version, table, table.size_bytes)
            else:
                start = large.pieces[-1].end if large.pieces else 0
                file.seek(start)
                text = file.read(PIECE_BYTES) + file.readline()
                if not text:
                    large.complete = True
                    return
                table = _parse(text, key)
                piece = Piece.of(start, start + len(text), table)
                self._tables.put(cached, version, table, table.size_bytes)
                with self._lock:
                    if number == len(large.pieces):
                        large.pieces.append(piece)
            if table is not None and wanted(piece):
                yield table
            number += 1

    def _known(self, name: str, version: Hashable) -> _Large:
        with self._lock:
            large = self._large.get(name)
            if large is None or large.version != version:
                if len(self._large) >= _LARGE_MAX:
                    self._large.clear()
                large = self._large[name] = _Large(version)
            return large


def micros(text: str) -> int | None:
    """A time as files spell it, in microseconds; None where it is none."""
    if text.isascii() and text.isdigit() and len(text) < 18:
        value = int(text)
        return value if value >= _MICROS_FROM else value * 1000
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000


def _source(blob: Blob) -> IO[bytes] | str:
    return io.BytesIO(blob.body) if blob.file is None else str(blob.file)


def _member(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    """The file in a zip, beside which macOS may have left another."""
    found = (one for one in archive.infolist() if not one.filename.startswith("__MACOSX/"))
    return next(found, None)


def _parse(text: bytes, key: ArchiveKey) -> Table:
    shape = SHAPES[key.dataset]
    width = len(columns(key.market, key.dataset))
    id_column = ID_COLUMNS.get(key.dataset)
    lines, times, ids = [], [], []
    for line in text.splitlines():
        cells = _cells(line)
        if len(cells) != width:
            continue
        time_us = micros(cells[shape.time_column])
        if time_us is None:  # a header
            continue
        if id_column is not None:
            if not (cells[id_column].isascii() and cells[id_column].isdigit()):
                continue
            ids.append(int(cells[id_column]))
        lines.append(line)
        times.append(time_us)
    order = _order(np.array(times, np.int64), np.array(ids, np.int64), key.dataset)
    return Table(
        [lines[at] for at in order],
        np.array([times[at] for at in order], np.int64),
        np.array([ids[at] for at in order] if ids else [], np.int64),
        len(text) + len(lines) * _LINE_BYTES,
    )


def _order(times: Ints, ids: Ints, dataset: str) -> list[int]:
    """The places of the lines in order of time and id, without those that repeat a key."""
    order = np.lexsort((ids, times)) if len(ids) else np.argsort(times, kind="stable")
    repeated = np.zeros(len(order), bool)
    if len(ids):
        repeated[1:] = (np.diff(times[order]) == 0) & (np.diff(ids[order]) == 0)
    elif dataset in BY_TIME:
        repeated[1:] = np.diff(times[order]) == 0
    places: list[int] = order[~repeated].tolist()
    return places


def _cells(line: bytes) -> tuple[str, ...]:
    text = line.decode("utf-8", "replace")
    return tuple((text.replace('"', "") if '"' in text else text).split(","))
