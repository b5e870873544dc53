"""What the ledger says of earlier fills: which ranges were asked for and wholly answered."""

from __future__ import annotations

from dataclasses import replace

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.sources.rest import Rows

_ASKED = "asked for "
_IDS = "ids "


def settled_part(fill: Fill, rows: Rows, again_us: int) -> Fill | None:
    """Return the part of an answered fill that is not to be asked for again; None: there is none.

    Of what has just happened an exchange may have nothing to tell yet, or for a while. So ranges
    without a row, or with one that lacks cells, are left that were younger than `again_us` when they
    were asked for.
    """
    silences = [*rows.absent, *rows.partial]
    if rows.silent_us is not None and rows.silent_us < fill.span.end_us:
        silences.append(TimeRange(rows.silent_us, fill.span.end_us))
    recent_us = fill.asked_us - again_us
    left = [
        _again_from(one, recent_us, fill.interval) for one in silences if one.end_us > recent_us
    ]
    end_us = min(left, default=fill.span.end_us)
    if end_us <= fill.span.start_us:
        return None
    return replace(fill, span=TimeRange(fill.span.start_us, min(end_us, fill.span.end_us)))


def _again_from(silence: TimeRange, recent_us: int, interval: str | None) -> int:
    """From where on a range without rows is asked for again: of bars those that ended since."""
    start_us = silence.start_us
    if interval is None:
        return max(start_us, recent_us)
    length_us = INTERVALS[interval]
    if length_us is None:  # of months there are few
        return start_us
    return start_us + max(0, (recent_us - start_us) // length_us) * length_us


def told_asked(fill: Fill) -> str:
    """How the ledger says that all there is of a fill was had; `asked_of` or `ids_asked_of` read it."""
    if fill.ids is not None:
        return f"{_ASKED}{_IDS}{fill.ids[0]} to {fill.ids[1]}"
    return f"{_ASKED}{fill.span}"


def ids_asked_of(detail: str) -> tuple[int, int] | None:
    """First and last id that a detail of the ledger tells of; None where it tells of none."""
    if not detail.startswith(_ASKED + _IDS):
        return None
    first, _, last = detail.removeprefix(_ASKED + _IDS).partition(" to ")
    return (int(first), int(last)) if first.isdigit() and last.isdigit() else None


def asked_of(detail: str) -> TimeRange | None:
    """The range of time that a detail of the ledger tells of; None where it tells of none."""
    if not detail.startswith(_ASKED):
        return None
    start, _, end = detail[len(_ASKED) :].strip("[)").partition(", ")
    try:
        return TimeRange(parse_time(start), parse_time(end))
    except InvalidError:
        return None
