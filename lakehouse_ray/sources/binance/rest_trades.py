"""Trades and aggTrades by REST: the first one by its time, then page after page by id.

A page that is not full is no end: the end is an answer without rows, asked for twice, or a row past
the range. Ids that are missing between two rows are asked for once more by themselves; the exchange
has holes in its ids, and a cut answer looks the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.trades import TRADES
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.records.base import Record
from lakehouse_ray.model.records.trades import AggTradeRecord, TradeRecord
from lakehouse_ray.model.streams import FILLED_BY_REST
from lakehouse_ray.model.timespan import HOUR_US, TimeRange, parse_time
from lakehouse_ray.sources.binance import rest_requests as ask
from lakehouse_ray.sources.binance.rest_rows import read_rows
from lakehouse_ray.sources.rest import Asking, Pages, Request, Rows

# Times are asked for in whole ms, and rows may be in µs.
_MS_US = 1000
# On futures a range of time has to be shorter than an hour, what is added around it included.
_WINDOW_US = HOUR_US - 4 * _MS_US
# Ranges of ids that are asked for again in one fill: each costs a whole page.
_HOLES_MAX = 5
_EVER = TimeRange(parse_time("2010"), parse_time("2200"))


@dataclass(frozen=True)
class _Numbered:
    """How rows with ids are asked for."""

    dataset: Dataset
    record: type[Record]
    id: str
    page: Callable[[int], Request]


def agg_trade_pages(fill: Fill, rows: Rows) -> Pages:
    """Ask for the aggTrades of the fill's span, or for its ids."""
    micro = fill.span.start_us >= ask.MICRO_FROM_US

    def page(first_id: int) -> Request:
        return ask.agg_trades_from(fill.market, fill.symbol, first_id, micro=micro)

    kind = _Numbered(AGG_TRADES, AggTradeRecord, "agg_trade_id", page)
    if fill.ids is not None:
        yield from _of_ids(kind, fill, rows, *fill.ids)
        return
    first = yield from _first(fill, rows)
    if first is None:
        return
    rows.frames.append(_within(first, AGG_TRADES, fill.span))
    if _past(first, AGG_TRADES, fill.span):
        return
    last_id = int(first["agg_trade_id"][-1])
    since_us = int(first["transact_time"].dt.epoch("us")[-1])
    yield from _holes(kind, fill, rows, first, int(first["agg_trade_id"][0]) - 1)
    yield from _by_id(kind, fill, rows, last_id, since_us)


def trade_pages(fill: Fill, rows: Rows) -> Pages:
    """Ask for the fill's ids, or the trades of its span: an aggTrade tells the id of the first one."""
    micro = fill.span.start_us >= ask.MICRO_FROM_US

    def page(first_id: int) -> Request:
        return ask.trades_from(fill.market, fill.symbol, first_id, micro=micro)

    kind = _Numbered(TRADES, TradeRecord, "id", page)
    if fill.ids is not None:
        yield from _of_ids(kind, fill, rows, *fill.ids)
        return
    first = yield from _first(fill, rows)
    if first is None:
        return
    known = first.filter(pl.col("first_trade_id") >= 0)
    if known.is_empty():
        raise BadDataError("REQUEST_REFUSED", "no aggTrade of the range tells a trade's id")
    yield from _by_id(kind, fill, rows, int(known["first_trade_id"][0]) - 1, fill.span.start_us)


