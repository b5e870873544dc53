"""What is missing in the lake, and why: computed from its tables when it is asked.

Series are read one after another in pieces, only their times; what is said of a gap comes from the
other symbols, the other series of the symbol and the ledger, all at the same snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from lakehouse_ray.kernels.causes import classify
from lakehouse_ray.kernels.gaps import (
    SPANS,
    Carry,
    Ends,
    edges,
    hole,
    own_column,
    scan_symbols,
    slot,
)
from lakehouse_ray.model.gaps import GAPS
from lakehouse_ray.model.rhythm import Ids, Rhythm, rhythm_of
from lakehouse_ray.model.timespan import DAY_US, TimeRange, to_us
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.answered import UNREAD, Answered, Losses, answer, unread
from lakehouse_ray.query.asked import Asked, wanted
from lakehouse_ray.query.gap_facts import gather
from lakehouse_ray.query.gap_losses import without_lost
from lakehouse_ray.query.pinned import Among, Kind, Pinned, Readable, in_groups
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.scan import quoted, text, timestamp
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.storage.frames import frame_schema

FOUND = pl.Schema({"symbol": pl.String(), **SPANS, "place": pl.String()})
_NUMBERED = pl.Schema(
    {
        "symbol": pl.String(),
        "time": SPANS["start_time"],
        "own": pl.Int64(),
        "until": SPANS["start_time"],
        "own_until": pl.Int64(),
    }
)
# Before and after everything that can be stored.
_EVER = TimeRange(0, 230 * 366 * DAY_US)
_USUAL_FUNDING_HOURS = 8
# Of series with few rows each, so many are read together: a question costs a tenth of a second.
_SYMBOLS_MAX = 5_000


def gaps(lake: Readable, asked: Asked, as_of: AsOf = None) -> Answered:
    """Return the gaps of all series asked for, as `model.gaps.GAPS` has them, sorted; of those whose
    files can be read.

    Without a range, between the first and the last stored row of each symbol; with one, all of it.

    Raises NotFoundError where nothing of it is stored.
    """
    return gaps_in(Pinned(lake, VIEWS.values(), as_of), asked)


def gaps_in(pinned: Pinned, asked: Asked) -> Answered:
    """The same of a state of the lake, with all of its views pinned."""
    found = answer(pinned, asked, _of_kind, frame_schema(GAPS), facts=True)
    return replace(found, rows=found.rows.sort(GAPS.key))


def _of_kind(
    pinned: Pinned, kind: Kind, lives: pl.DataFrame, asked: Asked, losses: Losses
) -> tuple[pl.DataFrame, pl.DataFrame]:
    found = find(pinned, kind, lives, asked)
    if found.is_empty():
        return frame_schema(GAPS).to_frame(), UNREAD.to_frame()
    known = without_lost(gather(pinned, kind, found, lives), kind, losses)
    silent = known.filter(pl.col("unread").is_not_null()).sort("symbol", "start_time")
    reasons = dict(silent.unique("symbol", keep="first").select("symbol", "unread").iter_rows())
    return labelled(kind, classify(known)), unread(kind, "causes", reasons)


def without_rhythm(lake: Readable, asked: Asked) -> list[str]:
    """Kinds of series asked for whose rows come when something happens: they have no gaps."""
    pinned = Pinned(lake, VIEWS.values())
    return [
        str(kind)
        for kind in pinned.kinds
        if asked.takes(kind) and rhythm_of(kind.dataset, kind.market, kind.interval) is None
    ]


def labelled(kind: Kind, classified: pl.DataFrame) -> pl.DataFrame:
    """Classified gaps of one kind as rows of `GAPS`."""
    return classified.with_columns(
        market=pl.lit(kind.market),
        dataset=pl.lit(kind.dataset.name),
        interval=pl.lit(kind.interval or ""),
    ).select(pl.col(name).cast(dtype) for name, dtype in frame_schema(GAPS).items())


def find(pinned: Pinned, kind: Kind, lives: pl.DataFrame, asked: Asked) -> pl.DataFrame:
    """Return the gaps of a kind of series: `FOUND`, not yet classified.

    lives: Of all its symbols.
    """
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    chosen = wanted(lives, asked)
    if rhythm is None or chosen.is_empty():
        return FOUND.to_frame()
    own_lives = {
        symbol: (to_us(first), to_us(last))
        for symbol, first, last in chosen.select("symbol", "first_time", "last_time").iter_rows()
    }
    ever: dict[str, tuple[int, int]] = {}
    if asked.start_us is not None or asked.end_us is not None:
        ever = _lives_ever(pinned, kind, own_lives)
    frames = [FOUND.to_frame()]
    for group in in_groups(chosen, symbols_max=_SYMBOLS_MAX):
        scans = scan_symbols(rhythm, _pieces(pinned, kind, rhythm, group, asked))
        frames.append(scans.gaps.with_columns(place=pl.lit("inside")))
        for symbol in group if ever else ():
            ends = scans.ends.get(symbol)
            frames += _around(rhythm, symbol, ends, own_lives[symbol], ever[symbol], asked)
    return pl.concat(frames)


def _labelled(symbol: str, spans: pl.DataFrame, place: str) -> pl.DataFrame:
    return spans.with_columns(symbol=pl.lit(symbol), place=pl.lit(place)).select(FOUND.names())


def _around(
    rhythm: Rhythm,
    symbol: str,
    ends: Ends | None,
    own: tuple[int, int],
    ever: tuple[int, int],
    asked: Asked,
) -> Iterator[pl.DataFrame]:
    """What is missing at the ends of the range, cut where the symbol's life begins and ends."""
    first = Carry(own[0], _USUAL_FUNDING_HOURS, own[0])
    near = ends[0] if ends else first
    last_slot = slot(rhythm, Carry(own[1], near.own, near.anchor_us))
    start = own[0] if asked.start_us is None else asked.start_us
    end = last_slot.end_us if asked.end_us is None else asked.end_us
    if start >= end:
        return
    if ends is not None:
        spans = edges(rhythm, ends, TimeRange(start, end))
    else:
        spans = hole(rhythm, start, end, near)
    born = slot(rhythm, Carry(ever[0], near.own, near.anchor_us)).start_us
    gone = slot(rhythm, Carry(ever[1], near.own, near.anchor_us)).end_us
    for row_start, row_end in spans.select("start_time", "end_time").iter_rows():
        begin, until = to_us(row_start), to_us(row_end)
        for place, a, b in (
            ("before", begin, min(until, born)),
            ("inside", max(begin, born), min(until, gone)),
            ("after", max(begin, gone), until),
        ):
            yield _labelled(symbol, hole(rhythm, a, b, near), place)


