"""Funding rates and metrics by REST."""

from __future__ import annotations

from typing import Any

import polars as pl

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.datasets.funding_rates import FUNDING_RATES
from lakehouse_ray.model.datasets.metrics import METRICS
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.records.contracts import FundingRecord, MetricsRecord
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, TimeRange, format_time
from lakehouse_ray.sources.binance import rest_requests as ask
from lakehouse_ray.sources.binance.rest_rows import read_rows
from lakehouse_ray.sources.rest import Asking, Pages, Rows

# The longest interval between two payments, and some time.
_BEFORE_US = DAY_US + HOUR_US
# Between two payments; longer ones are looked at twice.
_USUAL_HOURS_MAX = 8
_SAMPLE_US = 5 * MINUTE_US
# REST has metrics of so long; less a while, for they age while pages are waited for.
_METRICS_AGE_US = 30 * DAY_US - HOUR_US


def funding_pages(fill: Fill, rows: Rows) -> Pages:
    """Ask for the payments of the fill's span.

    The answer does not tell the interval. It is the time since the payment before, so the span is
    asked for from a day earlier on; of the first payment there ever was it is the time to the next
    one, and without one that payment is left for later.
    """
    span = TimeRange(fill.span.start_us - _BEFORE_US, fill.span.end_us)
    found = yield from _payments(fill, span, rows, empty_max=2)
    if found and _uneven(_once(found), fill.span.start_us):
        # Intervals do change; but an answer that leaves payments out looks the same.
        found += yield from _payments(fill, span, rows, empty_max=1)
    if not found:
        rows.absent.append(fill.span)
        return
    frame = _with_intervals(_once(found))
    last_us = int(frame["calc_time"].dt.epoch("us")[-1])
    rows.silent_us = max(fill.span.start_us, last_us + 1000)
    micro = pl.col("calc_time").dt.epoch("us")
    frame = frame.filter(micro >= fill.span.start_us)
    known = frame.filter(pl.col("funding_interval_hours").is_between(1, 24))
    rows.left_open += frame.height - known.height
    rows.frames.append(known)


def _payments(
    fill: Fill, span: TimeRange, rows: Rows, *, empty_max: int
) -> Asking[list[pl.DataFrame]]:
    """The payments of a range, page by page. empty_max: Answers without any that end it."""
    found: list[pl.DataFrame] = []
    cursor_us, empty = span.start_us, 0
    while cursor_us < span.end_us and empty < empty_max:
        page = TimeRange(cursor_us, span.end_us)
        answer = yield ask.funding(fill.market, fill.symbol, page.start_us, page.end_us)
        frame, bad = read_rows(FUNDING_RATES, FundingRecord, answer.items, fill.symbol, page)
        rows.bad += bad
        if frame.is_empty():
            # Nothing more, or a cut answer.
            empty += 1
            continue
        empty = 0
        found.append(frame)
        cursor_us = int(frame["calc_time"].dt.epoch("us")[-1]) + 1000
    return found


def _once(found: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(found).unique("calc_time").sort("calc_time")


def _uneven(frame: pl.DataFrame, start_us: int) -> bool:
    """Whether payments may be missing: some are further apart than others, or the first comes late."""
    micro = frame["calc_time"].dt.epoch("us")
    hours = (micro.diff().drop_nulls() / HOUR_US).round()
    late = int(micro[0]) > start_us
    return late or hours.n_unique() > 1 or bool((hours > _USUAL_HOURS_MAX).any())


def metrics_pages(fill: Fill, rows: Rows) -> Pages:
    """Ask for the samples of the fill's span, route by route, as far back as the exchange goes."""
    oldest_us = metrics_from_us(fill.asked_us)
    if fill.span.end_us <= oldest_us:
        raise BadDataError(
            "REQUEST_REFUSED", f"REST has metrics from {format_time(oldest_us)} on alone"
        )
    start_us = max(fill.span.start_us, oldest_us)
    if start_us > fill.span.start_us:
        rows.notes.append(f"REST has metrics from {format_time(oldest_us)} on alone")
    step_us = ask.METRICS_PAGE_ROWS * _SAMPLE_US
    for from_us in range(start_us, fill.span.end_us, step_us):
        page = TimeRange(from_us, min(fill.span.end_us, from_us + step_us))
        due = -(-(page.end_us - page.start_us) // _SAMPLE_US)
        samples: dict[Any, dict[str, Any]] = {}
        for route, cells in ask.METRICS_ROUTES:
            request = ask.metrics(fill.market, route, fill.symbol, page.start_us, page.end_us)
            if request is None:
                continue
            answer = yield request
            _join(samples, answer.items, cells)
            if _samples_in(answer.items) < due:  # that is all there is, or rows were left out
                answer = yield request
                _join(samples, answer.items, cells)
        frame, bad = read_rows(METRICS, MetricsRecord, list(samples.values()), fill.symbol, page)
        rows.bad += bad
        rows.frames.append(frame)
        rows.partial += _partial(frame, ask.metrics_columns(fill.market))
        if not samples:
            rows.absent.append(page)


def _partial(frame: pl.DataFrame, columns: tuple[str, ...]) -> list[TimeRange]:
    """The slots of samples that lack a cell."""
    lacking = frame.filter(pl.any_horizontal(pl.col(columns).is_null()))
    return [
        TimeRange(us // _SAMPLE_US * _SAMPLE_US, (us // _SAMPLE_US + 1) * _SAMPLE_US)
        for us in lacking["create_time"].dt.epoch("us").to_list()
    ]


def metrics_from_us(now_us: int) -> int:
    """The first sample that REST still has at a moment."""
    return -(-(now_us - _METRICS_AGE_US) // _SAMPLE_US) * _SAMPLE_US


def _with_intervals(frame: pl.DataFrame) -> pl.DataFrame:
    """Hours since the payment before; of the first one, to the one after."""
    micro = pl.col("calc_time").dt.epoch("us")
    hours = (micro.diff() / HOUR_US).round().cast(pl.Int64)
    return frame.with_columns(funding_interval_hours=hours.fill_null(hours.shift(-1)))


def _samples_in(items: list[Any]) -> int:
    return len({item.get("timestamp") for item in items if isinstance(item, dict)})


def _join(
    samples: dict[Any, dict[str, Any]], items: list[Any], cells: tuple[tuple[str, str], ...]
) -> None:
    """Put the cells of one route's answer to the samples of their time."""
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            samples[f"odd {number}"] = {"timestamp": item}
            continue
        time = item.get("timestamp")
        sample = samples.setdefault(time if isinstance(time, int) else f"odd {time}", {})
        sample["timestamp"] = time
        if "symbol" in item:
            sample["symbol"] = item["symbol"]
        for name, column in cells:
            if item.get(name) is not None:
                sample[column] = item[name]
