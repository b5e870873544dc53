"""Bars with indicators, computed while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import polars as pl
import pyarrow as pa

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.compute import compute
from lakehouse_ray.kernels.indicators.declaration import Request
from lakehouse_ray.model.timespan import month_of, month_ordinal
from lakehouse_ray.model.venue import INTERVALS, parse_interval
from lakehouse_ray.query.conversions import BATCH_ROWS, Readings
from lakehouse_ray.query.statement import Closing, Result

# Given columns and how many rows at most (None: all of them), asks for bars.
Ask = Callable[[list[str] | None, int | None], Result]


class Answer(Protocol):
    """What a command writes: a `Result`, or one with indicators."""

    @property
    def columns(self) -> list[str]: ...
    @property
    def types(self) -> list[str]: ...
    @property
    def snapshots(self) -> dict[str, int | None]: ...
    @property
    def schema(self) -> pa.Schema: ...
    def fetch_batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]: ...


def earlier(start_us: int, interval: str, bars: int) -> int:
    """Return when the earliest of so many bars before `start_us` opens, were there no gap.

    Bars before a gap do not count in what is computed after it, so these are all that can.
    """
    if bars < 0:
        raise InvalidError(f"warmup counts bars, and cannot be {bars}", "0 or more")
    if bars == 0:
        return start_us
    length_us = INTERVALS[parse_interval(interval)]
    if length_us is not None:
        return max(start_us - bars * length_us, 0)
    return month_of(max(month_ordinal(start_us - 1) - bars + 1, 0)).start_us


class BarsWithIndicators:
    """One question for bars and indicators. Memory holds a batch of bars at a time."""

    def __init__(
        self,
        ask: Ask,
        requests: tuple[Request, ...],
        interval: str,
        shown_from_us: int | None,
        schema: pl.Schema,
    ) -> None:
        """shown_from_us: Earlier bars are computed and left away; None shows all.

        schema: Of the bars.

        Raises InvalidError where an indicator's column has the name of one of the bars.
        """
        self._ask = ask
        self._requests = requests
        self._interval = interval
        self._shown_from_us = shown_from_us
        self._bars = schema
        outputs = {name: pl.Float64() for request in requests for name in request.outputs}
        self.schema = pl.Schema({**schema, **outputs})

    def frames(
        self,
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        """What Polars calls to read: indicators that nobody looks at are not computed."""
        looked_at = with_columns
        if looked_at is not None and predicate is not None:
            looked_at = [*looked_at, *predicate.meta.root_names()]
        left = n_rows
        columns = None if looked_at is None else set(looked_at)
        with self._ask(self._needed(columns), None) as result:
            for frame in self._computed(result, columns, batch_size or BATCH_ROWS):
                chosen = frame if predicate is None else frame.filter(predicate)
                if with_columns is not None:
                    chosen = chosen.select(with_columns)
                if left is not None:
                    chosen = chosen.head(left)
                    left -= chosen.height
                yield chosen
                if left == 0:
                    return

    def result(self) -> ResultWithIndicators:
        """All columns, to be read in batches."""
        return ResultWithIndicators(self._ask(None, None), self)

    def _wanted(self, columns: set[str] | None) -> tuple[Request, ...]:
        if columns is None:
            return self._requests
        return tuple(r for r in self._requests if columns.intersection(r.outputs))

    def _needed(self, columns: set[str] | None) -> list[str] | None:
        """Columns of the bars to read for these columns of the answer."""
        if columns is None:
            return None
        inputs = {name for r in self._wanted(columns) for name in r.indicator.columns}
        return [n for n in self._bars if n == "open_time" or n in inputs or n in columns]

    def computed(self, result: Result, rows: int) -> Iterator[pl.DataFrame]:
        """Bars of a result with all indicators, in batches without the earlier ones."""
        return self._computed(result, None, rows)

    def _computed(
        self, result: Result, columns: set[str] | None, rows: int
    ) -> Iterator[pl.DataFrame]:
        names = [request.name for request in self._wanted(columns)]
        carry = None
        for batch in result.fetch_batches(rows):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            if names:
                frame, carry = compute(frame, names, self._interval, carry)
            if self._shown_from_us is not None:
                frame = frame.filter(pl.col("open_time").dt.timestamp("us") >= self._shown_from_us)
            if frame.height:
                yield frame


class ResultWithIndicators(Readings, Closing):
    """The answer of a statement with a column per output of the indicators after its own."""

    def __init__(self, result: Result, bars: BarsWithIndicators) -> None:
        self._result = result
        self._bars = bars
        self._outputs = [n for n in bars.schema if n not in result.columns]

    def close(self) -> None:
        self._result.close()

    @property
    def columns(self) -> list[str]:
        return [*self._result.columns, *self._outputs]

    @property
    def types(self) -> list[str]:
        return [*self._result.types, *("DOUBLE" for _ in self._outputs)]

    @property
    def snapshots(self) -> dict[str, int | None]:
        return self._result.snapshots

    @property
    def schema(self) -> pa.Schema:
        schema = self._result.schema
        for name in self._outputs:
            schema = schema.append(pa.field(name, pa.float64()))
        return schema

    def fetch_batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        schema = self.schema
        for frame in self._bars.computed(self._result, rows):
            yield from frame.to_arrow().cast(schema).combine_chunks().to_batches()
