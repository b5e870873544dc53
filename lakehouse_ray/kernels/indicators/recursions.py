"""Averages that remember: each value is made of the one before.

All begin at given rows (where a segment's seed stands) and run to the next beginning; rows before
the first hold nothing of use.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lakehouse_ray.kernels.indicators.windows import Floats

Rows = NDArray[np.int64]

# A call of Polars for each of so many pieces; for more, one call over groups.
_PIECES_MAX = 8
# Weights up to 10^100 leave room for any price or volume, and for their sums.
_WEIGHT_DECADES = 100
_WEIGHTS_MAX = 1 << 12


def exponential(values: Floats, begins: Rows, alpha: float) -> Floats:
    """y = alpha x + (1 - alpha) y, with y = x at each of `begins`.

    A NaN is left out: the average stays as it was. Polars goes through the rows one by one, so that
    a run that is cut anywhere and begun again with its last value goes on with the same bits: a
    difference of two averages of prices has no digit to lose.
    """
    return _without_nan(_exponential, values, begins, alpha)


def decaying(values: Floats, begins: Rows, alpha: float) -> Floats:
    """The same, in less than half the time, but for the last digits of a value.

    y divided by (1 - alpha)^t is a running sum; it is begun anew before these weights overflow.
    """
    return _without_nan(_decaying, values, begins, alpha)


def _without_nan(
    work: Callable[[Floats, Rows, float], Floats], values: Floats, begins: Rows, alpha: float
) -> Floats:
    if begins.size == 0:
        return np.full(values.size, np.nan)
    found = work(values, begins, alpha)
    last = np.concatenate([begins[1:], [values.size]]) - 1
    # A NaN would have stayed to the end, unless nothing is remembered at all.
    if alpha < 1 and not np.isnan(found[last]).any():
        return found
    kept = ~np.isnan(values)
    kept[begins] = True
    place = np.cumsum(kept) - 1
    spread: Floats = work(values[kept], place[begins], alpha)[np.maximum(place, 0)]
    return spread


def _decaying(values: Floats, begins: Rows, alpha: float) -> Floats:
    if alpha == 1.0:
        return values
    found = np.empty(values.size)
    found[: begins[0]] = np.nan
    decay, weights = _weights(alpha)
    length = decay.size - 1
    for begin, end in _pieces(begins, values.size):
        state = values[begin]
        for start in range(begin, end, length):
            stop = min(start + length + 1, end)
            sums = values[start:stop] * weights[: stop - start]
            sums[0] = state
            np.add.accumulate(sums, out=sums)
            np.multiply(sums, decay[: stop - start], out=found[start:stop])
            state = found[stop - 1]
    return found


@functools.lru_cache(maxsize=32)
def _weights(alpha: float) -> tuple[Floats, Floats]:
    """Return (1 - alpha)^t and the weights that a running sum needs for it. A few 10 kB each."""
    length = min(int(_WEIGHT_DECADES / -np.log10(1 - alpha)), _WEIGHTS_MAX)
    decay: Floats = np.power(1 - alpha, np.arange(length + 1, dtype=np.float64))
    weights: Floats = np.divide(alpha, decay)
    return decay, weights


def _exponential(values: Floats, begins: Rows, alpha: float) -> Floats:
    found = np.empty(values.size)
    first = begins[0]
    found[:first] = np.nan
    average = pl.col("x").ewm_mean(alpha=alpha, adjust=False)
    if begins.size <= _PIECES_MAX:
        for begin, end in _pieces(begins, values.size):
            piece = pl.Series("x", values[begin:end]).to_frame().select_seq(average)
            found[begin:end] = piece.to_series().to_numpy()
        return found
    group = np.zeros(values.size - first, dtype=np.int32)
    group[begins - first] = 1
    frame = pl.DataFrame({"x": values[first:], "group": np.cumsum(group)})
    averaged = frame.select(average.over(pl.col("group").set_sorted()))
    found[first:] = averaged.to_series().to_numpy()
    return found


def _pieces(begins: Rows, size: int) -> Iterable[tuple[int, int]]:
    """Each beginning with the next one, the last with the end."""
    bounds = [*begins.tolist(), size]
    return pairwise(bounds)


def running_total(values: Floats, begins: Rows) -> Floats:
    """Sum since the last of `begins`, added up in the order of rows."""
    found = np.full(values.size, np.nan)
    for begin, end in _pieces(begins, values.size):
        np.cumsum(values[begin:end], out=found[begin:end])
    return found


def adaptive(values: Floats, share: Floats, begins: Rows) -> Floats:
    """y = share x + (1 - share) y with a share of its own in each row, y = x at each of `begins`.

    Rows are cut into about sqrt(n) strips that numpy goes through side by side, row by row: first
    as if each began with nothing, then with what the strip before it ends with.
    """
    found = np.full(values.size, np.nan)
    if begins.size == 0:
        return found
    first = int(begins[0])
    rows = values.size - first
    length = max(int(rows**0.5), 1)
    strips = -(-rows // length)
    keep = np.zeros(length * strips)
    add = np.zeros(length * strips)
    keep[:rows] = 1.0 - share[first:]
    add[:rows] = share[first:] * values[first:]
    keep[begins - first] = 0.0
    add[begins - first] = values[begins]
    # A row of these is one step of all strips.
    steps_keep = np.ascontiguousarray(keep.reshape(strips, length).T)
    steps = np.ascontiguousarray(add.reshape(strips, length).T)
    for step in range(1, length):
        steps[step] += steps_keep[step] * steps[step - 1]
        steps_keep[step] *= steps_keep[step - 1]
    before = np.zeros(strips)
    ends, kept = steps[-1].tolist(), steps_keep[-1].tolist()
    for strip in range(1, strips):
        before[strip] = ends[strip - 1] + kept[strip - 1] * before[strip - 1]
    found[first:] = (steps + steps_keep * before).T.reshape(-1)[:rows]
    return found


def ratchet(values: Floats, before: Floats, begins: Rows) -> Floats:
    """y = x where x < y or `before` > y, else y stays; y = x at each of `begins`."""
    found = np.full(values.size, np.nan)
    for begin, end in _pieces(begins, values.size):
        steps = zip(values[begin + 1 : end].tolist(), before[begin + 1 : end].tolist(), strict=True)
        level = float(values[begin])
        levels = [level]
        for value, close in steps:
            if value < level or close > level:
                level = value
            levels.append(level)
        found[begin:end] = levels
    return found


def trend(close: Floats, upper: Floats, lower: Floats, begins: Rows, first: float) -> Floats:
    """1 until a close under `lower`, then -1 until one over `upper`, and so on.

    first: What the first of `begins` begins with; the others begin with 1.
    """
    found = np.full(close.size, np.nan)
    below, above = close < lower, close > upper
    for begin, end in _pieces(begins, close.size):
        under, over = below[begin + 1 : end].tolist(), above[begin + 1 : end].tolist()
        state = first if begin == begins[0] else 1.0
        states = [state]
        for falls, rises in zip(under, over, strict=True):
            if state > 0:
                state = -1.0 if falls else state
            elif rises:
                state = 1.0
            states.append(state)
        found[begin:end] = states
    return found
