"""`/v1/klines` and every other data set: the rows of one symbol, page by page or all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import polars as pl
import pyarrow as pa
from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import DAY_US, TimeRange, parse_time
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.asked import unknown_symbol
from lakehouse_ray.query.contents import intervals, symbols
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.scan import Where, plan_files, quoted
from lakehouse_ray.query.statement import Result
from lakehouse_ray.query.straight import straight
from lakehouse_ray.query.symbol_rows import identity
from lakehouse_ray.query.versions import spell_versions
from lakehouse_ray.query.views import VIEWS, View
from lakehouse_ray.serve.answers import Rows, reply, too_many_rows, write_all, write_frame
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.cursors import (
    LENGTH_MAX,
    Cursor,
    after_sql,
    fingerprint,
    order_of,
    parse_cursor,
    spell_cursor,
)
from lakehouse_ray.serve.formats import Format, choose_format, encode, rows_limit
from lakehouse_ray.serve.limits import Limits
from lakehouse_ray.serve.service import service_of
from lakehouse_ray.serve.work import StoppableEngine

# Before and after everything that can be stored.
EARLIEST_US, LATEST_US = parse_time("1970"), parse_time("2200")
# Far beyond what a page may have, and still a number that everything here has room for.
LIMIT_MAX = 1_000_000_000
# A URL has to pass the proxy, which reads 15 KiB of it.
SYMBOLS_CHARS_MAX = 10_000
_PARAMETER = ConfigDict(extra="forbid", populate_by_name=True)
# Columns of the view that are in none of its tables.
_OF_VIEW = {KLINES.name: ("base_volume", "taker_buy_base_volume")}


class AnswerQuery(BaseModel):
    """Parameters of every question."""

    model_config = _PARAMETER

    as_of: str | None = Field(
        None,
        min_length=1,
        max_length=LENGTH_MAX,
        description="Tables as they were: a time, the id of a snapshot, or what the header "
        "Lakehouse-Snapshots of an answer said.",
    )
    format: Format | None = Field(None, description="Before the header Accept.")


class RowsQuery(AnswerQuery):
    symbol: str = Field(
        min_length=1,
        max_length=40,
        description="The exchange's own spelling.",
        examples=["BTCUSDT"],
    )
    market: str = Field("spot", description="spot, um (USD-M) or cm (COIN-M).", examples=["spot"])
    start: str | None = Field(
        None, max_length=40, description="First instant, ISO, UTC.", examples=["2024-01-05"]
    )
    end: str | None = Field(
        None, max_length=40, description="End, not included.", examples=["2024-01-05T01:00"]
    )
    columns: str | None = Field(
        None,
        max_length=2000,
        description="Some columns, with commas.",
        examples=["symbol,source"],
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=LIMIT_MAX,
        description="Rows of a page. Without it all rows of the range are given, or an error.",
        examples=[1000],
    )
    cursor: str | None = Field(
        None,
        min_length=1,
        max_length=LENGTH_MAX,
        description="Where a page begins: the header Lakehouse-Next of the page before.",
    )


class BarsQuery(RowsQuery):
    interval: str = Field(description="Length of a bar: 1s, 1m, … 1mo.", examples=["1m"])
    columns: str | None = Field(
        None,
        max_length=2000,
        description="Some columns, with commas.",
        examples=["open_time,close"],
    )


class KlinesQuery(BarsQuery):
    indicators: str | None = Field(
        None, max_length=2000, description="With commas, such as sma_20,rsi_14."
    )
    warmup: int = Field(
        0, ge=0, le=100_000, description="Bars before start with which indicators begin."
    )
    source: str | None = Field(
        None, alias="from", description="Make bars from stored ones of this interval."
    )
    offset: str = Field("0m", max_length=400, description="With from: where bars begin.")
    partial: str = Field("keep", description="With from: keep or drop bars that lack finer ones.")
    empty: str = Field("none", description="With from: none, null or carry, for bars without any.")


def span_of(start: str | None, end: str | None) -> TimeRange | None:
    """Raises InvalidError for what is no time, or no range."""
    if start is None and end is None:
        return None
    first = EARLIEST_US if start is None else _moment(start)
    return TimeRange(first, LATEST_US if end is None else _moment(end))


def _moment(text: str) -> int:
    found = parse_time(text)
    if not EARLIEST_US <= found <= LATEST_US:
        raise InvalidError(f"there is nothing at {text}", "times are from 1970 to 2200")
    return found


async def answer_rows(request: Request, dataset: Dataset, query: RowsQuery) -> Response:
    """The rows of one symbol."""
    service = service_of(request)
    form = choose_format(query.format, request.headers.get("accept", ""))
    asked = query.model_dump(exclude={"format", "cursor", "limit"}, mode="json")
    asked["dataset"] = dataset.name
    view = VIEWS[f"silver.{dataset.view}"]
    question = fingerprint(asked)
    table = dataset.tables[0]
    cursor = parse_cursor(query.cursor, question, table) if query.cursor else None
    shown = _columns(dataset, query.columns)
    interval = getattr(query, "interval", None)
    _check_symbol(query.symbol)
    series = identity(dataset, query.symbol, query.market, interval)
    where = Where(series, span_of(query.start, query.end))
    computed = isinstance(query, KlinesQuery) and bool(query.indicators or query.source)
    if isinstance(query, KlinesQuery):
        _check_computed(query)
    tables = await service.fix(view.tables, cursor.as_of if cursor else query.as_of)
    limits = service.limits

    def produce(lake: Lake) -> Written:
        def ask(
            statement: str,
            view: View,
            where: Where,
            columns: list[str] | None,
            rows_max: int | None,
        ) -> Result:
            engine = lake.engine
            assert isinstance(engine, StoppableEngine)
            assert engine.kept is not None
            pins = lake.pin([view])
            if rows_max is not None:
                planned = [(p, plan_files(p, where, engine.kept.manifests)) for p in pins.values()]
                found = straight(engine, view, pins, planned, where, columns, rows_max)
                if found is not None:
                    return found
            return service.quick().ask(engine, view, pins, where, statement)

        if isinstance(query, KlinesQuery) and query.source:
            written = _resampled(lake, query, form, limits)
        elif isinstance(query, KlinesQuery) and query.indicators:
            written = _with_indicators(lake, query, form, limits, shown)
        else:
            written = _page(ask, dataset, where, query, cursor, question, form, limits, shown)
        if written.whole.rows == 0 and cursor is None:
            read = getattr(query, "source", None) or interval
            _refuse_unknown(lake, dataset, query, read)
        return written

    position = {"limit": query.limit, "after": list(cursor.after) if cursor else None}
    if computed:
        position = {}
    return await reply(
        request, service, form, tables, asked | position, produce,
        pinned=tables.exact, closed=_is_closed(where.span, service.clock.now_us()),
        rows_max=_rows_max(query, where),
    )  # fmt: skip


def _is_closed(span: TimeRange | None, now_us: int) -> bool:
    """Whether all days of a range are over, and have been for a day: their files are out."""
    return span is not None and span.end_us <= now_us - now_us % DAY_US - DAY_US


def _rows_max(query: RowsQuery, where: Where) -> int | None:
    """Rows that an answer has at most, by its limit or by the bars that fit into its range."""
    if query.limit is not None:
        return query.limit
    length_us = INTERVALS.get(where.equal.get("interval", ""))
    if where.span is None or length_us is None:
        return None
    return (where.span.end_us - where.span.start_us) // length_us + 1


def _check_symbol(symbol: str) -> None:
    if not symbol.isprintable() or any(character.isspace() for character in symbol):
        raise InvalidError("the symbol has characters that no symbol has", "such as BTCUSDT")


def _check_computed(query: KlinesQuery) -> None:
    if query.indicators and query.source:
        raise InvalidError("bars made by from have no indicators", "ask twice")
    computed = query.indicators or query.source
    if computed and (query.limit is not None or query.cursor):
        raise InvalidError(
            "bars that are computed have no pages: each value depends on those before it",
            "narrow the range instead of limit and cursor",
        )
    if query.source and query.columns:
        raise InvalidError("bars made by from come with all their columns", "leave columns away")
    if query.warmup and not query.indicators:
        raise InvalidError("warmup is for indicators", "indicators says which")
    changed = {"offset", "partial", "empty"} & query.model_fields_set
    if changed and not query.source:
        raise InvalidError(f"{', '.join(sorted(changed))} is for bars made by from", "from=1m")


def _columns(dataset: Dataset, columns: str | None) -> list[str] | None:
    if columns is None:
        return None
    known = (*dataset.tables[0].names, *_OF_VIEW.get(dataset.name, ()))
    asked = list(dict.fromkeys(name.strip() for name in columns.split(",")))
    for name in asked:
        if name not in known:
            raise InvalidError(
                f"{dataset.name} has no column {name!r}", f"its columns: {', '.join(known)}"
            )
    return asked


def _page(
    ask: Callable[[str, View, Where, list[str] | None, int | None], Result],
    dataset: Dataset,
    where: Where,
    query: RowsQuery,
    cursor: Cursor | None,
    question: str,
    form: Format,
    limits: Limits,
    shown: list[str] | None,
) -> Written:
    table = dataset.tables[0]
    view = VIEWS[f"silver.{dataset.view}"]
    order = order_of(table)
    most = rows_limit(limits, form)
    wanted = min(query.limit or most, most)
    condition = where.sql(table)
    # None: what follows a key of several columns is for a statement to find.
    rows_max: int | None = wanted + 1
    if cursor is not None:
        condition += f" AND {after_sql(table, cursor.after)}"
        # The time is the first part of the key: files before it hold nothing of this page.
        first_us = int(cursor.after[0])
        where = Where(where.equal, _from(where.span, first_us))
        assert where.span is not None
        if len(order) == 1 and first_us + 1 < where.span.end_us:
            where = Where(where.equal, TimeRange(first_us + 1, where.span.end_us))
        else:
            rows_max = None
    columns = None if shown is None else list(dict.fromkeys((*shown, *order)))
    chosen = "*" if columns is None else ", ".join(map(quoted, columns))
    statement = (
        f"SELECT {chosen} FROM {{view}} WHERE {condition} "
        f"ORDER BY {', '.join(map(quoted, order))} LIMIT {wanted + 1}"
    )
    with ask(statement, view, where, columns, rows_max) as result:
        rows = Rows(result, wanted, shown or result.columns)

        def following() -> str | None:
            if not rows.more or rows.last is None:
                return None
            if query.limit is None:
                raise too_many_rows(most, form)
            after = tuple(_value(rows.last.column(name)) for name in order)
            return spell_cursor(Cursor(question, spell_versions(result.snapshots), after))

        def checked() -> Generator[pa.RecordBatch, None, None]:
            yield from rows.batches()
            following()

        with closing(checked()) as batches:
            whole = encode(
                result, batches, form, limits.answer_bytes_max, lambda: {"next": following()}
            )
        return Written(whole, following())


def _from(span: TimeRange | None, first_us: int) -> TimeRange:
    end_us = LATEST_US if span is None else span.end_us
    if first_us >= end_us:  # a cursor of ours has the time of a row in the range
        raise InvalidError("the cursor lies outside of the range", "begin without one")
    return TimeRange(first_us, end_us)


def _value(column: pa.Array) -> Any:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())[0].as_py()
    return column[0].as_py()


def _with_indicators(
    lake: Lake, query: KlinesQuery, form: Format, limits: Limits, shown: list[str] | None
) -> Written:
    assert query.indicators is not None
    answer = lake.select_indicators(
        query.symbol, query.interval, query.indicators, query.start, query.end, query.market,
        warmup=query.warmup,
    )  # fmt: skip
    with answer as result:
        outputs = [name for name in result.columns if name not in _all_columns()]
        return write_all(result, form, limits, None if shown is None else [*shown, *outputs])


def _all_columns() -> tuple[str, ...]:
    return (*KLINES.tables[0].names, *_OF_VIEW[KLINES.name])


def _resampled(lake: Lake, query: KlinesQuery, form: Format, limits: Limits) -> Written:
    assert query.source is not None
    made = lake.resample(
        query.symbol, query.interval, query.start, query.end, query.market,
        source=query.source, offset=query.offset, partial=query.partial, empty=query.empty,
    )  # fmt: skip
    frame = made.collect()
    assert isinstance(frame, pl.DataFrame)
    return write_frame(lake, frame, form, limits)


def _refuse_unknown(lake: Lake, dataset: Dataset, query: RowsQuery, interval: str | None) -> None:
    """Nothing is an answer for a symbol that is stored, and a mistake for one that is not."""
    series = identity(dataset, query.symbol, query.market, interval)
    what = " ".join(part for part in (query.market, dataset.name, interval) if part)
    known = symbols(lake, dataset, query.market, series.get("interval"))
    if query.symbol not in known:
        other = intervals(lake, dataset, query.market, query.symbol) if dataset.bars else []
        raise unknown_symbol(query.symbol, known, what, other)
