"""Records of a segment, sorted out: events by their stream, snapshots, marks, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lakehouse_ray.errors import BadDataError, InvalidError
from lakehouse_ray.model.timespan import DAY_US, format_time
from lakehouse_ray.silver.stream_series import Arrivals, times_of
from lakehouse_ray.sources.binance.streams.decode import Control, FrameReader, frame_head
from lakehouse_ray.sources.binance.streams.events import Event, Snapshot
from lakehouse_ray.sources.binance.streams.names import KINDS, Kind, Stream
from lakehouse_ray.sources.binance.streams.rows import event_frame
from lakehouse_ray.storage.records import FRAME, MARK, Records

# Answers of REST's /depth among the frames: the symbol, a line feed, the body.
SNAPSHOT = 2
# What happens later than this behind its receipt has a wrong time: no clock is that wrong.
_AHEAD_MAX_US = DAY_US
# Of so many frames, or fewer, of which one is not as the exchange writes them, each is read by itself.
_SINGLE_MAX = 16
# So many at a time: objects of more do not stay in the processor's cache.
_FRAMES_AT_ONCE = 1_024

Places = npt.NDArray[np.int64]


class Refused(NamedTuple):
    """A record that is refused. place: In the segment, from 0."""

    place: int
    reason: str
    detail: str


@dataclass
class Said:
    """What records say. arrivals: By the name of the stream. snapshots: By symbol. marks: By time."""

    arrivals: dict[str, Arrivals] = field(default_factory=dict)
    snapshots: dict[str, list[Snapshot]] = field(default_factory=dict)
    marks: list[tuple[int, str]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def sort_out(records: Records, reader: FrameReader) -> Said:
    """Read all records; none is passed over. `refused` comes in their order."""
    said = Said()
    for place in np.flatnonzero(records.kind != FRAME).tolist():
        record = records[place]
        if record.kind == MARK:
            said.marks.append((record.received_us, record.data.decode(errors="replace")))
        else:
            _take_snapshot(record.data, place, said)
    streams = sorted(reader.streams, key=lambda stream: KINDS.index(stream.kind))
    codes = _codes(records.frames, streams)
    codes[records.kind != FRAME] = -1
    places = np.flatnonzero(codes >= 0)
    places = places[np.argsort(codes[places], kind="stable")]
    singly = [np.flatnonzero((codes < 0) & (records.kind == FRAME))]
    kinds = np.array([KINDS.index(stream.kind) for stream in streams], np.int64)
    for kind, of_kind in _grouped(kinds[codes[places]], places):
        arrived, others = _read(reader, KINDS[kind], records, of_kind, streams, codes)
        singly.append(others)
        start = 0
        for code, of_stream in _grouped(codes[arrived.record], arrived.record):
            end = start + len(of_stream)
            said.arrivals[streams[code].name] = arrived[start:end]
            start = end
    _read_singly(records, np.sort(np.concatenate(singly)), reader, said)
    said.refused.sort()
    return said


def none_of(kind: Kind) -> Arrivals:
    return _arrivals(kind, [], np.empty(0, np.int64), np.empty(0, np.int64))


def _arrivals(kind: Kind, events: Sequence[Event], received_us: Places, record: Places) -> Arrivals:
    changes = np.empty(len(events) if kind == "depth" else 0, np.object_)
    if kind == "depth":
        changes[:] = events
    return Arrivals(event_frame(kind, events), received_us, record, changes)


def _codes(frames: pa.LargeBinaryArray, streams: list[Stream]) -> Places:
    """For each frame the place of its stream, as its beginning names it; -1: it has to be looked at.

    What has a place is `frame_head` of the stream, then what may be an object, then a brace.
    """
    known = {stream.name: place for place, stream in enumerate(streams)}
    if not known:
        return np.full(len(frames), -1, np.int64)
    texts = _texts(frames)
    names = texts.str.extract(r'^\{"stream":"([^"\\]*)","data":\{')
    whole = names.replace_strict(known, default=-1, return_dtype=pl.Int64).fill_null(-1)
    codes = whole.to_numpy(writable=True)
    codes[~texts.str.ends_with("}}").fill_null(False).to_numpy()] = -1
    return codes


def _texts(frames: pa.LargeBinaryArray) -> pl.Series:
    """Frames as texts; null where the bytes are none."""
    data = pl.Series(pl.from_arrow(frames))
    try:
        return data.cast(pl.String)
    except pl.exceptions.ComputeError:
        # One frame is enough for that, also where nulls are allowed (strict=False).
        return pl.Series([_text(frame) for frame in data], dtype=pl.String)


def _text(frame: bytes) -> str | None:
    try:
        return frame.decode()
    except UnicodeDecodeError:
        return None


def _grouped(codes: Places, values: Places) -> Iterator[tuple[int, Places]]:
    """Values by their code; equal codes stand side by side."""
    if not len(codes):
        return
    starts = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    for start, end in itertools.pairwise(starts):
        yield int(codes[start]), values[start:end]


def _read(
    reader: FrameReader,
    kind: Kind,
    records: Records,
    places: Places,
    streams: list[Stream],
    codes: Places,
) -> tuple[Arrivals, Places]:
    """Events of frames of one kind, and places of those that are to be read one by one."""
    parts: list[Arrivals] = []
    others: list[Places] = [np.empty(0, np.int64)]
    symbols = pl.Series("symbol", [stream.symbol for stream in streams], pl.String)
    heads = np.array([len(frame_head(stream)) for stream in streams], np.int64)
    intervals = pl.Series("interval", [stream.interval for stream in streams], pl.String)

    def read(some: Places) -> None:
        """Halves what cannot be read at once, until what is wrong stands nearly alone."""
        part = _read_part(reader, kind, records, some, heads[codes[some]])
        if part is not None and part.events["symbol"].equals(symbols.gather(codes[some])):
            told = part.events["interval"] if kind == "kline" else None
            if told is None or told.equals(intervals.gather(codes[some])):
                ahead = times_of(kind, part.events) > part.received_us + _AHEAD_MAX_US
                if kind == "depth":
                    # One that ends before it begins is refused by itself.
                    ahead |= (part.events["before"] >= part.events["last"]).to_numpy()
                others.append(some[ahead])
                parts.append(part[~ahead] if ahead.any() else part)
                return
        if len(some) <= _SINGLE_MAX:
            others.append(some)
            return
        read(some[: len(some) // 2])
        read(some[len(some) // 2 :])

    for start in range(0, len(places), _FRAMES_AT_ONCE):
        read(places[start : start + _FRAMES_AT_ONCE])
    if not parts:
        return none_of(kind), np.concatenate(others)
    whole = Arrivals(
        pl.concat([part.events for part in parts]),
        np.concatenate([part.received_us for part in parts]),
        np.concatenate([part.record for part in parts]),
        np.concatenate([part.changes for part in parts]),
    )
    return whole, np.concatenate(others)


def _read_part(
    reader: FrameReader, kind: Kind, records: Records, places: Places, heads: Places
) -> Arrivals | None:
    """heads: Bytes before the event of each."""
    events = reader.read_many(kind, records.data_of(places, heads, drop=1))
    if events is None:
        return None
    try:
        return _arrivals(kind, events, records.received_us[places], places)
    except InvalidError:
        # A bar of an interval that there is not.
        return None


def _read_singly(records: Records, places: Places, reader: FrameReader, said: Said) -> None:
    found: dict[str, tuple[Kind, list[Event], list[int]]] = {}
    for place in places.tolist():
        try:
            read = reader.read(records[place].data)
        except BadDataError as error:
            said.refused.append(Refused(place, error.reason, error.detail))
            continue
        if not isinstance(read, Control):
            mine = found.setdefault(read.stream.name, (read.stream.kind, [], []))
            mine[1].append(read.event)
            mine[2].append(place)
    for name, (kind, events, at) in found.items():
        came = np.array(at, np.int64)
        arrived = _arrivals(kind, events, records.received_us[came], came)
        times = times_of(kind, arrived.events)
        ahead = times > arrived.received_us + _AHEAD_MAX_US
        for place, us in zip(came[ahead].tolist(), times[ahead].tolist(), strict=True):
            detail = f"it says {format_time(us)}: more than a day after its receipt"
            said.refused.append(Refused(place, "OUTSIDE_PERIOD", detail))
        if not ahead.all():
            _add(said, name, arrived[~ahead])


def _add(said: Said, name: str, arrived: Arrivals) -> None:
    """Add what came of a stream; parts of it may have been read in different ways."""
    known = said.arrivals.get(name)
    if known is None:
        said.arrivals[name] = arrived
        return
    both = known + arrived
    order = np.argsort(both.record)
    said.arrivals[name] = both if (order[1:] > order[:-1]).all() else both[order]


def _take_snapshot(data: bytes, place: int, said: Said) -> None:
    symbol, _, answer = data.partition(b"\n")
    try:
        snapshot = msgspec.json.decode(answer, type=Snapshot, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        said.refused.append(Refused(place, "NOT_JSON", f"an answer of /depth: {error}"))
        return
    said.snapshots.setdefault(symbol.decode(), []).append(snapshot)
