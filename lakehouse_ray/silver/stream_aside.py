"""A segment that no rows can be made of, by a fault of ours: its frames are kept, and what its streams
may miss is said. The rest flows on.

Messages that waited for others are set aside with it: they may be what cannot be worked on. They are in
bronze twice then, and their numbers are missing as those of the segment are.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence

from lakehouse_ray.model.timespan import DAY_US, format_time
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.model.work import version_of
from lakehouse_ray.silver.stream_segment import (
    CaptureState,
    Refusal,
    SegmentWork,
    spell_records,
)
from lakehouse_ray.silver.stream_series import SeriesGap, SeriesState, has_numbers
from lakehouse_ray.sources.binance.streams.names import Stream
from lakehouse_ray.storage.records import FRAME, Record, Records

REASON = "SEGMENT_SET_ASIDE"
_WHY_CHARACTERS_MAX = 300
_MONTH_MAX_US = 31 * DAY_US


def set_aside(
    streams: Sequence[Stream],
    number: int,
    records: Sequence[Record],
    state: CaptureState,
    error: BaseException,
) -> tuple[SegmentWork, CaptureState]:
    """What is committed of a segment without looking into its frames, and the state behind it.

    streams: That it is of; empty: nobody can tell. Series with numbers go on where they were, so that
    the next message tells what is missing. Of those without, and of those of which no number was seen
    before, the segment's time is a gap of unknown size.
    """
    everything = Records.of(state.carried) + Records.of(records)
    first_us, received_us = int(everything.received_us[0]), int(everything.received_us[-1])
    why = _spoken(error)
    losses = []
    try:
        body = spell_records(everything)
    except Exception as unspelled:  # noqa: BLE001 - told as a loss; the file on the disk has them
        body = gzip.compress(b"", mtime=0)
        losses.append(f"bronze has no frames of segment {number}: {_spoken(unspelled)}")
    sha256 = hashlib.sha256(body).hexdigest()
    work = SegmentWork(
        number, body, sha256, version_of(format_time(received_us), sha256), received_us
    )
    work.losses = losses
    frames = int((everything.kind == FRAME).sum())
    work.set_aside = f"no rows could be made of {frames:,} frames: {why}"
    work.refusals = [Refusal("*", "", None, REASON, work.set_aside, "")]
    work.refused = 1
    for stream in streams:
        known = state.series.get(stream.name, SeriesState())
        if has_numbers(stream) and known.last is not None:
            continue
        start_us = known.last_time_us or first_us - _length_us(stream)
        gap = SeriesGap(None, None, start_us, max(start_us, received_us), None, received_us)
        work.gaps.append((stream, gap, f"segment {number} was set aside: {why}"))
    return work, CaptureState(number, dict(state.series))


def _length_us(stream: Stream) -> int:
    """How long before it was received a message's row may begin: a bar is told at its end."""
    if stream.interval is None:
        return 0
    return INTERVALS[stream.interval] or _MONTH_MAX_US


def _spoken(error: BaseException) -> str:
    told = f"{type(error).__name__}: {error}"[:_WHY_CHARACTERS_MAX]
    return "".join(letter if letter.isprintable() else "�" for letter in told)
