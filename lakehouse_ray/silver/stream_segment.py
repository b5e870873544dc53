"""A segment of raw frames as rows, gaps and refusals, and what the next segment has to know of it.

Pure but for the books: the same segment behind the same state gives the same again, which is what a
worker that takes over from a killed one relies on. Messages that wait for others when a segment ends
are carried, byte for byte, into the next one, whose object in bronze then begins with them.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from isal import igzip

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.model.work import version_of
from lakehouse_ray.silver.stream_books import Books
from lakehouse_ray.silver.stream_frames import SNAPSHOT, none_of, sort_out
from lakehouse_ray.silver.stream_series import (
    Arrivals,
    SeriesGap,
    SeriesState,
    continue_series,
    has_numbers,
    times_of,
)
from lakehouse_ray.sources.binance.streams.decode import Control, FrameReader
from lakehouse_ray.sources.binance.streams.events import Event
from lakehouse_ray.sources.binance.streams.names import DATASET_OF, Kind, Stream, parse_stream
from lakehouse_ray.sources.binance.streams.rows import rows_in, rows_of
from lakehouse_ray.storage.records import FRAME, MARK, Record, Records

_RAW_CHARACTERS_MAX = 1_000
# Of one segment; the rest is counted in the last one's detail.
_REFUSALS_MAX = 1_000
_GZIP_LEVEL = 1


@dataclass
class CaptureState:
    """What the next segment has to know.

    segment: Number of the last one that is committed. series: By the name of the stream.
    carried: Records that have to be looked at again.
    """

    segment: int = 0
    series: dict[str, SeriesState] = field(default_factory=dict)
    carried: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Refusal:
    """A frame that was refused. line: Its record in the object, from 1; None: all of them."""

    symbol: str
    dataset: str
    line: int | None
    reason: str
    detail: str
    raw: str


@dataclass
class SegmentWork:
    """What a segment says.

    body: What bronze keeps: gzip of all records as text. rows: By data set; all columns but flags.
    set_aside: Why no rows could be made of it; empty: they could.
    """

    number: int
    body: bytes
    sha256: str
    version: str
    received_us: int
    rows: dict[str, pl.DataFrame] = field(default_factory=dict)
    gaps: list[tuple[Stream, SeriesGap, str]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    refused: int = 0
    frames: int = 0
    duplicates: int = 0
    late: int = 0
    passed: int = 0
    losses: list[str] = field(default_factory=list)
    snapshots_wanted: list[str] = field(default_factory=list)
    set_aside: str = ""


def work_segment(
    market: Market,
    streams: Sequence[Stream],
    number: int,
    records: Sequence[Record],
    state: CaptureState,
    books: Books,
    *,
    wait_us: int,
    reader: FrameReader | None = None,
) -> tuple[SegmentWork, CaptureState]:
    """Make rows of a segment, and the state behind it. `state` stays as it is."""
    everything = Records.of(state.carried) + Records.of(records)
    received_us = int(everything.received_us[-1]) if len(everything) else 0
    body = spell_records(everything)
    sha256 = hashlib.sha256(body).hexdigest()
    work = SegmentWork(
        number, body, sha256, version_of(format_time(received_us), sha256), received_us
    )
    said = sort_out(everything, reader or FrameReader(market, streams))
    for refused in said.refused:
        _refuse(work, everything[refused.place], *refused)
    work.frames = int((everything.kind[len(state.carried) :] == FRAME).sum()) - work.refused
    work.losses += [text for _, text in said.marks if text.startswith("lost ")]
    after = CaptureState(number, dict(state.series))
    work.gaps += _unheard(streams, said.marks, said.arrivals, state)
    events: dict[Kind, list[Arrivals]] = {}
    levels: list[tuple[object, ...]] = []
    carried: set[int] = set()
    for stream in streams:
        name = stream.name
        snapshots = said.snapshots.get(stream.symbol, ()) if stream.kind == "depth" else ()
        came = said.arrivals.get(name)
        if came is None:
            if not snapshots:
                continue
            came = none_of(stream.kind)
        series = continue_series(
            stream, came, state.series.get(name, SeriesState()), wait_us=wait_us, now_us=received_us
        )
        after.series[name] = series.state
        carried.update(series.waiting)
        work.duplicates += series.duplicates
        work.late += series.late
        work.gaps += [(stream, gap, _why(said.marks, gap)) for gap in series.gaps]
        if stream.kind == "depth":
            levels += books.follow(stream.symbol, series, snapshots)
        elif len(series.given):
            events.setdefault(stream.kind, []).append(series.given)
    after.carried = [everything[place] for place in sorted(carried)]
    for kind, given in events.items():
        _add_rows(work, market, kind, given, everything)
    if levels:
        _add_frame(work, market, DATASETS[DATASET_OF["depth"]], books.frame(levels))
    work.snapshots_wanted = books.waiting
    return work, after


def spell_records(records: Records) -> bytes:
    """What bronze keeps of records: gzip of a line of text before each, which tells its bytes.

    <received at, µs> <connection> <frame|mark|snapshot> <bytes>
    """
    frames = records.frames
    kinds = pa.array([b"frame", b"mark", b"snapshot"]).take(pa.array(records.kind))
    lengths = pc.binary_length(frames).to_numpy()
    text, space = pa.large_binary(), pa.scalar(b" ", pa.large_binary())
    lines = pc.binary_join_element_wise(
        pc.binary_join_element_wise(
            *(_spelled(numbers) for numbers in (records.received_us, records.connection)),
            kinds.cast(text),
            _spelled(lengths),
            space,
        ),
        frames,
        pa.scalar(b"", text),
        pa.scalar(b"\n", text),
    )
    whole = lines.buffers()[2] or b""
    return bytes(igzip.compress(whole, compresslevel=_GZIP_LEVEL, mtime=0))


def _spelled(numbers: npt.NDArray[np.integer[Any]]) -> pa.LargeBinaryArray:
    return pc.cast(pa.array(numbers), pa.large_string()).cast(pa.large_binary())


def read_records(body: bytes) -> list[Record]:
    """What `spell_records` has spelled. Raises BadDataError for anything else."""
    kinds = {b"frame": FRAME, b"mark": MARK, b"snapshot": SNAPSHOT}
    records: list[Record] = []
    try:
        text = gzip.decompress(body)
        place = 0
        while place < len(text):
            end = text.index(b"\n", place)
            received_us, connection, kind, length = text[place:end].split(b" ")
            data = text[end + 1 : end + 1 + int(length)]
            place = end + 2 + int(length)
            if place > len(text):
                raise ValueError("the last record is cut")
            records.append(Record(int(received_us), int(connection), kinds[kind], data))
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise BadDataError("NOT_A_CAPTURE", f"no object of captured frames: {error}") from error
    return records


def rows_again(market: Market, records: Sequence[Record], version: str) -> dict[str, pl.DataFrame]:
    """Rows that frames say by themselves, by data set, whatever came before them; none of books.

    version: Of the object that has the frames. Frames that cannot be read are passed over: they were
    refused when they came. Two connections may have brought the same: of one number the first counts.
    """
    reader = FrameReader(market)
    events: dict[tuple[Kind, bool], list[Event]] = {}
    for record in records:
        if record.kind != FRAME:
            continue
        try:
            said = reader.read(record.data)
        except BadDataError:
            continue
        if not isinstance(said, Control) and said.stream.kind != "depth":
            told = said.stream.kind, has_numbers(said.stream)
            events.setdefault(told, []).append(said.event)
    found: dict[str, pl.DataFrame] = {}
    for (kind, numbered), given in events.items():
        dataset = DATASETS[DATASET_OF[kind]]
        frame = rows_of(kind, market, given).frame
        names = ("symbol", "interval", dataset.time, *dataset.key)
        key = [name for name in dict.fromkeys(names) if name in frame.columns]
        frame = frame.unique(key if numbered else None, keep="first", maintain_order=True)
        if frame.height:
            found[dataset.name] = _sourced(frame, market, dataset, version)
    return found


def _refuse(work: SegmentWork, record: Record, place: int, reason: str, detail: str) -> None:
    work.refused += 1
    if len(work.refusals) >= _REFUSALS_MAX:
        return
    raw = record.data[:_RAW_CHARACTERS_MAX].decode(errors="replace")
    # Control characters in texts of others stay out of tables.
    raw = "".join(letter if letter.isprintable() else "�" for letter in raw)
    work.refusals.append(Refusal("*", "", place + 1, reason, detail[:_RAW_CHARACTERS_MAX], raw))


def _add_rows(
    work: SegmentWork, market: Market, kind: Kind, given: Sequence[Arrivals], records: Records
) -> None:
    rows = rows_in(kind, market, pl.concat([one.events for one in given]))
    work.passed += rows.passed
    if rows.refused:
        places = np.concatenate([one.record for one in given])
        detail = "a time that is none between 2010 and 2200, in ms or µs"
        for place in rows.refused:
            at = int(places[place])
            _refuse(work, records[at], at, "UNTYPED_CELL", detail)
    _add_frame(work, market, DATASETS[DATASET_OF[kind]], rows.frame)


def _add_frame(work: SegmentWork, market: Market, dataset: Dataset, frame: pl.DataFrame) -> None:
    if not frame.is_empty():
        work.rows[dataset.name] = _sourced(frame, market, dataset, work.version)


def _sourced(frame: pl.DataFrame, market: Market, dataset: Dataset, version: str) -> pl.DataFrame:
    parts = [pl.lit(f"stream/{market}/{dataset.name}"), pl.col("symbol")]
    if dataset.bars:
        parts.append(pl.col("interval"))
    return frame.with_columns(
        source=pl.lit("stream"),
        source_key=pl.concat_str(parts, separator="/"),
        source_version=pl.lit(version),
    )


def spell_unheard(since_us: int, names: Sequence[str]) -> str:
    """The mark that says that streams are heard again. since_us: 0: since before the capture."""
    return f"unheard since {since_us} {'/'.join(names)}"


def _unheard(
    streams: Sequence[Stream],
    marks: Sequence[tuple[int, str]],
    arrivals: Mapping[str, Arrivals],
    state: CaptureState,
) -> list[tuple[Stream, SeriesGap, str]]:
    """Gaps of streams without numbers: times at which no connection had them."""
    gaps: list[tuple[Stream, SeriesGap, str]] = []
    for received_us, text in marks:
        if not text.startswith("unheard since "):
            continue
        told, _, spelled = text.removeprefix("unheard since ").partition(" ")
        names = set(spelled.split("/"))
        for stream in streams:
            if stream.name not in names or has_numbers(stream):
                continue
            before_us = _heard_before(stream, received_us, arrivals.get(stream.name))
            known = state.series.get(stream.name)
            if before_us is None and known is not None:
                before_us = known.last_time_us
            if before_us is None:
                continue
            # The exchange's clock told when it begins, this machine's when it ends.
            end_us = max(before_us, received_us)
            gap = SeriesGap(None, None, before_us, end_us, None, received_us)
            since = f"since {format_time(int(told))}" if int(told) else "before this capture began"
            gaps.append(
                (stream, gap, f"no connection {since}; what it would have said is not known")
            )
    return gaps


def _heard_before(stream: Stream, received_us: int, arrivals: Arrivals | None) -> int | None:
    """The own time of the last event of this segment that came before a moment."""
    if arrivals is None:
        return None
    count = int(np.searchsorted(arrivals.received_us, received_us))
    if not count:
        return None
    return int(times_of(stream.kind, arrivals.events[count - 1 : count])[0])


def _why(marks: Sequence[tuple[int, str]], gap: SeriesGap) -> str:
    """What was seen of the connections around a gap."""
    seen = [text for _, text in marks if not text.startswith("unheard ")]
    said = "; ".join(dict.fromkeys(seen))[:300]
    return f"{gap.missing or 0:,} did not come" + (f"; meanwhile: {said}" if said else "")


def streams_of(market: Market, names: Sequence[str]) -> list[Stream]:
    """Streams by their names, each once. Raises InvalidError for what is none."""
    return [parse_stream(name, market) for name in dict.fromkeys(names)]