def _first(fill: Fill, rows: Rows) -> Asking[pl.DataFrame | None]:
    """The first page with aggTrades of the span, or of just beside it; None: there are none."""
    cursor_us = fill.span.start_us
    window_us = fill.span.end_us - cursor_us if fill.market == "spot" else _WINDOW_US
    while cursor_us < fill.span.end_us:
        end_us = min(fill.span.end_us, cursor_us + window_us)
        # The first row of a span may be in the ms that was begun before it.
        span = TimeRange(cursor_us // _MS_US * _MS_US, (end_us // _MS_US + 2) * _MS_US)
        for _ in range(2):
            answer = yield ask.agg_trades_between(
                fill.market, fill.symbol, span.start_us, span.end_us
            )
            frame, bad = read_rows(AGG_TRADES, AggTradeRecord, answer.items, fill.symbol, span)
            rows.bad += bad
            if not frame.is_empty():
                return frame
        cursor_us = end_us
    rows.absent.append(fill.span)
    return None


def _of_ids(kind: _Numbered, fill: Fill, rows: Rows, first_id: int, last_id: int) -> Pages:
    """Take the rows with these ids, both ends included, as far as the exchange has them."""
    next_id, empty = first_id, 0
    while next_id <= last_id and empty < 2:
        frame = yield from _page(kind, fill, rows, next_id)
        if frame.is_empty():
            empty += 1
            continue
        empty = 0
        # The first row behind the range shows what is missing at its end.
        reached = frame.sort(kind.id).filter(pl.col(kind.id).shift(1, fill_value=0) <= last_id)
        rows.frames.append(_wanted(reached, kind.dataset, fill))
        yield from _holes(kind, fill, rows, reached, next_id - 1)
        next_id = int(frame[kind.id].max()) + 1  # type: ignore[arg-type]


def _by_id(kind: _Numbered, fill: Fill, rows: Rows, last_id: int, since_us: int) -> Pages:
    """Take everything after an id, and a moment, until a row is past the span or there is none."""
    empty = 0
    rows.silent_us = since_us
    while empty < 2:
        frame = yield from _page(kind, fill, rows, last_id + 1)
        if frame.is_empty():
            empty += 1
            continue
        empty = 0
        rows.silent_us = int(frame[kind.dataset.time].dt.epoch("us").max())  # type: ignore[arg-type]
        rows.frames.append(_within(frame, kind.dataset, fill.span))
        yield from _holes(kind, fill, rows, frame, last_id)
        if _past(frame, kind.dataset, fill.span):
            rows.silent_us = None
            return
        last_id = int(frame[kind.id].max())  # type: ignore[arg-type]


def _page(kind: _Numbered, fill: Fill, rows: Rows, first_id: int) -> Asking[pl.DataFrame]:
    answer = yield kind.page(first_id)
    frame, bad = read_rows(kind.dataset, kind.record, answer.items, fill.symbol, _EVER)
    rows.bad += bad
    least = frame[kind.id].min()
    if isinstance(least, int) and least < first_id:
        raise BadDataError("BROKEN_SEQUENCE", f"asked from id {first_id}, it answers from {least}")
    return frame


def _holes(kind: _Numbered, fill: Fill, rows: Rows, frame: pl.DataFrame, before_id: int) -> Pages:
    """Ask again for ids that are missing in a page, and between it and the one before."""
    ids = frame[kind.id].sort()
    holes = (
        pl.DataFrame({"before": ids.shift(1, fill_value=before_id), "id": ids})
        .filter(pl.col("id") - pl.col("before") > 1)
        .rows()
    )
    for start, next_id in holes:
        if rows.holes_asked >= _HOLES_MAX:
            rows.notes.append(f"ids are missing after {start} too, and were not asked for again")
            return
        rows.holes_asked += 1
        last_id = start
        # More than a page of rows may be there.
        while last_id + 1 < next_id:
            again = yield from _page(kind, fill, rows, last_id + 1)
            rows.frames.append(_wanted(again, kind.dataset, fill))
            if again.is_empty() or _behind(again, kind, fill):
                break
            last_id = int(again[kind.id].max())  # type: ignore[arg-type]


def _behind(frame: pl.DataFrame, kind: _Numbered, fill: Fill) -> bool:
    """Whether a page reaches the end of what the fill is for."""
    if fill.ids is None:
        return _past(frame, kind.dataset, fill.span)
    return bool((frame[kind.id] >= fill.ids[1]).any())


def _wanted(frame: pl.DataFrame, dataset: Dataset, fill: Fill) -> pl.DataFrame:
    """Rows that the fill is for."""
    if fill.ids is None:
        return _within(frame, dataset, fill.span)
    number = FILLED_BY_REST[dataset.name]
    assert number is not None
    return frame.filter(pl.col(number).is_between(*fill.ids))


def _within(frame: pl.DataFrame, dataset: Dataset, span: TimeRange) -> pl.DataFrame:
    micro = pl.col(dataset.time).dt.epoch("us")
    return frame.filter((micro >= span.start_us) & (micro < span.end_us))


def _past(frame: pl.DataFrame, dataset: Dataset, span: TimeRange) -> bool:
    """Whether the last row is at or past the end of the span."""
    return bool((frame[dataset.time].dt.epoch("us") >= span.end_us).any())
