"""Rows that a formula works on, in contiguous segments, and the lines it makes of them.

A formula is written as if there were one endless series. Rows keep the rest: where a segment begins
and how old each row is in it, from which age on a value counts, and what has to be remembered so
that the next rows can be worked on as if the earlier ones were still there.

What is remembered between two pieces of a series is a tail of its latest rows and, for everything
that is computed recursively, its value at one row of that tail. Working on the tail and the new rows
together then gives what one long run gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakehouse_ray.kernels.indicators import recursions, windows
from lakehouse_ray.kernels.indicators.windows import Floats

Whole = NDArray[np.int64]

DAY_US = 86_400_000_000


@dataclass(frozen=True, eq=False)
class Line:
    """One value per row.

    key: What it is, such as `ema(close,12,11)`; the name under which its state is remembered.
    first: Age of the first row of a segment for which the value counts.
    reach: Rows of a remembered tail after which the value is right again.
    """

    key: str
    values: Floats
    first: int = 0
    reach: int = 0

    def __add__(self, other: Line | float) -> Line:
        return _combined("+", np.add, self, other)

    def __sub__(self, other: Line | float) -> Line:
        return _combined("-", np.subtract, self, other)

    def __mul__(self, other: Line | float) -> Line:
        return _combined("*", np.multiply, self, other)

    def __truediv__(self, other: Line | float) -> Line:
        """The quotient; undefined (NaN) where the divisor is 0."""
        return _combined("/", _quotient, self, other)

    def __abs__(self) -> Line:
        return derived(f"|{self.key}|", np.abs(self.values), self)

    def since(self, first: int) -> Line:
        """The same line, counting from a later age on."""
        return Line(self.key, self.values, max(self.first, first), self.reach)


def derived(key: str, values: Floats, *parents: Line) -> Line:
    """A line made row by row of others."""
    first = max(parent.first for parent in parents)
    return Line(key, values, first, max(parent.reach for parent in parents))


def _combined(
    sign: str, work: Callable[[Floats, Floats | float], Floats], line: Line, other: Line | float
) -> Line:
    if isinstance(other, Line):
        values = work(line.values, other.values)
        return derived(f"({line.key}{sign}{other.key})", values, line, other)
    return derived(f"({line.key}{sign}{other})", work(line.values, other), line)


def _quotient(left: Floats, right: Floats | float) -> Floats:
    if isinstance(right, float | int):
        return left / right
    quotient = left / right
    infinite = np.isinf(quotient)  # 0 / 0 is NaN already
    if infinite.any():
        quotient[infinite & (right == 0)] = np.nan
    return quotient


@dataclass(frozen=True)
class Tail:
    """What the next rows need of the segment that they may go on with.

    age: Of the first row of the tail.
    states: Of each recursive line its value at row `reach - 1` of the tail; none where its first
        value is still to come.
    """

    age: int
    open_time: Whole
    inputs: Mapping[str, Floats]
    states: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """What formulas ask for, whatever the rows.

    asked: How often each line: when all have it, it is let go, and what is made next finds its
        memory still in the cache.
    reach: Of the line that reaches furthest.
    """

    asked: Mapping[str, int]
    reach: int


class Rows:
    """Rows without gaps inside of segments, every input a finite number."""

    def __init__(
        self,
        open_time: Whole,
        inputs: Mapping[str, Floats],
        begins: Whole,
        plan: Plan | None = None,
        age: int = 0,
        states: Mapping[str, float] | None = None,
    ) -> None:
        """open_time: In µs.

        begins: Rows with which segments begin, row 0 the first of them.
        plan: Of the formulas that will work on these rows; None to make one.
        age: Of row 0 in its segment; above 0 where rows begin with a remembered tail.
        states: As remembered with the tail.
        """
        self.open_time = open_time
        self.begins = begins
        self.ends = np.concatenate([begins[1:], [open_time.size]])
        ages = np.zeros(begins.size, dtype=np.int64)
        ages[:1] = age
        self._begin_ages = ages
        self._young: dict[int, Whole] = {}
        self._inputs = inputs
        self._states = states or {}
        self._lines: dict[str, Line] = {}
        self._plan = plan
        self._asked: Counter[str] = Counter()
        self._reach = 1
        if plan is not None:
            # Where the tail begins.
            self._start = max(int(begins[-1]), open_time.size - plan.reach)
            self._start_age = int(ages[-1]) + self._start - int(begins[-1])
        self._found_states: dict[str, float] = {}

    def __getitem__(self, name: str) -> Line:
        """An input column."""
        return Line(name, self._inputs[name])

    @property
    def size(self) -> int:
        return self.open_time.size

    @property
    def firsts(self) -> Whole:
        """The first rows of segments."""
        firsts: Whole = self.begins[self._begin_ages == 0]
        return firsts

    def younger(self, age: int) -> Whole:
        """Rows that have not reached this age in their segment."""
        if age not in self._young:
            counts = np.minimum(np.maximum(age - self._begin_ages, 0), self.ends - self.begins)
            before = np.cumsum(counts) - counts
            self._young[age] = np.arange(counts.sum()) + np.repeat(self.begins - before, counts)
        return self._young[age]

    def once(self, key: str, make: Callable[[str], Line]) -> Line:
        """Make a line that several indicators may want, the first time it is asked for."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = make(key)
        self._asked[key] += 1
        if self._plan is None:
            self._reach = max(self._reach, line.reach)
        else:
            assert line.reach <= self._plan.reach
            if self._asked[key] >= self._plan.asked.get(key, 0):
                del self._lines[key]
        return line

    def plan(self) -> Plan:
        """What was asked of these rows."""
        return Plan(dict(self._asked), self._reach)

    # Over windows

    def lag(self, line: Line, n: int = 1) -> Line:
        return self._window(f"lag({line.key},{n})", windows.lagged, line, n, n)

    def change(self, line: Line, n: int = 1) -> Line:
        return self._window(f"change({line.key},{n})", windows.changed, line, n, n)

    def total(self, line: Line, n: int) -> Line:
        return self._window(f"sum({line.key},{n})", windows.window_sum, line, n, n - 1)

    def mean(self, line: Line, n: int) -> Line:
        return self._window(f"mean({line.key},{n})", windows.window_mean, line, n, n - 1)

    def weighted(self, line: Line, n: int) -> Line:
        return self._window(f"wma({line.key},{n})", windows.window_weighted_mean, line, n, n - 1)

    def highest(self, line: Line, n: int) -> Line:
        return self._window(f"max({line.key},{n})", windows.window_max, line, n, n - 1)

    def lowest(self, line: Line, n: int) -> Line:
        return self._window(f"min({line.key},{n})", windows.window_min, line, n, n - 1)

    def since_highest(self, line: Line, n: int) -> Line:
        return self._window(f"argmax({line.key},{n})", windows.rows_since_max, line, n, n - 1)

    def since_lowest(self, line: Line, n: int) -> Line:
        return self._window(f"argmin({line.key},{n})", windows.rows_since_min, line, n, n - 1)

    def variance(self, line: Line, n: int) -> Line:
        return self._window(f"var({line.key},{n})", windows.window_variance, line, n, n - 1)

    def slope(self, line: Line, n: int) -> Line:
        return self._window(f"slope({line.key},{n})", windows.window_slope, line, n, n - 1)

    def deviation(self, line: Line, n: int) -> Line:
        """Mean distance from the mean of the window."""
        middle = self.mean(line, n)

        def work(values: Floats, n: int) -> Floats:
            return windows.window_deviation(values, middle.values, n)

        return self._window(f"mad({line.key},{n})", work, line, n, n - 1)

    def _window(
        self, key: str, work: Callable[[Floats, int], Floats], line: Line, n: int, back: int
    ) -> Line:
        """back: Rows before its own that a value needs."""
        return self.once(
            key,
            lambda key: Line(key, work(line.values, n), line.first + back, line.reach + back),
        )

    # Recursive

    def ema(self, line: Line, n: int, first: int | None = None) -> Line:
        """Exponential average, alpha 2 / (n + 1), seeded with the mean of `n` values.

        first: Age of the seed, where it is later than the earliest possible.
        """
        return self._average(recursions.exponential, line, 2 / (n + 1), n, n, first)

    def ema_from_first(self, line: Line, n: int) -> Line:
        """As `ema`, seeded with the first value."""
        return self._average(recursions.exponential, line, 2 / (n + 1), 1, 1, None)

    def rma(self, line: Line, n: int, first: int | None = None, *, exact: bool = False) -> Line:
        """Wilder's average, alpha 1 / n, seeded with the mean of `n` values.

        exact: The same bits in one run and in pieces; for what the last digits decide of.
        """
        average = recursions.exponential if exact else recursions.decaying
        return self._average(average, line, 1 / n, n, n, first)

    def rma_from_sum(self, line: Line, n: int, *, exact: bool = False) -> Line:
        """As `rma`, as Wilder had it for sums: seeded with that of `n - 1` values, over `n`."""
        average = recursions.exponential if exact else recursions.decaying
        return self._average(average, line, 1 / n, n - 1, n, None)

    def _average(
        self,
        average: Callable[[Floats, Whole, float], Floats],
        line: Line,
        alpha: float,
        seed_rows: int,
        divisor: int,
        first: int | None,
    ) -> Line:
        """An average whose seed is the sum of `seed_rows` values over `divisor`.

        Undefined values are left out; in a seed they count as 0.
        """
        earliest = line.first + seed_rows - 1
        first = earliest if first is None else max(first, earliest)

        def work(begins: Whole, known: Whole, state: float) -> Floats:
            values = line.values.copy()
            seeds = begins[known.size :]
            if seeds.size:
                window = line.values[seeds[:, None] + np.arange(1 - seed_rows, 1)]
                # Added up one by one, so that a seed is the same however many there are.
                values[seeds] = np.cumsum(np.nan_to_num(window), axis=1)[:, -1] / divisor
            values[known] = state
            return average(values, begins, alpha)

        key = f"{average.__name__}({line.key},{alpha},{seed_rows},{divisor},{first})"
        return self.recursive(key, first, line.reach + seed_rows, work)

    def adaptive(self, line: Line, share: Line) -> Line:
        """An average with a share of its own in each row; its seed is the value before the first."""

        def work(begins: Whole, known: Whole, state: float) -> Floats:
            values = line.values.copy()
            values[known] = state
            return recursions.adaptive(values, share.values, begins)

        found = self.recursive(
            f"adaptive({line.key},{share.key})", share.first - 1, share.reach + 1, work
        )
        return found.since(share.first)

    def running(self, line: Line, restarts: Whole | None = None) -> Line:
        """Sum since the segment began.

        restarts: Further rows with which it begins anew.
        """

        def work(begins: Whole, known: Whole, state: float) -> Floats:
            values = line.values.copy()
            values[known] = state
            if restarts is not None and begins.size:
                begins = np.union1d(begins, restarts[restarts > begins[0]])
            return recursions.running_total(values, begins)

        key = f"total({line.key},{restarts is not None})"
        return self.recursive(key, line.first, line.reach + 1, work)

    def recursive(
        self, key: str, first: int, reach: int, work: Callable[[Whole, Whole, float], Floats]
    ) -> Line:
        """A line whose values depend on the ones before.

        first: Age of the row with which it begins in a segment.
        reach: At least one more than that of the lines it is made of.
        work: Given the rows to begin with, which of them is a remembered one if any, and the value
            of that one, returns the values.
        """

        def make(key: str) -> Line:
            seeds = self.begins + (first - self._begin_ages)
            known = np.empty(0, dtype=np.int64)
            state = self._states.get(key)
            if state is not None:
                known = np.array([reach - 1])
                seeds = seeds[1:]
                ends = self.ends[1:]
            else:
                ends = self.ends
            begins = np.concatenate([known, seeds[seeds < ends]])
            values = work(begins, known, state or 0.0)
            if self._plan is not None and self._start_age > 0:
                row = reach - 1
                if self._start_age + row >= first:
                    self._found_states[key] = float(values[self._start + row])
            return Line(key, values, first, reach)

        return self.once(key, make)

    def tail(self) -> Tail:
        """What to remember of these rows for the next ones."""
        inputs = {name: values[self._start :].copy() for name, values in self._inputs.items()}
        return Tail(
            self._start_age, self.open_time[self._start :].copy(), inputs, self._found_states
        )
