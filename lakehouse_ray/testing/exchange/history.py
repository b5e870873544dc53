"""The rows of an archive as the exchange's own memory: by market, data set, symbol and time.

What the routes of REST and the streams of the replica tell is read here, from the same files that
the bucket serves or from those of another archive. Numbers stay the text that the file has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import islice

import numpy as np

from lakehouse_ray.testing.exchange.archive import Archive
from lakehouse_ray.testing.exchange.file_rows import (
    BY_TIME,
    ID_COLUMNS,
    FileRows,
    Piece,
    Row,
    micros,
)
from lakehouse_ray.testing.exchange.keys import (
    FREQUENCIES,
    INTERVAL_SECONDS,
    ROOTS,
    SHAPES,
    ArchiveKey,
    seconds_of,
)

__all__ = ["ID_COLUMNS", "History", "Row", "Series", "micros"]

# Rows of these may lie in the file of the day before: metrics run from 00:05 to 00:00.
_LATE = ("metrics",)
# The largest file that is not read in pieces is less than a quarter of it, and so is remembered.
CACHE_BYTES_MAX = 384 * 2**20
# Series whose files are remembered.
_SERIES_MAX = 4096
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Series:
    """What a row belongs to. interval: Empty for data sets that have none; "1mo" for months."""

    market: str
    dataset: str
    symbol: str
    interval: str = ""


class History:
    """Reads an archive row by row. Safe to use from several threads.

    Which files there are is looked up each time, so those that come, go or change show at the next
    question. A day's own file counts where a month's has the day too. Within a file rows are
    put in order of time (and id), and of rows with the same key the first counts; lines that are no
    rows are left out, and so are zips that cannot be read.

    cache_bytes_max: For the files that were asked for last.
    """

    def __init__(self, archive: Archive, *, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._archive = archive
        self._files = FileRows(archive, cache_bytes_max)
        # What was made of the names in a series' folders, to be made anew when they change.
        self._known: dict[Series, tuple[list[list[str]], list[_Segment]]] = {}

    def markets(self) -> list[str]:
        """Those that have any file."""
        return [m for m, root in ROOTS.items() if self._archive.inhabited(f"{root}/")]

    def symbols(self, market: str, dataset: str) -> list[str]:
        """Those with a folder, in the order of their bytes."""
        return self._folders(f"{ROOTS[market]}/{{}}/{dataset}/")

    def intervals(self, market: str, dataset: str, symbol: str) -> list[str]:
        """Those with a folder, from short to long."""
        found = self._folders(f"{ROOTS[market]}/{{}}/{dataset}/{symbol}/")
        return [interval for interval in INTERVAL_SECONDS if interval in found]

    def knows(self, market: str, symbol: str) -> bool:
        """Whether there is any file of the symbol."""
        return any(
            self._archive.inhabited(f"{ROOTS[market]}/{frequency}/{dataset}/{symbol}/")
            for dataset in SHAPES
            for frequency in FREQUENCIES
        )

    def has(self, series: Series) -> bool:
        """Whether there is any file of this series."""
        return bool(self._segments(series))

    def rows(self, series: Series, start_us: int = 0, end_us: int = 2**62) -> Iterator[Row]:
        """Yield the rows in [start_us, end_us) in order of time.

        Files are opened one by one as the iterator is drained; large ones are held piece by piece.
        """
        by_time, last = series.dataset in BY_TIME, -1
        for segment in self._segments(series, start_us, end_us):
            span = segment.clip(start_us, end_us)
            for table in self._files.tables(segment.key, _meets(span)):
                for row in table.between(span):
                    if not by_time or row.time_us != last:
                        yield row
                    last = row.time_us

    def last(self, series: Series, count: int, end_us: int = 2**62) -> list[Row]:
        """The last `count` rows before `end_us`, in order of time."""
        found: deque[Row] = deque()
        for segment in reversed(self._segments(series, 0, end_us)):
            rows: deque[Row] = deque(maxlen=count + 1)
            span = segment.clip(0, end_us)
            for table in self._files.newest(segment.key, count + 1, span[1]):
                rows.extend(table.between(span, newest=count + 1))
            # A row that both files have is the earlier file's in `rows`: the same one here.
            if rows and found and series.dataset in BY_TIME and rows[-1][0] == found[0][0]:
                rows.pop()
            found.extendleft(reversed(rows))
            if len(found) >= count:
                break
        return list(islice(found, max(0, len(found) - count), None))

    def from_id(self, series: Series, first_id: int) -> Iterator[Row]:
        """Yield the rows whose id is `first_id` or more, file by file."""
        segments = self._segments(series)
        low, high = 0, len(segments)
        while low < high:  # the first file that begins after the id; the id may be in that before
            middle = (low + high) // 2
            begins = self._first_id(segments[middle])
            if begins is None:  # no rows
                del segments[middle]
                high -= 1
            elif begins >= first_id:
                high = middle
            else:
                low = middle + 1
        for segment in segments[max(0, low - 1) :]:
            for table in self._files.tables(segment.key, lambda piece: piece.last_id >= first_id):
                yield from table.from_id(first_id, segment.clip(0, 2**62))

    def span(self, series: Series) -> tuple[int, int] | None:
        """Times of the first and the last row, in microseconds; None where there is none."""
        first = next(self.rows(series), None)
        last = self.last(series, 1)
        return None if first is None or not last else (first.time_us, last[0].time_us)

    def _folders(self, form: str) -> list[str]:
        names = {
            name.removesuffix("/")
            for frequency in FREQUENCIES
            for name in self._archive.children(form.format(frequency))
            if name.endswith("/")
        }
        return sorted(names, key=str.encode)

    def _segments(self, series: Series, start_us: int = 0, end_us: int = 2**62) -> list[_Segment]:
        """The files that may have rows in the range, each with the days for which it counts."""
        late_us = _DAY_US if series.dataset in _LATE else 0
        return [
            segment
            for segment in self._every_segment(series)
            if segment.ends_us + late_us > start_us
            and segment.begins_us < end_us
            and segment.start_us < end_us
            and segment.end_us > start_us
        ]

    def _every_segment(self, series: Series) -> list[_Segment]:
        form = ArchiveKey(
            series.market, "daily", series.dataset, series.symbol, series.interval, date.min
        )
        folders = [replace(form, frequency=frequency).folder for frequency in FREQUENCIES]
        names = [self._archive.children(folder) for folder in folders]
        known = self._known.get(series)
        if known is not None and known[0] == names:
            return known[1]
        found = [
            [ArchiveKey.parse(folder + name) for name in held]
            for folder, held in zip(folders, names, strict=True)
        ]
        daily, monthly = ([key for key in keys if key is not None] for keys in found)
        days = {key.period for key in daily}
        segments = [_Segment.whole(key) for key in daily]
        for key in monthly:
            segments.extend(_runs(key, days))
        segments.sort(key=lambda segment: segment.begins_us)
        if len(self._known) >= _SERIES_MAX:
            self._known.clear()
        self._known[series] = (names, segments)
        return segments

    def _first_id(self, segment: _Segment) -> int | None:
        span = segment.clip(0, 2**62)
        for table in self._files.tables(segment.key, _meets(span)):
            first, last = np.searchsorted(table.times, span)
            if first < last:
                return int(table.ids[first])
        return None


@dataclass(frozen=True)
class _Segment:
    """A file and the range of times [start_us, end_us) for which its rows count.

    begins_us, ends_us: Of the days that are looked for in it.
    """

    key: ArchiveKey
    start_us: int
    end_us: int
    begins_us: int
    ends_us: int

    @classmethod
    def whole(cls, key: ArchiveKey) -> _Segment:
        return cls(key, 0, 2**62, _day_us(key.period), _day_us(key.end))

    def clip(self, start_us: int, end_us: int) -> tuple[int, int]:
        return max(self.start_us, start_us), min(self.end_us, end_us)


def _runs(key: ArchiveKey, days: set[date]) -> Iterator[_Segment]:
    """The runs of days of a month's file that have no file of their own."""
    day = key.period
    while day < key.end:
        first = day
        while day < key.end and day not in days:
            day += timedelta(days=1)
        if first < day:
            begins_us, ends_us = _day_us(first), _day_us(day)
            yield _Segment(key, begins_us, ends_us, begins_us, ends_us)
        day += timedelta(days=1)


def _day_us(day: date) -> int:
    return seconds_of(day) * 1_000_000


def _meets(span: tuple[int, int]) -> Callable[[Piece], bool]:
    return lambda piece: piece.meets(*span)
