"""Indicators of one series of bars, in one run or piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.declaration import Request
from lakehouse_ray.kernels.indicators.registry import parse_names
from lakehouse_ray.kernels.indicators.rows import Rows, Tail
from lakehouse_ray.kernels.indicators.segments import gaps_before
from lakehouse_ray.kernels.indicators.windows import Floats

# Rows worked on at once: a line of them takes half a MB, and the lines of all indicators with the
# same inputs are held together.
BLOCK_ROWS = 1 << 16

Inputs = tuple[str, ...]


@dataclass(frozen=True)
class Carry:
    """What a piece of a series leaves for the next one. Pickles; takes some rows' memory.

    names: Of the indicators it was made with.
    last_us: The last bar.
    tails: By the columns that indicators read; none where the last bar of these had no number.
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
    outputs: dict[str, pl.Series] = {}
    tails: dict[Inputs, Tail | None] = {}
    for group, members in groups.items():
        inputs = {name: columns[name] for name in group}
        tail = None if carry is None else carry.tails[group]
        found, tails[group] = _group(open_time, gaps, inputs, members, tail)
        outputs |= found
    ordered = [outputs[name] for request in requests for name in request.outputs]
    return frame.with_columns(ordered), Carry(asked, interval, int(open_time[-1]), tails)


def _group(
    open_time: NDArray[np.int64],
    gaps: NDArray[np.bool_],
    inputs: Mapping[str, Floats],
    members: list[Request],
    tail: Tail | None,
) -> tuple[dict[str, pl.Series], Tail | None]:
    """Compute indicators that read the same columns, block by block."""
    valid = np.ones(open_time.size, dtype=np.bool_)
    for values in inputs.values():
        valid &= np.isfinite(values)
    breaks = gaps.copy()
    breaks[1:] |= ~valid[:-1]
    # The row before the first: of no use if there was no number.
    breaks[0] |= tail is None
    blocks: dict[str, list[pl.Series]] = {
        name: [] for request in members for name in request.outputs
    }
    for start in range(0, open_time.size, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        kept = valid[part]
        whole = bool(kept.all())
        numbers = part if whole else start + np.flatnonzero(kept)
        block = {name: values[numbers] for name, values in inputs.items()}
        found, tail = _block(open_time[numbers], block, breaks[numbers], members, tail)
        for name, parts in blocks.items():
            if whole:
                values = found[name]
            else:
                values = np.full(kept.size, np.nan)
                values[kept] = found[name]
            parts.append(pl.Series(name, values, dtype=pl.Float64, nan_to_null=True))
        if not kept[-1]:
            tail = None
    return {name: pl.concat(parts, rechunk=False) for name, parts in blocks.items()}, tail


def _block(
    open_time: NDArray[np.int64],
    inputs: Mapping[str, Floats],
    breaks: NDArray[np.bool_],
    members: list[Request],
    tail: Tail | None,
) -> tuple[dict[str, Floats], Tail | None]:
    """Compute rows with numbers; the first goes on with the tail unless it begins a segment."""
    if open_time.size == 0:
        return {name: np.empty(0) for request in members for name in request.outputs}, tail
    begins = np.flatnonzero(breaks)
    if tail is None or breaks[0]:
        old = 0
        rows = Rows(open_time, inputs, begins)
    else:
        old = tail.open_time.size
        rows = Rows(
            np.concatenate([tail.open_time, open_time]),
            {name: np.concatenate([tail.inputs[name], values]) for name, values in inputs.items()},
            np.concatenate([[0], begins + old]),
            tail.age,
            tail.states,
        )
    age = rows.age[old:]
    youngest = age.min()
    outputs: dict[str, Floats] = {}
    with np.errstate(all="ignore"):
        for request in members:
            for name, line in zip(request.outputs, request.lines(rows), strict=True):
                values = line.values[old:]
                if youngest < line.first:
                    values = values.copy()  # others may be made of this line
                    values[age < line.first] = np.nan
                outputs[name] = values
        return outputs, rows.tail()


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
