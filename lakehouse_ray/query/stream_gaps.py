"""Gaps that captures of streams have seen, and how much of them is in the tables by now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import polars as pl

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.streams import (
    FILLED_BY_REST,
    GAP_STATES,
    STREAM_GAP_STATES,
    GapState,
    StreamGap,
)
from lakehouse_ray.model.timespan import DAY_US, SECOND_US, TimeRange, to_us
from lakehouse_ray.model.venue import parse_market
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.pinned import SYMBOLS_MAX, Among, Kind, Pinned, Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.scan import Where, quoted, text, timestamp
from lakehouse_ray.query.views import VIEWS

_VIEW = VIEWS["silver.stream_gaps"]
# Gaps whose rows are counted together: their ranges lie within so long, so that few files are read.
_TOGETHER_US = DAY_US
_TOGETHER_MAX = 200
_SHOWN = (
    "market", "dataset", "symbol", "interval", "start_time", "end_time", "first_id", "last_id",
    "missing", "state", "missing_left", "detail",
)  # fmt: skip
_COUNTS = pl.Schema({"number": pl.Int64(), "rows": pl.Int64(), "sources": pl.String()})


def stream_gaps(pinned: Pinned, asked: Asked, states: Sequence[GapState]) -> list[StreamGap]:
    """Gaps of what is asked for that are in one of these states, in order of series and time.

    A range takes those that reach into it.
    """
    return [_gap(row) for row in _found(pinned, asked, states, "*").iter_rows(named=True)]


def captured_gaps(lake: Readable, asked: Asked, as_of: AsOf = None) -> pl.DataFrame:
    """The same in any state, as rows for people: what captures have missed and what became of it."""
    return _found(Pinned(lake, (_VIEW,), as_of), asked, GAP_STATES, ", ".join(map(quoted, _SHOWN)))


def _found(pinned: Pinned, asked: Asked, states: Sequence[GapState], columns: str) -> pl.DataFrame:
    equal = {
        name: value
        for name, value in (
            ("market", asked.market),
            ("dataset", asked.dataset.name if asked.dataset else None),
        )
        if value is not None
    }
    conditions = [f"state IN ({', '.join(map(text, states))})"]
    conditions += [f"{quoted(name)} = {text(value)}" for name, value in equal.items()]
    if asked.interval:
        conditions.append(f'"interval" = {text(asked.interval)}')
    if asked.symbols:
        conditions.append(f"symbol IN ({', '.join(map(text, asked.symbols))})")
    if asked.start_us is not None:
        conditions.append(f"end_time >= {timestamp(asked.start_us)}")
    if asked.end_us is not None:
        conditions.append(f"start_time < {timestamp(asked.end_us)}")
    query = (
        f"SELECT {columns} FROM {_VIEW.name} WHERE {' AND '.join(conditions)} "
        'ORDER BY market, dataset, symbol, "interval", start_time, first_id'
    )
    return pinned.frame(query, _VIEW, Where(equal))


def states_told(pinned: Pinned, run_id: str) -> dict[GapState, int]:
    """How many gaps a run has said to be in which state. Needs `silver.stream_gaps` pinned."""
    rows = pinned.frame_of(
        [STREAM_GAP_STATES],
        f"SELECT state, count(*) FROM {STREAM_GAP_STATES.name} WHERE run_id = {text(run_id)} "
        "GROUP BY state",
    )
    return dict(rows.iter_rows())


def _gap(row: dict[str, object]) -> StreamGap:
    found: dict[str, object] = {
        name: row[name]
        for name in (
            "dataset", "symbol", "first_id", "last_id", "missing", "state", "missing_left", "detail",
        )
    }  # fmt: skip
    times = {
        f"{name.removesuffix('_time').removesuffix('_at')}_us": row[name]
        for name in ("start_time", "end_time", "found_at", "told_at")
    }
    found |= {name: None if time is None else to_us(time) for name, time in times.items()}  # type: ignore[arg-type]
    market, interval = parse_market(str(row["market"])), row["interval"] or None
    return StreamGap(market=market, interval=interval, **found)  # type: ignore[arg-type]


def rows_there(pinned: Pinned, gaps: Sequence[StreamGap]) -> list[tuple[int, str]]:
    """Of each gap how many of its rows the lake has now, and which sources they are from."""
    found: list[tuple[int, str]] = [(0, "")] * len(gaps)
    numbered = sorted(enumerate(gaps), key=lambda one: _series(one[1]))
    for key, members in groupby(numbered, key=lambda one: _series(one[1])[:3]):
        market, dataset, interval = key
        kind = Kind(DATASETS[dataset], market, interval or None)
        for group in _together(list(members)):
            for number, rows, sources in _counted(pinned, kind, group).iter_rows():
                found[number] = rows, sources
    return found


def _series(gap: StreamGap) -> tuple[str, str, str, str, int]:
    return gap.market, gap.dataset, gap.interval or "", gap.symbol, gap.span.start_us


def _together(gaps: list[tuple[int, StreamGap]]) -> Iterator[list[tuple[int, StreamGap]]]:
    group: list[tuple[int, StreamGap]] = []
    for one in sorted(gaps, key=lambda one: one[1].span.start_us):
        late = group and one[1].span.end_us - group[0][1].span.start_us > _TOGETHER_US
        symbols = {member.symbol for _, member in group} | {one[1].symbol}
        if group and (late or len(group) >= _TOGETHER_MAX or len(symbols) > SYMBOLS_MAX):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _counted(pinned: Pinned, kind: Kind, group: list[tuple[int, StreamGap]]) -> pl.DataFrame:
    """`_COUNTS` of gaps of one kind of series."""
    number = FILLED_BY_REST[kind.dataset.name]
    time = quoted(kind.dataset.time)
    place = f"epoch_us({time})" if number is None else quoted(number)
    values = ", ".join(
        f"({at}, {text(gap.symbol)}, {first}, {last})"
        for at, gap in group
        for first, last in [_bounds(gap)]
    )
    # Numbers that are missing may be of the very moments of the rows beside them.
    span = TimeRange(
        max(0, min(gap.span.start_us for _, gap in group) - SECOND_US),
        max(gap.span.end_us for _, gap in group) + SECOND_US,
    )
    where = Among(kind.equal, span, tuple(sorted({gap.symbol for _, gap in group})))
    query = f"""
    WITH gaps(number, symbol, first, last) AS (VALUES {values}),
    rows AS (SELECT symbol, {place}::BIGINT AS place, source FROM {kind.view.name}
             WHERE {where.sql(kind.table)})
    SELECT g.number::BIGINT AS number, count(DISTINCT place)::BIGINT AS rows,
           string_agg(DISTINCT source, ', ' ORDER BY source) AS sources
    FROM rows r JOIN gaps g ON r.symbol = g.symbol AND r.place BETWEEN g.first AND g.last
    GROUP BY g.number
    """
    return pinned.frame(query, kind.view, where).cast(_COUNTS)


def _bounds(gap: StreamGap) -> tuple[int, int]:
    """First and last place that is missing: a number, or when a bar begins."""
    if gap.first_id is not None and gap.last_id is not None:
        return gap.first_id, gap.last_id
    return gap.start_us, gap.end_us - 1
