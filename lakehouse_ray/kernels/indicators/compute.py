"""Indicators of one series of bars, in one run or piece by piece."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.declaration import Request
from lakehouse_ray.kernels.indicators.registry import parse_names
from lakehouse_ray.kernels.indicators.rows import Plan, Rows, Tail, Whole
from lakehouse_ray.kernels.indicators.segments import gaps_before
from lakehouse_ray.kernels.indicators.windows import Floats

# Rows worked on at once: a line of them takes 256 kB, so that the few that a step works on stay in
# the cache of a core; for fewer rows the steps themselves would take longer than their rows.
BLOCK_ROWS = 1 << 15

Inputs = tuple[str, ...]
N = TypeVar("N", np.int64, np.float64)


@dataclass(frozen=True)
class Carry:
    """What a piece of a series leaves for the next one. Pickles; takes some rows' memory.

    names: Of the indicators it was made with.
    last_us: The last bar.
    tails: By the columns that indicators read; none where the last bar of these had no number.
        Those of columns that were worked on together are one.
    """

    names: tuple[str, ...]
    interval: str
    last_us: int
    tails: Mapping[Inputs, Tail | None]


def compute(
    frame: pl.DataFrame,
    names: str | Iterable[str],
    interval: str,
    carry: Carry | None = None,
) -> tuple[pl.DataFrame, Carry | None]:
    """Return the bars with a column per output of the named indicators, and what the next piece needs.

    A segment is a run of bars each no further than the interval from the one before, in which no
    column that the indicator reads is null, NaN or infinite. Every segment is computed as if there
    were nothing else. Values that are not defined are null: in the warm-up of a segment, in bars
    without a number, and where an indicator says so of flat prices.

    frame: Bars of one series in the order of `open_time`, with the columns that the indicators read.
    names: Such as `sma_20`, `macd_12_26_9`; see docs/indicators.md.
    carry: From the piece before. Whether it ended just before this one is seen from the times. The
        pieces together give what one run gives.

    Raises InvalidError for unknown names and intervals, bars without order, columns that are not
    there or already there, and a carry of other indicators.
    """
    requests = parse_names(names)
    asked = tuple(request.name for request in requests)
    if carry is not None and (carry.names, carry.interval) != (asked, interval):
        raise InvalidError(
            f"the carry was made with {', '.join(carry.names)} of {carry.interval}, not with "
            f"{', '.join(asked)} of {interval}",
            "give the same names and interval for each piece",
        )
    groups: dict[Inputs, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.indicator.columns, []).append(request)
    _check_columns(frame, requests)
    open_time = _times(frame)
    gaps = gaps_before(open_time, interval, None if carry is None else carry.last_us)
    if frame.height == 0:
        nothing = [name for request in requests for name in request.outputs]
        return frame.with_columns(pl.Series(name, [], pl.Float64) for name in nothing), carry
    columns = {name: _floats(frame[name]) for group in groups for name in group}
    finite = {name: np.isfinite(values) for name, values in columns.items()}
    outputs: dict[str, pl.Series] = {}
    tails: dict[Inputs, Tail | None] = {}
    for together in _together(groups, finite, carry):
        names = tuple(dict.fromkeys(name for group in together for name in group))
        valid = np.logical_and.reduce([finite[name] for name in names])
        members = [request for group in together for request in groups[group]]
        tail = None if carry is None else carry.tails[together[0]]
        inputs = {name: columns[name] for name in names}
        found, tail = _segments(open_time, gaps, inputs, valid, members, tail)
        outputs |= found
        tails |= dict.fromkeys(together, tail)
    ordered = [outputs[name] for request in requests for name in request.outputs]
    return frame.with_columns(ordered), Carry(asked, interval, int(open_time[-1]), tails)


def _together(
    groups: Iterable[Inputs], finite: Mapping[str, NDArray[np.bool_]], carry: Carry | None
) -> list[list[Inputs]]:
    """Put columns together that lack numbers in the same bars: the lines that several indicators
    are made of are then computed once."""
    holed = {name for name, numbers in finite.items() if not numbers.all()}
    found: dict[tuple[int, frozenset[str]], list[Inputs]] = {}
    for group in groups:
        tail = None if carry is None else carry.tails[group]
        found.setdefault((id(tail), frozenset(holed.intersection(group))), []).append(group)
    return list(found.values())


def _segments(
    open_time: NDArray[np.int64],
    gaps: NDArray[np.bool_],
    inputs: Mapping[str, Floats],
    valid: NDArray[np.bool_],
    members: list[Request],
    tail: Tail | None,
) -> tuple[dict[str, pl.Series], Tail | None]:
    """Compute indicators with the same segments: over the bars with numbers, block by block."""
    breaks = gaps.copy()
    breaks[1:] |= ~valid[:-1]
    # The row before the first: of no use if there was no number.
    breaks[0] |= tail is None
    numbers = None if valid.all() else np.flatnonzero(valid)
    if numbers is not None:
        open_time, breaks = open_time[numbers], breaks[numbers]
        inputs = {name: values[numbers] for name, values in inputs.items()}
    begins = np.flatnonzero(breaks)
    names = [name for request in members for name in request.outputs]
    # Arrow's pool keeps pages that were used; numpy asks the system for new ones, which takes longer
    # than to fill them.
    buffers = [pa.allocate_buffer(8 * valid.size) for _ in names]
    outputs = [np.frombuffer(buffer, dtype=np.float64) for buffer in buffers]
    if numbers is not None:
        for values in outputs:
            values.fill(np.nan)
    plan = _plan(tuple(members))
    for start in range(0, open_time.size, BLOCK_ROWS):
        place = slice(start, start + BLOCK_ROWS)
        rows, old = _rows(open_time, inputs, begins, start, plan, tail)
        _work(members, rows, old, outputs, place if numbers is None else numbers[place])
        tail = rows.tail()
    series = {name: _nullable(name, buffer) for name, buffer in zip(names, buffers, strict=True)}
    return series, tail if valid[-1] else None


def _rows(
    open_time: NDArray[np.int64],
    inputs: Mapping[str, Floats],
    begins: NDArray[np.int64],
    start: int,
    plan: Plan,
    tail: Tail | None,
) -> tuple[Rows, int]:
    """Return a block of rows, and how many of the tail stand before it: none where it begins a
    segment."""
    stop = min(start + BLOCK_ROWS, open_time.size)
    here = begins[slice(*np.searchsorted(begins, [start, stop]))] - start
    if tail is None or (here.size and here[0] == 0):
        block = {name: values[start:stop] for name, values in inputs.items()}
        return Rows(open_time[start:stop], block, here, plan), 0
    old = tail.open_time.size
    rows = Rows(
        _with_tail(tail.open_time, open_time, start, stop),
        {n: _with_tail(tail.inputs[n], values, start, stop) for n, values in inputs.items()},
        np.concatenate([[0], here + old]),
        plan,
        tail.age,
        tail.states,
    )
    return rows, old


def _work(
    members: list[Request], rows: Rows, old: int, outputs: list[Floats], place: slice | Whole
) -> None:
    """Write what is computed of rows after the first `old` where these stand in the outputs."""
    room = iter(outputs)
    with np.errstate(all="ignore"):
        for request in members:
            for line in request.lines(rows):
                values = line.values[old:]
                young = rows.younger(line.first)
                if young.size:
                    values = values.copy()  # others may be made of this line
                    values[young[young >= old] - old] = np.nan
                next(room)[place] = values


@functools.lru_cache(maxsize=64)
def _plan(requests: tuple[Request, ...]) -> Plan:
    """What requests ask for, by giving them no rows at all."""
    nothing = np.empty(0)
    columns = {name: nothing for request in requests for name in request.indicator.columns}
    rows = Rows(np.empty(0, dtype=np.int64), columns, np.empty(0, dtype=np.int64))
    with np.errstate(all="ignore"):
        for request in requests:
            request.lines(rows)
    return rows.plan()


def _with_tail(tail: NDArray[N], values: NDArray[N], start: int, stop: int) -> NDArray[N]:
    """Rows with those of the tail before them, which stand there already unless they were carried."""
    if tail.size <= start:
        return values[start - tail.size : stop]
    return np.concatenate([tail, values[start:stop]])


def _nullable(name: str, buffer: pa.Buffer) -> pl.Series:
    """Numbers as a column without copying them, NaN as null."""
    values = np.frombuffer(buffer, dtype=np.float64)
    known = pa.py_buffer(np.packbits(~np.isnan(values), bitorder="little"))
    return pl.Series(name, pa.Array.from_buffers(pa.float64(), values.size, [known, buffer]))


def _check_columns(frame: pl.DataFrame, requests: tuple[Request, ...]) -> None:
    wanted = ["open_time", *(name for request in requests for name in request.indicator.columns)]
    missing = [name for name in dict.fromkeys(wanted) if name not in frame.columns]
    if missing:
        raise InvalidError(
            f"the bars have no column {', '.join(missing)}", f"they have {', '.join(frame.columns)}"
        )
    taken = [n for request in requests for n in request.outputs if n in frame.columns]
    if taken:
        raise InvalidError(f"the bars have a column {', '.join(taken)} already", "rename it first")


def _times(frame: pl.DataFrame) -> NDArray[np.int64]:
    column = frame["open_time"]
    if not isinstance(column.dtype, pl.Datetime) or column.null_count():
        raise InvalidError("open_time must be a time in every bar", f"it is {column.dtype}")
    return column.dt.timestamp("us").to_numpy()


def _floats(column: pl.Series) -> Floats:
    """Numbers of a column, NaN for null."""
    if not column.dtype.is_numeric():
        raise InvalidError(f"{column.name} must be a number, not {column.dtype}")
    return column.cast(pl.Float64).to_numpy()
