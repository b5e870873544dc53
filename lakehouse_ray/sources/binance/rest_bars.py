"""Bars by REST: pages by time, in which nothing may be missing unasked.

The exchange answers with fewer rows than a range has where it stood still, and also where an answer
was cut. Every range without a bar is therefore asked for once more by itself: only what is not there
then either is taken for absent.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.records.bars import KlineRecord
from lakehouse_ray.model.timespan import SECOND_US, TimeRange, month_of, month_ordinal
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.sources.binance import rest_requests as ask
from lakehouse_ray.sources.binance.rest_rows import read_rows
from lakehouse_ray.sources.rest import Asking, Pages, Rows

# A bar is taken for over so long after its end: the exchange writes the last trades into it.
SETTLED_US = 2 * SECOND_US
# Ranges without bars that are asked for again one by one; with more of them, the page as a whole.
_HOLES_MAX = 8
# Times it is asked for what is missing still, as long as each of them brings some of it.
_ROUNDS_MAX = 10


def bar_pages(fill: Fill, rows: Rows) -> Pages:
    """Ask for the bars that open in the fill's span."""
    cursor_us = fill.span.start_us
    while cursor_us < fill.span.end_us:
        page = page_at(fill, cursor_us)
        opened = yield from _page(fill, page, rows)
        absent = list(missing(opened, page, fill.interval or ""))
        for _ in range(_ROUNDS_MAX):
            before = len(opened)
            for hole in absent if len(absent) <= _HOLES_MAX else [page]:
                again = yield from _page(fill, hole, rows)
                opened = sorted({*opened, *again})
            if len(opened) == before:
                break
            absent = list(missing(opened, page, fill.interval or ""))
        cursor_us = page.end_us
        if not opened and fill.market != "cm" and cursor_us < fill.span.end_us:
            # Before its listing a symbol may have years of nothing: go to its next bar.
            rest = TimeRange(cursor_us, fill.span.end_us)
            first = yield from _first(fill, rest, rows)
            cursor_us = fill.span.end_us if first is None else max(cursor_us, first)
            absent = [TimeRange(page.start_us, cursor_us)]
        rows.absent += absent


def page_at(fill: Fill, start_us: int) -> TimeRange:
    """The range of the page that begins at `start_us`."""
    end_us = fill.span.end_us
    if fill.market == "spot" and start_us < ask.MICRO_FROM_US:
        # One unit of time for all of a page.
        end_us = min(end_us, ask.MICRO_FROM_US)
    length_us = INTERVALS[fill.interval or ""]
    if length_us is None:
        if fill.market == "cm":
            longest_us = start_us + ask.COIN_M_SPAN_US
            end_us = min(end_us, month_of(month_ordinal(longest_us)).start_us)
        return TimeRange(start_us, end_us)
    bars = -(-(end_us - start_us) // length_us)
    wanted = ask.bars_a_page(fill.market, fill.interval or "", bars)
    return TimeRange(start_us, min(end_us, start_us + wanted * length_us))


def missing(opened: list[int], page: TimeRange, interval: str) -> Iterator[TimeRange]:
    """Ranges of a page that hold no bar though one would fit. opened: Sorted times of opening."""
    due_us = page.start_us
    for open_us in [*opened, page.end_us]:
        if open_us >= _after(due_us, interval):
            yield TimeRange(due_us, open_us)
        due_us = max(due_us, _after(open_us, interval))


def bars_in(span: TimeRange, interval: str) -> int:
    """How many bars a range has at most."""
    length_us = INTERVALS[interval]
    if length_us is None:
        return month_ordinal(span.end_us - 1) - month_ordinal(span.start_us) + 1
    return -(-(span.end_us - span.start_us) // length_us)


def _page(fill: Fill, page: TimeRange, rows: Rows) -> Asking[list[int]]:
    """Take a page's bars; return when they open, sorted."""
    dataset = find_dataset(fill.dataset)
    interval = fill.interval or ""
    expected = bars_in(page, interval) + 2
    answer = yield ask.bars(
        fill.market, fill.dataset, fill.symbol, interval, page.start_us, page.end_us, expected
    )
    frame, bad = read_rows(dataset, KlineRecord, answer.items, fill.symbol, page)
    over = pl.col("close_time").dt.epoch("us") + SETTLED_US < answer.server_us
    closed = frame.filter(over)
    rows.bad += bad
    rows.left_open += frame.height - closed.height
    rows.frames.append(closed)
    return frame["open_time"].dt.epoch("us").to_list()


def _first(fill: Fill, span: TimeRange, rows: Rows) -> Asking[int | None]:
    """When the first bar of a range opens; None: it has none. Only where the oldest come first."""
    interval = fill.interval or ""
    answer = yield ask.bars(
        fill.market, fill.dataset, fill.symbol, interval, span.start_us, span.end_us, 1
    )
    frame, bad = read_rows(find_dataset(fill.dataset), KlineRecord, answer.items, fill.symbol, span)
    rows.bad += bad
    return None if frame.is_empty() else int(frame["open_time"].dt.epoch("us")[0])


def _after(open_us: int, interval: str) -> int:
    """When the bar after the one of `open_us` opens."""
    length_us = INTERVALS[interval]
    if length_us is None:
        return month_of(month_ordinal(open_us) + 1).start_us
    return open_us + length_us
