"""Sums, extremes and moments over a moving window of `n` rows.

Each value is put together from windows of 1, 2, 4, … rows, so it takes about log2(n) passes over the
rows, and depends on the rows of its own window alone: there is no running sum that drifts, a large
value leaves no trace once it is out of the window, and the same rows give the same bits wherever a
computation begins. Every function returns as many values as there are rows; the first `n - 1`, whose
windows are not full, are NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
W = TypeVar("W")

# Rows that are worked on at once where every row of a window is visited: they stay in the cache.
_BLOCK_ROWS = 1 << 15


def lagged(values: Floats, n: int) -> Floats:
    """The value `n` rows earlier."""
    found, full = _room(values.size, n)
    full[:] = values[: full.size]
    return found


def changed(values: Floats, n: int) -> Floats:
    """The value less that `n` rows earlier."""
    found, full = _room(values.size, n)
    np.subtract(values[n:], values[: full.size], out=full)
    return found


def window_sum(values: Floats, n: int) -> Floats:
    found, full = _room(values.size, n - 1)
    if full.size:
        full[:] = _sums(values, n)
    return found


def window_mean(values: Floats, n: int) -> Floats:
    found, full = _room(values.size, n - 1)
    if full.size:
        np.divide(_sums(values, n), n, out=full)
    return found


def _sums(values: Floats, n: int) -> Floats:
    def join(older: Floats, rows: int, newer: Floats, _: int) -> Floats:
        left, right = _overlap(older, rows, newer)
        return left + right

    return _assembled(values, n, join)


def window_max(values: Floats, n: int) -> Floats:
    return _extreme(np.maximum, values, n)


def window_min(values: Floats, n: int) -> Floats:
    return _extreme(np.minimum, values, n)


def _extreme(higher: np.ufunc, values: Floats, n: int) -> Floats:
    """The last two windows that are joined may overlap."""
    found, full = _room(values.size, n - 1)
    if full.size:
        rows, block = 1, values
        while rows < n:
            more = min(rows, n - rows)
            block = higher(block[:-more], block[more:])
            rows += more
        full[:] = block
    return found


def rows_since_max(values: Floats, n: int) -> Floats:
    """Rows from the highest value of the window to its last one; of equal ones the latest counts."""
    found, full = _room(values.size, n - 1)
    if not full.size:
        return found

    def join(
        older: tuple[Floats, Floats], rows: int, newer: tuple[Floats, Floats], _: int
    ) -> tuple[Floats, Floats]:
        highest_old, highest_new = _overlap(older[0], rows, newer[0])
        where_old, where_new = _overlap(older[1], rows, newer[1])
        later = highest_new >= highest_old
        return np.where(later, highest_new, highest_old), np.where(later, where_new, where_old)

    order = np.arange(values.size, dtype=np.float64)
    _, where = _assembled((values, order), n, join)
    np.subtract(order[n - 1 :], where, out=full)
    return found


def rows_since_min(values: Floats, n: int) -> Floats:
    return rows_since_max(-values, n)


def window_weighted_mean(values: Floats, n: int) -> Floats:
    """Mean with weights 1, 2, … n, the latest row weighing most."""
    found, full = _room(values.size, n - 1)
    if not full.size:
        return found

    def join(
        older: tuple[Floats, Floats], rows: int, newer: tuple[Floats, Floats], _: int
    ) -> tuple[Floats, Floats]:
        sum_old, sum_new = _overlap(older[0], rows, newer[0])
        weighted_old, weighted_new = _overlap(older[1], rows, newer[1])
        weighted = rows * sum_new
        weighted += weighted_new
        weighted += weighted_old
        return sum_old + sum_new, weighted

    _, weighted = _assembled((values, values), n, join)
    np.divide(weighted, n * (n + 1) / 2, out=full)
    return found


def window_variance(values: Floats, n: int) -> Floats:
    """Variance of the population (ddof 0).

    Windows are joined by their sums of squared deviations (Chan, Golub, LeVeque 1983), so that
    nothing is lost where prices are high and move little, and equal values give exactly 0.
    """
    found, full = _room(values.size, n - 1)
    if not full.size:
        return found

    def join(
        older: tuple[Floats, Floats], rows: int, newer: tuple[Floats, Floats], more: int
    ) -> tuple[Floats, Floats]:
        sum_old, sum_new = _overlap(older[0], rows, newer[0])
        squares_old, squares_new = _overlap(older[1], rows, newer[1])
        squares, divisor = _apart(sum_old, rows, sum_new, more)
        squares *= squares
        squares *= rows * more / (rows + more) / divisor**2
        squares += squares_old
        squares += squares_new
        return sum_old + sum_new, squares

    _, squares = _assembled((values, np.zeros_like(values)), n, join)
    np.divide(squares, n, out=full)
    return found


def window_slope(values: Floats, n: int) -> Floats:
    """Slope of the least-squares line, per row."""
    found, full = _room(values.size, n - 1)
    if not full.size:
        return found

    def join(
        older: tuple[Floats, Floats], rows: int, newer: tuple[Floats, Floats], more: int
    ) -> tuple[Floats, Floats]:
        sum_old, sum_new = _overlap(older[0], rows, newer[0])
        products_old, products_new = _overlap(older[1], rows, newer[1])
        products, divisor = _apart(sum_old, rows, sum_new, more)
        # The middles of the two windows are (rows + more) / 2 rows apart.
        products *= rows * more / 2 / divisor
        products += products_old
        products += products_new
        return sum_old + sum_new, products

    _, products = _assembled((values, np.zeros_like(values)), n, join)
    np.divide(products, n * (n * n - 1) / 12, out=full)
    return found


def window_deviation(values: Floats, middle: Floats, n: int) -> Floats:
    """Mean distance of the window's rows from `middle` at its last one. Takes `n` passes."""
    found = np.full(values.size, np.nan)
    for begin in range(n - 1, values.size, _BLOCK_ROWS):
        end = min(begin + _BLOCK_ROWS, values.size)
        total = np.zeros(end - begin)
        apart = np.empty(end - begin)
        for back in range(n):
            np.subtract(values[begin - back : end - back], middle[begin:end], out=apart)
            np.abs(apart, out=apart)
            total += apart
        found[begin:end] = total / n
    return found


def _apart(older: Floats, rows: int, newer: Floats, more: int) -> tuple[Floats, int]:
    """Difference of the means of two windows, by their sums, and what it is still to be divided by.

    Windows of the same length have 1, 2, 4, … rows: the division can wait without a digit lost.
    """
    if rows == more:
        return newer - older, rows
    apart = newer / more
    apart -= older / rows
    return apart, 1


def _assembled(one: W, n: int, join: Callable[[W, int, W, int], W]) -> W:
    """Windows of `n` rows out of windows of one row, by their first row.

    join: Given windows of some rows and windows of some more, returns those of both together.
    """
    found, rows = None, 0
    block, size = one, 1
    while True:
        if n & size:
            found = block if found is None else join(found, rows, block, size)
            rows += size
        if rows == n:
            assert found is not None
            return found
        block = join(block, size, block, size)
        size *= 2


def _overlap(older: Floats, rows: int, newer: Floats) -> tuple[Floats, Floats]:
    """Pair each window with the one that begins `rows` later."""
    both = newer.size - rows
    return older[:both], newer[rows:]


def _room(size: int, rows: int) -> tuple[Floats, Floats]:
    """Room for a value per row, NaN in the first `rows`, and the part of it that is to be filled."""
    found = np.empty(size)
    found[:rows] = np.nan
    return found, found[rows:]
