"""Questions for the rows of one symbol: what is asked, what is looked at first, what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from lakehouse_ray.kernels.indicators.registry import parse_names
from lakehouse_ray.kernels.resample import Resampling
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.query.lake_frame import Meta
from lakehouse_ray.query.moments import When
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.resampled import parse_policies, plan_of, schema_of
from lakehouse_ray.remote import questions
from lakehouse_ray.remote.answers import Probed
from lakehouse_ray.remote.questions import Question


@dataclass(frozen=True)
class Asked:
    """probe: Of which one row is read to pin the snapshots and learn the columns.

    paged: Whether the answer comes in pages, and in fewer columns where fewer are looked at.
    series, start, end, as_of: For `Meta`.
    outputs: Columns of numbers after those of the probe. made: Of bars made from finer ones.
    """

    question: Question
    probe: Question
    paged: bool
    time: str
    series: Mapping[str, Any]
    as_of: AsOf
    outputs: tuple[str, ...] = ()
    made: Resampling | None = field(default=None)

    def schema(self, probed: Probed) -> pl.Schema:
        if self.made is not None:
            return schema_of(self.made)
        return pl.Schema({**probed.frame_schema, **dict.fromkeys(self.outputs, pl.Float64())})

    def arrow_schema(self, probed: Probed) -> pa.Schema:
        schema = probed.schema
        for name in self.outputs:
            schema = schema.append(pa.field(name, pa.float64()))
        return schema

    def narrowed(self, with_columns: list[str] | None, predicate: pl.Expr | None) -> Question:
        """The question for the columns that somebody looks at."""
        if with_columns is None or not self.paged:
            return self.question
        roots = [] if predicate is None else predicate.meta.root_names()
        columns = dict.fromkeys([*with_columns, *roots])
        # Without a column there would be no rows to count.
        return self.question.with_params(columns=",".join(columns) or self.time)

    def meta(self, lake: object, snapshots: Mapping[str, int | None]) -> Meta:
        return Meta(lake, self.series, snapshots, self.as_of)


def of_rows(
    dataset: str,
    symbol: str,
    start: When,
    end: When,
    market: str,
    interval: str | None,
    as_of: AsOf,
) -> Asked:
    found = find_dataset(dataset)
    question = questions.rows(dataset, symbol, start, end, market, interval, as_of)
    asked = _series(found.name, symbol, start, end, market, interval)
    return Asked(question, question, True, found.time, asked, as_of)


def with_indicators(
    symbol: str,
    interval: str,
    names: str | Iterable[str],
    start: When,
    end: When,
    market: str,
    warmup: int,
    as_of: AsOf,
) -> Asked:
    requests = parse_names(names)
    bars = of_rows(KLINES.name, symbol, start, end, market, interval, as_of)
    question = questions.indicators(
        symbol, interval, [request.name for request in requests], start, end, market, warmup, as_of
    )
    outputs = tuple(name for request in requests for name in request.outputs)
    return Asked(question, bars.probe, False, KLINES.time, bars.series, as_of, outputs)


def computed(
    symbol: str,
    interval: str,
    start: When,
    end: When,
    market: str,
    source: str,
    offset: str | Iterable[str],
    partial: str,
    empty: str,
    as_of: AsOf,
) -> Asked:
    offsets = offset if isinstance(offset, str) else list(offset)
    plan = plan_of(source, interval, offsets, *parse_policies(partial, empty))
    bars = of_rows(KLINES.name, symbol, start, end, market, plan.source, as_of)
    question = questions.resampled(
        symbol, interval, start, end, market, source, offsets, partial, empty, as_of
    )
    return Asked(question, bars.probe, False, KLINES.time, bars.series, as_of, made=plan)


def _series(
    dataset: str, symbol: str, start: When, end: When, market: str, interval: str | None
) -> dict[str, Any]:
    """As questions about gaps name it."""
    return {
        "market": market,
        "dataset": dataset,
        "symbols": symbol,
        "interval": interval,
        "start": start,
        "end": end,
    }
