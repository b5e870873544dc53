"""Indicators of one series of bars, in one run or piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.declaration import Request
from lakehouse_ray.kernels.indicators.registry import parse_names
from lakehouse_ray.kernels.indicators.rows import Rows, Tail
from lakehouse_ray.kernels.indicators.segments import gaps_before
from lakehouse_ray.kernels.indicators.windows import Floats

# Rows worked on at once: a line of them takes 128 kB, so that the few that a step works on stay in
# the cache of a core. The lines of all indicators are held together.
BLOCK_ROWS = 1 << 14

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
    parts: dict[str, list[pl.Series]] = {
        name: [pl.Series(name, [], pl.Float64)] for request in members for name in request.outputs
    }
    outputs = list(parts.values())
    for start in range(0, open_time.size, BLOCK_ROWS):
        found, tail = _block(open_time, inputs, begins, start, members, tail)
        for part, values in zip(outputs, found, strict=True):
            part.append(pl.Series(part[0].name, values, nan_to_null=True))
    series = {name: pl.concat(part, rechunk=False) for name, part in parts.items()}
    if numbers is not None:
        series = {name: _spread(part, numbers, valid.size) for name, part in series.items()}
    return series, tail if valid[-1] else None


def _block(
    open_time: NDArray[np.int64],
    inputs: Mapping[str, Floats],
    begins: NDArray[np.int64],
    start: int,
    members: list[Request],
    tail: Tail | None,
) -> tuple[list[Floats], Tail | None]:
    """Compute a block of rows; the first goes on with the tail unless it begins a segment."""
    stop = min(start + BLOCK_ROWS, open_time.size)
    here = begins[slice(*np.searchsorted(begins, [start, stop]))] - start
    if tail is None or (here.size and here[0] == 0):
        old = 0
        rows = Rows(
            open_time[start:stop],
            {name: values[start:stop] for name, values in inputs.items()},
            here,
        )
    else:
        old = tail.open_time.size
        rows = Rows(
            _with_tail(tail.open_time, open_time, start, stop),
            {n: _with_tail(tail.inputs[n], values, start, stop) for n, values in inputs.items()},
            np.concatenate([[0], here + old]),
            tail.age,
            tail.states,
        )
    found = []
    with np.errstate(all="ignore"):
        for request in members:
            for line in request.lines(rows):
                values = line.values
                young = rows.younger(line.first)
                if young.size:
                    values = values.copy()  # others may be made of this line
                    values[young] = np.nan
                found.append(values[old:])
        return found, rows.tail()


def _with_tail(tail: NDArray[N], values: NDArray[N], start: int, stop: int) -> NDArray[N]:
    """Rows with those of the tail before them, which stand there already unless they were carried."""
    if tail.size <= start:
        return values[start - tail.size : stop]
    return np.concatenate([tail, values[start:stop]])


def _spread(series: pl.Series, numbers: NDArray[np.int64], height: int) -> pl.Series:
    """Values of the bars with numbers among all bars."""
    values = np.full(height, np.nan)
    values[numbers] = series.to_numpy()
    return pl.Series(series.name, values, nan_to_null=True)


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
