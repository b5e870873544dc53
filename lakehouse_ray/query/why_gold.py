"""The rows of silver behind a derived bar."""

from __future__ import annotations

from typing import Any

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.product import Input, Product
from lakehouse_ray.model.products.registry import find_products
from lakehouse_ray.model.timespan import DAY_US, TimeRange, format_time, to_us
from lakehouse_ray.model.venue import INTERVALS, parse_interval, parse_market
from lakehouse_ray.query.pinned import Kind, Pinned, Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.scan import Where, quoted
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.query.why import Question, explain_row, known_objects
from lakehouse_ray.query.witnesses import Bytes

_LONGEST_BAR_US = 31 * DAY_US


def why_gold(
    lake: Readable,
    product: str,
    market: str,
    symbol: str,
    interval: str,
    at_us: int,
    files: Bytes | None = None,
    as_of: AsOf = None,
) -> dict[str, Any]:
    """Return the document of a derived bar: the bar, how it was built, and what it was made from.

    product: `klines`, `resampled_klines` or `daily`, with or without `gold.`.

    Raises InvalidError for what cannot be, NotFoundError where there is no such bar.
    """
    chosen = parse_interval(interval)
    made = _product(product, chosen)
    parse_market(market)
    pinned = Pinned(lake, VIEWS.values(), as_of)
    table = made.table
    length_us = DAY_US if made.name == "daily" else INTERVALS[chosen] or _LONGEST_BAR_US
    series = {"market": market, "symbol": symbol, "interval": chosen}
    where = Where(series, TimeRange(at_us - length_us + 1, at_us + 1))
    view = VIEWS[table.name]
    rows = pinned.frame(
        f"SELECT * FROM {table.name} WHERE {where.sql(table)} "
        f"ORDER BY {quoted(table.time)} DESC LIMIT 1",
        view,
        where,
    )
    if rows.is_empty():
        raise NotFoundError(
            f"{table.name} has no bar of {symbol} {chosen} at {format_time(at_us)}",
            f"`lakehouse build {made.name}` makes them of what silver has; `lakehouse why` without "
            "--gold says what silver has",
        )
    row = rows.row(0, named=True)
    start_us = to_us(row[table.time])
    close = row.get("close_time")
    end_us = start_us + DAY_US if close is None else to_us(close) + 1
    span = TimeRange(start_us, max(end_us, start_us + 1))
    document: dict[str, Any] = {
        "v": 1,
        "asked": {
            "market": market, "product": made.name, "interval": chosen, "symbol": symbol,
            "at": format_time(at_us),
        },
        "found": True,
        "row": {name: _plain(value) for name, value in row.items()},
        "built": _built(pinned, made, series),
        "inputs": [
            told for item in made.inputs
            if (told := _input(pinned, item, market, symbol, chosen, span)) is not None
        ],
    }  # fmt: skip
    if row.get("is_filled"):
        document["note"] = "made up: silver has no such bar; its prices are those of the one before"
    same = made.name.startswith("klines") and not row.get("is_filled")
    if same:
        asked = Question(Kind(KLINES, market, chosen), symbol, start_us)
        document["silver"] = explain_row(pinned, known_objects(lake), lake.engine, asked, files)
    return document


def _product(name: str, interval: str) -> Product:
    found = find_products(name)
    for product in found:
        if interval in product.intervals:
            return product
    known = sorted(
        {one for product in found for one in product.intervals}, key=list(INTERVALS).index
    )
    raise InvalidError(f"{name} has no {interval} bars", f"it has {', '.join(known)}")


def _built(pinned: Pinned, product: Product, series: dict[str, str]) -> dict[str, Any] | None:
    """The last build of the unit that the bar is of."""
    view = VIEWS["gold.builds"]
    where = Where(series | {"product": product.name})
    rows = pinned.frame(
        f"SELECT period, version, fingerprint, rows_read, rows, run_id, built_at FROM {view.name} "
        f"WHERE {where.sql(view.tables[0])} ORDER BY built_at DESC LIMIT 1",
        view,
        where,
    )
    if rows.is_empty():
        return None
    return {name: _plain(value) for name, value in rows.row(0, named=True).items()}


def _input(
    pinned: Pinned, item: Input, market: str, symbol: str, interval: str, span: TimeRange
) -> dict[str, Any] | None:
    """Rows of silver of the bar's time, counted by the version of the object that gave them."""
    dataset = item.source
    if not isinstance(dataset, Dataset) or market not in dataset.archive:
        return None
    kind = Kind(dataset, market, (item.interval or interval) if dataset.bars else None)
    where = Where(kind.equal | {"symbol": symbol}, span)
    time = quoted(dataset.time)
    rows = pinned.frame(
        f"SELECT source, source_key, source_version, count(*) AS rows, min({time}) AS first, "
        f"max({time}) AS last, string_agg(DISTINCT flags, ',') AS flags FROM {kind.view.name} "
        f"WHERE {where.sql(kind.table)} GROUP BY source, source_key, source_version ORDER BY first",
        kind.view,
        where,
    )
    return {
        "name": item.name,
        "dataset": dataset.name,
        "interval": kind.interval,
        "rows": int(rows["rows"].sum()),
        "start": format_time(span.start_us),
        "end": format_time(span.end_us),
        "objects": [
            {name: _plain(value) for name, value in row.items()}
            for row in rows.iter_rows(named=True)
        ],
    }


def _plain(value: Any) -> Any:
    return format_time(to_us(value)) if hasattr(value, "tzinfo") else value