def _lives_ever(
    pinned: Pinned, kind: Kind, own: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """From when to when each symbol is known to have existed: its rows here and its other bars.

    A coarser bar says only that the symbol existed by its end.
    """
    ever = dict(own)
    for other in pinned.kinds:
        if other.dataset.name != "klines" or other.market != kind.market or other == kind:
            continue
        assert other.interval is not None
        step = INTERVALS[other.interval] or 31 * DAY_US
        frame = pinned.lives(other, list(own) if len(own) <= 100 else ())
        for symbol, first, last in frame.select("symbol", "first_time", "last_time").iter_rows():
            if symbol in ever:
                a, b = ever[symbol]
                ever[symbol] = min(a, to_us(first) + step), max(b, to_us(last))
    return ever


def _pieces(
    pinned: Pinned, kind: Kind, rhythm: Rhythm, group: tuple[str, ...], asked: Asked
) -> Iterator[pl.DataFrame]:
    """`symbol, time, own` of some symbols, in order."""
    span = None
    if asked.start_us is not None or asked.end_us is not None:
        start = _EVER.start_us if asked.start_us is None else asked.start_us
        span = TimeRange(start, _EVER.end_us if asked.end_us is None else asked.end_us)
    where = Among(kind.equal, span, group)
    condition, time = where.sql(kind.table), quoted(kind.dataset.time)
    own = own_column(rhythm)
    if isinstance(rhythm, Ids):
        yield from _numbered(pinned, kind, rhythm, where)
        return
    chosen = f", {quoted(own)} AS own" if own else ""
    query = (
        f"SELECT symbol, {time} AS time{chosen} FROM {kind.view.name} WHERE {condition} "
        f"ORDER BY symbol, {time}"
    )
    yield from pinned.pieces(query, kind.view, where)


def _numbered(pinned: Pinned, kind: Kind, rhythm: Ids, where: Among) -> Iterator[pl.DataFrame]:
    """Each day without jumps as one run of ids; of the others, every id.

    A day is counted before it is sorted, so what is sorted is one day of one symbol at most.
    """
    time, number = quoted(kind.dataset.time), quoted(rhythm.column)
    days = pinned.frame(
        f"SELECT symbol, date_trunc('day', {time}) AS day, count(*) AS n, min({number}) AS a, "
        f"max({number}) AS b, arg_min({time}, {number}) AS a_time, arg_max({time}, {number}) "
        f"AS b_time FROM {kind.view.name} WHERE {where.sql(kind.table)} "
        "GROUP BY symbol, day ORDER BY symbol, day",
        kind.view,
        where,
    )
    for symbol, day, count, a, b, a_time, b_time in days.iter_rows():
        if count == b - a + 1:
            yield pl.DataFrame([(symbol, a_time, a, b_time, b)], schema=_NUMBERED, orient="row")
            continue
        start = to_us(day)
        one = Among(where.equal, TimeRange(start, start + DAY_US), (symbol,))
        query = (
            f"SELECT symbol, {time} AS time, {number} AS own FROM {kind.view.name} "
            f"WHERE {where.sql(kind.table)} AND symbol = {text(symbol)} AND {time} >= "
            f"{timestamp(start)} AND {time} < {timestamp(start + DAY_US)} ORDER BY {number}"
        )
        yield from pinned.pieces(query, kind.view, one)
