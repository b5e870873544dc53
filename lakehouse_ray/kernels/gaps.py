"""Find where rows are missing in a series, by its rhythm.

A series comes in pieces in order, each with what the one before left behind, so memory is bounded
by a piece: a piece of n rows takes about 50 n bytes.

Times are exact: all arithmetic is on 64-bit microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_ray.model.rhythm import About, Grid, Ids, Months, OwnHours, Rhythm
from lakehouse_ray.model.timespan import HOUR_US, TimeRange, month_of, month_ordinal

_TIME = pl.Datetime("us", "UTC")
SPANS = pl.Schema({"start_time": _TIME, "end_time": _TIME, "missing": pl.Int64()})

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Carry:
    """What a piece leaves for the next one: its last row.

    own: Its own hours or id, where the rhythm has such a column; else 0.
    anchor_us: Where slots are counted from.
    """

    last_us: int
    own: int
    anchor_us: int


@dataclass(frozen=True)
class Scan:
    """A whole series read. first, last: None where it has no rows."""

    gaps: pl.DataFrame
    first: Carry | None
    last: Carry | None
    rows: int


def own_column(rhythm: Rhythm) -> str | None:
    """The column that a rhythm needs besides the time."""
    return rhythm.column if isinstance(rhythm, OwnHours | Ids) else None


def scan(rhythm: Rhythm, pieces: Iterable[pl.DataFrame]) -> Scan:
    """Find all gaps of a series that comes in pieces, in order."""
    found: list[pl.DataFrame] = []
    first: Carry | None = None
    last: Carry | None = None
    rows = 0
    for piece in pieces:
        if piece.is_empty():
            continue
        if first is None:
            first = _row(rhythm, piece, 0, None)
        gaps, last = find_gaps(rhythm, piece, last)
        rows += piece.height
        if gaps.height:
            found.append(gaps)
    return Scan(_joined(pl.concat(found)) if found else SPANS.to_frame(), first, last, rows)


def scan_symbols(rhythm: Rhythm, pieces: Iterable[pl.DataFrame]) -> dict[str, Scan]:
    """The same for many symbols at once.

    pieces: As `find_gaps` takes them, with `symbol` before: the rows of a symbol stand together, in
        one piece or in neighbouring ones.
    """
    begun: dict[str, list[pl.DataFrame]] = {}
    ends: dict[str, tuple[Carry, Carry | None, int]] = {}
    for piece in pieces:
        at = 0
        runs = piece["symbol"].rle().struct.unnest()
        for length, symbol in runs.select("len", "value").iter_rows():
            rows = piece.slice(at, length)
            at += length
            first, last, count = ends.get(symbol) or (_row(rhythm, rows, 0, None), None, 0)
            gaps, carry = find_gaps(rhythm, rows, last)
            ends[symbol] = first, carry, count + length
            begun.setdefault(symbol, []).append(gaps)
    return {
        symbol: Scan(_joined(pl.concat(begun[symbol])), first, last, rows)
        for symbol, (first, last, rows) in ends.items()
    }


def find_gaps(
    rhythm: Rhythm, piece: pl.DataFrame, carry: Carry | None = None
) -> tuple[pl.DataFrame, Carry | None]:
    """Return the gaps of a piece, also that between the piece before and this one, and a new carry.

    piece: `time` (UTC, microseconds, not decreasing), and `own` where the rhythm has a column of its
        own: the hours of `OwnHours`, the ids of `Ids` (then rows are in order of day and id). More
        than one row may have one time. A run of ids without a hole may come as one row, with
        `until` and `own_until`, the time and the id of its last one.

    Returns gaps as `[start_time, end_time)`, on slots of the rhythm, and how many rows are missing
    in each. Of ids, a gap lies between the two rows around the jump.
    """
    if piece.is_empty():
        return SPANS.to_frame(), carry
    end = _row(rhythm, piece, piece.height - 1, carry)
    times, own = _columns(rhythm, piece, "time", "own", carry)
    if isinstance(rhythm, Grid):
        found = _grid(times, rhythm.step_us, end.anchor_us)
    elif isinstance(rhythm, Months):
        found = _months(times)
    elif isinstance(rhythm, OwnHours):
        found = _own_hours(times, own)
    elif isinstance(rhythm, About):
        found = _about(times, rhythm)
    else:
        found = _ids(times, own, *_columns(rhythm, piece, _until(piece), "own_until", carry))
    return _frame(*found), end


def hole(rhythm: Rhythm, start_us: int, end_us: int, near: Carry) -> pl.DataFrame:
    """Return the slots that begin in `[start, end)` as one gap; empty where there is none.

    near: A row of the series, from which slots are counted.
    """
    if isinstance(rhythm, Ids) or start_us >= end_us:
        return SPANS.to_frame()
    if isinstance(rhythm, Months):
        months = [
            month
            for month in range(month_ordinal(start_us), month_ordinal(end_us - 1) + 1)
            if month_of(month).start_us >= start_us
        ]
        if not months:
            return SPANS.to_frame()
        begin, end = month_of(months[0]).start_us, month_of(months[-1]).end_us
        return _frame(np.array([begin]), np.array([end]), np.array([len(months)]))
    if isinstance(rhythm, About):
        if end_us - start_us <= rhythm.step_us + rhythm.tolerance_us:
            return SPANS.to_frame()
        missing = (end_us - start_us) // rhythm.step_us
        return _frame(np.array([start_us]), np.array([end_us]), np.array([missing]))
    step, anchor = _step_and_anchor(rhythm, near)
    first, end = -((anchor - start_us) // step), -((anchor - end_us) // step)
    if first >= end:
        return SPANS.to_frame()
    begin = anchor + first * step
    return _frame(np.array([begin]), np.array([anchor + end * step]), np.array([end - first]))


def slot(rhythm: Rhythm, row: Carry) -> TimeRange:
    """The slot in which a row lies; of ids, the moment itself."""
    if isinstance(rhythm, Months):
        return month_of(month_ordinal(row.last_us))
    if isinstance(rhythm, About):
        return TimeRange(row.last_us, row.last_us + rhythm.step_us)
    if isinstance(rhythm, Ids):
        return TimeRange(row.last_us, row.last_us + 1)
    step, anchor = _step_and_anchor(rhythm, row)
    begin = anchor + (row.last_us - anchor) // step * step
    return TimeRange(begin, begin + step)


def edges(rhythm: Rhythm, found: Scan, span: TimeRange) -> pl.DataFrame:
    """Return what is missing between the ends of a range and the first and last row in it.

    A gap each, before and after; a series without rows in the range cannot say, so it has none.
    """
    if found.first is None or found.last is None:
        return SPANS.to_frame()
    first, last = slot(rhythm, found.first), slot(rhythm, found.last)
    before = hole(rhythm, span.start_us, first.start_us, found.first)
    after = hole(rhythm, last.end_us, span.end_us, found.last)
    return pl.concat([before, after])


def _step_and_anchor(rhythm: Grid | OwnHours, near: Carry) -> tuple[int, int]:
    if isinstance(rhythm, Grid):
        return rhythm.step_us, near.anchor_us
    # Slots of hours begin at the full hour of the row; its jitter lies past it.
    return max(1, near.own) * HOUR_US, near.last_us // HOUR_US * HOUR_US


def _row(rhythm: Rhythm, piece: pl.DataFrame, at: int, carry: Carry | None) -> Carry:
    time = int(piece[_until(piece)].dt.epoch("us")[at])
    name = "own_until" if "own_until" in piece.columns else "own"
    own = int(piece[name][at]) if own_column(rhythm) else 0
    if carry is not None:
        return Carry(time, own, carry.anchor_us)
    anchor = rhythm.anchor_us if isinstance(rhythm, Grid) else 0
    return Carry(time, own, int(piece["time"].dt.epoch("us")[0]) if anchor is None else anchor)


def _until(piece: pl.DataFrame) -> str:
    return "until" if "until" in piece.columns else "time"


def _columns(
    rhythm: Rhythm, piece: pl.DataFrame, time: str, own: str, carry: Carry | None
) -> tuple[_Ints, _Ints]:
    """Times and own values, those of the row before the piece in front."""
    times = piece[time].dt.epoch("us").to_numpy()
    name = own if own in piece.columns else "own"
    values = piece[name].cast(pl.Int64).to_numpy() if own_column(rhythm) else np.zeros_like(times)
    if carry is None:
        return times, values
    return np.concatenate(([carry.last_us], times)), np.concatenate(([carry.own], values))


_Found = tuple[_Ints, _Ints, _Ints]


def _grid(times: _Ints, step: int, anchor: int) -> _Found:
    # Only rows further apart than a slot can leave one empty, so few are divided.
    near = np.flatnonzero(np.diff(times) > step)
    before, after = (times[near] - anchor) // step, (times[near + 1] - anchor) // step
    empty = after - before > 1
    before, after = before[empty], after[empty]
    return anchor + (before + 1) * step, anchor + after * step, after - before - 1


def _months(times: _Ints) -> _Found:
    months = np.array([month_ordinal(int(time)) for time in times], dtype=np.int64)
    jumps = np.diff(months)
    at = np.flatnonzero(jumps > 1)
    starts = [month_of(int(month) + 1).start_us for month in months[at]]
    ends = [month_of(int(month)).start_us for month in months[at + 1]]
    return np.array(starts, np.int64), np.array(ends, np.int64), jumps[at] - 1


def _own_hours(times: _Ints, hours: _Ints) -> _Found:
    at_hour = times // HOUR_US
    step = np.maximum(np.maximum(hours[:-1], hours[1:]), 1)
    apart = np.diff(at_hour)
    at = np.flatnonzero(apart > step)
    starts = (at_hour[at] + step[at]) * HOUR_US
    return starts, at_hour[at + 1] * HOUR_US, (apart[at] - 1) // step[at]


def _about(times: _Ints, rhythm: About) -> _Found:
    apart = np.diff(times)
    at = np.flatnonzero(apart > rhythm.step_us + rhythm.tolerance_us)
    missing = (apart[at] + rhythm.step_us // 2) // rhythm.step_us - 1
    return times[at] + rhythm.step_us, times[at + 1], missing


def _ids(times: _Ints, ids: _Ints, until: _Ints, ids_until: _Ints) -> _Found:
    jumps = ids[1:] - ids_until[:-1]
    # Ids that begin again belong to another contract, or to the next day.
    at = np.flatnonzero(jumps > 1)
    starts = np.minimum(until[at], times[at + 1])
    ends = np.maximum(np.maximum(until[at], times[at + 1]), starts + 1)
    return starts, ends, jumps[at] - 1


def _frame(starts: _Ints, ends: _Ints, missing: _Ints) -> pl.DataFrame:
    plain = pl.DataFrame({"start_time": starts, "end_time": ends, "missing": missing})
    return plain.cast(pl.Int64).cast(SPANS)


def _joined(gaps: pl.DataFrame) -> pl.DataFrame:
    """Gaps that begin at one moment (jumps of ids within a millisecond) are one."""
    if gaps["start_time"].is_unique().all():
        return gaps
    return (
        gaps.group_by("start_time", maintain_order=True)
        .agg(pl.col("end_time").max(), pl.col("missing").sum())
        .select(SPANS.names())
    )
