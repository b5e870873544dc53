"""Find where rows are missing in a series, by its rhythm.

A series comes in pieces in order, each with what the one before left behind, so memory is bounded
by a piece: a piece of n rows takes about 50 n bytes.

Times are exact: all arithmetic is on 64-bit microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


Ends = tuple[Carry, Carry]


@dataclass(frozen=True)
class Scans:
    """The series of many symbols read.

    gaps: `symbol` and `SPANS`, symbol by symbol.
    ends: The first and the last row of each symbol that has any.
    """

    gaps: pl.DataFrame
    ends: Mapping[str, Ends]


def own_column(rhythm: Rhythm) -> str | None:
    """The column that a rhythm needs besides the time."""
    return rhythm.column if isinstance(rhythm, OwnHours | Ids) else None


def scan_symbols(rhythm: Rhythm, pieces: Iterable[pl.DataFrame]) -> Scans:
    """Find all gaps of series that come in pieces.

    pieces: As `find_gaps` takes them, with `symbol` before: the rows of a symbol stand together, in
        order, in one piece or in neighbouring ones.
    """
    found = [pl.DataFrame(schema={"symbol": pl.String(), **SPANS})]
    ends: dict[str, Ends] = {}
    before: str | None = None
    for piece in pieces:
        if piece.is_empty():
            continue
        runs = piece["symbol"].rle().struct.unnest()
        symbols, lengths = runs["value"], runs["len"].to_numpy().astype(np.int64)
        stops = np.cumsum(lengths)
        # The last row of the piece before stands in front of those of the same symbol.
        carry = ends[symbols[0]][1] if before == symbols[0] else None
        firsts = _rows(rhythm, piece, stops - lengths, [carry])
        lasts = _rows(rhythm, piece, stops - 1, firsts)
        for symbol, first, last in zip(symbols, firsts, lasts, strict=True):
            ends[symbol] = ends[symbol][0] if symbol in ends else first, last
        if carry is not None:
            lengths[0] += 1
        anchors = np.array([one.anchor_us for one in lasts], np.int64)
        alike = bool((anchors == anchors[0]).all())
        anchor_us = lasts[0].anchor_us if alike else np.repeat(anchors, lengths)
        at, *gaps = _jumps(rhythm, piece, carry, anchor_us)
        stops = np.cumsum(lengths)
        within = ~np.isin(at, stops - 1)
        of = symbols.gather(np.searchsorted(stops, at[within], side="right"))
        spans = _frame(*(values[within] for values in gaps))
        found.append(spans.select(of.alias("symbol"), pl.all()))
        before = symbols[-1]
    return Scans(_joined(pl.concat(found), ("symbol", "start_time")), ends)


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
    [first] = _rows(rhythm, piece, np.array([0]), [carry])
    [last] = _rows(rhythm, piece, np.array([piece.height - 1]), [first])
    _, *gaps = _jumps(rhythm, piece, carry, last.anchor_us)
    return _frame(*gaps), last


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


def edges(rhythm: Rhythm, ends: Ends, span: TimeRange) -> pl.DataFrame:
    """Return what is missing between the ends of a range and the first and last row in it.

    A gap each, before and after.
    """
    first, last = (slot(rhythm, end) for end in ends)
    before = hole(rhythm, span.start_us, first.start_us, ends[0])
    after = hole(rhythm, last.end_us, span.end_us, ends[1])
    return pl.concat([before, after])


def _step_and_anchor(rhythm: Grid | OwnHours, near: Carry) -> tuple[int, int]:
    if isinstance(rhythm, Grid):
        return rhythm.step_us, near.anchor_us
    # Slots of hours begin at the full hour of the row; its jitter lies past it.
    return max(1, near.own) * HOUR_US, near.last_us // HOUR_US * HOUR_US


def _rows(
    rhythm: Rhythm, piece: pl.DataFrame, at: _Ints, before: Sequence[Carry | None]
) -> list[Carry]:
    """Some rows of a piece. before: An earlier row of the series of each, as far as there is one."""
    until = "own_until" if "own_until" in piece.columns else "own"
    begins = piece["time"].dt.epoch("us").gather(at).to_list()
    times = piece[_until(piece)].dt.epoch("us").gather(at).to_list()
    own = piece[until].cast(pl.Int64).gather(at).to_list() if own_column(rhythm) else [0] * len(at)
    known = [*before, *[None] * (len(at) - len(before))]
    fixed = rhythm.anchor_us if isinstance(rhythm, Grid) else 0
    return [
        Carry(time, number, earlier.anchor_us if earlier else begin if fixed is None else fixed)
        for time, number, begin, earlier in zip(times, own, begins, known, strict=True)
    ]


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


# The rows before each gap by their numbers, its start, its end, and how many are missing.
_Found = tuple[_Ints, _Ints, _Ints, _Ints]


def _jumps(
    rhythm: Rhythm, piece: pl.DataFrame, carry: Carry | None, anchor_us: int | _Ints
) -> _Found:
    """Where neighbouring rows of a piece, `carry` in front of it, leave others out."""
    times, own = _columns(rhythm, piece, "time", "own", carry)
    if isinstance(rhythm, Grid):
        return _grid(times, rhythm.step_us, anchor_us)
    if isinstance(rhythm, Months):
        return _months(times)
    if isinstance(rhythm, OwnHours):
        return _own_hours(times, own)
    if isinstance(rhythm, About):
        return _about(times, rhythm)
    return _ids(times, own, *_columns(rhythm, piece, _until(piece), "own_until", carry))


def _grid(times: _Ints, step: int, anchor: int | _Ints) -> _Found:
    # Only rows further apart than a slot can leave one empty, so few are divided.
    near = np.flatnonzero(np.diff(times) > step)
    origin = anchor if isinstance(anchor, int) else anchor[near]
    before, after = (times[near] - origin) // step, (times[near + 1] - origin) // step
    empty = after - before > 1
    near, before, after = near[empty], before[empty], after[empty]
    origin = anchor if isinstance(anchor, int) else anchor[near]
    return near, origin + (before + 1) * step, origin + after * step, after - before - 1


def _months(times: _Ints) -> _Found:
    months = np.array([month_ordinal(int(time)) for time in times], dtype=np.int64)
    jumps = np.diff(months)
    at = np.flatnonzero(jumps > 1)
    starts = [month_of(int(month) + 1).start_us for month in months[at]]
    ends = [month_of(int(month)).start_us for month in months[at + 1]]
    return at, np.array(starts, np.int64), np.array(ends, np.int64), jumps[at] - 1


def _own_hours(times: _Ints, hours: _Ints) -> _Found:
    at_hour = times // HOUR_US
    step = np.maximum(np.maximum(hours[:-1], hours[1:]), 1)
    apart = np.diff(at_hour)
    at = np.flatnonzero(apart > step)
    starts = (at_hour[at] + step[at]) * HOUR_US
    return at, starts, at_hour[at + 1] * HOUR_US, (apart[at] - 1) // step[at]


def _about(times: _Ints, rhythm: About) -> _Found:
    apart = np.diff(times)
    at = np.flatnonzero(apart > rhythm.step_us + rhythm.tolerance_us)
    missing = (apart[at] + rhythm.step_us // 2) // rhythm.step_us - 1
    return at, times[at] + rhythm.step_us, times[at + 1], missing


def _ids(times: _Ints, ids: _Ints, until: _Ints, ids_until: _Ints) -> _Found:
    jumps = ids[1:] - ids_until[:-1]
    # Ids that begin again belong to another contract, or to the next day.
    at = np.flatnonzero(jumps > 1)
    starts = np.minimum(until[at], times[at + 1])
    ends = np.maximum(np.maximum(until[at], times[at + 1]), starts + 1)
    return at, starts, ends, jumps[at] - 1


def _frame(starts: _Ints, ends: _Ints, missing: _Ints) -> pl.DataFrame:
    plain = pl.DataFrame({"start_time": starts, "end_time": ends, "missing": missing})
    return plain.cast(pl.Int64).cast(SPANS)


def _joined(gaps: pl.DataFrame, key: Sequence[str] = ("start_time",)) -> pl.DataFrame:
    """Gaps of a series that begin at one moment (jumps of ids within a millisecond) are one."""
    if gaps.select(key).is_unique().all():
        return gaps
    return (
        gaps.group_by(key, maintain_order=True)
        .agg(pl.col("end_time").max(), pl.col("missing").sum())
        .select(gaps.columns)
    )
