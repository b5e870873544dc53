"""Bars made from finer ones while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import get_args

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.grid import parse_offset
from lakehouse_ray.kernels.resample import (
    EmptyPolicy,
    PartialPolicy,
    Resampling,
    resample,
    resample_pieces,
)
from lakehouse_ray.model.timespan import month_of, month_ordinal
from lakehouse_ray.model.venue import INTERVALS, parse_interval
from lakehouse_ray.query.statement import Result

# Given columns and how many rows at most (None: all of them), asks for the finer bars.
Ask = Callable[[list[str] | None, int | None], Result]

# Finer bars added up at once; some 100 bytes each.
_PIECE_ROWS = 500_000
_TIME = pl.Datetime("us", "UTC")
_COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume", "close_time",
)  # fmt: skip


def plan_of(
    source: str,
    target: str,
    offset: str | Iterable[str],
    partial: PartialPolicy,
    empty: EmptyPolicy,
) -> Resampling:
    """What is asked for. Raises InvalidError where it cannot be made, saying what could."""
    offsets = offset.split(",") if isinstance(offset, str) else list(offset)
    offsets_us = tuple(parse_offset(text.strip()) for text in offsets)
    return Resampling(parse_interval(source), parse_interval(target), offsets_us, partial, empty)


def last_end(end_us: int, target: str) -> int:
    """When the last bar that opens before `end_us` ends, at the latest."""
    length_us = INTERVALS[target]
    if length_us is not None:
        return end_us + length_us
    return month_of(month_ordinal(end_us) + 2).start_us


class BarsResampled:
    """One question for longer bars. Memory: a piece of finer ones, and the answer."""

    def __init__(
        self, ask: Ask, plan: Resampling, start_us: int | None, end_us: int | None
    ) -> None:
        """start_us, end_us: Of the openings that are shown; None: no limit. `ask` gives all finer
        bars in them, to the end of the last."""
        self._ask = ask
        self._plan = plan
        self._start_us, self._end_us = start_us, end_us
        self.schema = schema_of(plan)

    def frame(self) -> pl.DataFrame:
        """All of it, by offset and time."""
        with self._ask(list(_COLUMNS), None) as result:
            made = resample_pieces(self._pieces(result), self._plan)
        opens = pl.col("open_time").dt.epoch("us")
        if self._start_us is not None:  # begun earlier, they would lack what came before
            made = made.filter(opens >= self._start_us)
        if self._end_us is not None:
            made = made.filter(opens < self._end_us)
        return made.select(pl.col(name).cast(kind) for name, kind in self.schema.items())

    def frames(
        self,
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        _batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        """What Polars calls to read."""
        made = self.frame()
        if predicate is not None:
            made = made.filter(predicate)
        if with_columns is not None:
            made = made.select(with_columns)
        yield made if n_rows is None else made.head(n_rows)

    def _pieces(self, result: Result) -> Iterator[pl.DataFrame]:
        yield _no_bars()
        held: list[pl.DataFrame] = []
        rows = 0
        for batch in result.fetch_batches():
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            held.append(frame)
            rows += frame.height
            if rows >= _PIECE_ROWS:
                yield pl.concat(held)
                held, rows = [], 0
        if held:
            yield pl.concat(held)


def schema_of(plan: Resampling) -> pl.Schema:
    """Columns of the bars that are made."""
    return resample(_no_bars(), plan).schema


def _no_bars() -> pl.DataFrame:
    types: dict[str, pl.DataType] = dict.fromkeys(_COLUMNS, pl.Float64())
    types |= {"open_time": _TIME, "close_time": _TIME, "trades": pl.Int64()}
    return pl.DataFrame(schema=types)


def parse_policies(partial: str, empty: str) -> tuple[PartialPolicy, EmptyPolicy]:
    """As `Resampling` names them. Raises InvalidError for others."""
    partials = {name: name for name in get_args(PartialPolicy)}
    empties = {name: name for name in get_args(EmptyPolicy)}
    for policy, known in ((partial, partials), (empty, empties)):
        if policy not in known:
            raise InvalidError(f"unknown policy {policy!r}", f"one of {', '.join(known)}")
    return partials[partial], empties[empty]
