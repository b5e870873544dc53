"""A heat map as one HTML file that needs nothing else: symbols down, days across, on a canvas.

Neighbouring days that are alike are written once, so whole years cost a few bytes; 500 symbols with
3,000 complete days are some 100 kB.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from lakehouse_ray.cli.markup import element

_TEMPLATE = Path(__file__).with_name("heatmap.html")
# Series that could not be read and are named.
UNREAD_MAX = 200
_STYLE = Path(__file__).with_name("page.css")


def html_map(coverage: pl.DataFrame, title: str, made_at: str, unread: Sequence[str] = ()) -> str:
    """Return the page.

    coverage: `kernels.coverage.COVERAGE`, sorted.
    made_at: When it was computed, in words.
    unread: What could not be read, a line for each series.
    """
    document = {"title": title, "made": made_at, "series": _series(coverage)}
    # A text of the data must not end the element it stands in.
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("/*STYLE*/", _STYLE.read_text(encoding="utf-8"))
    return page.replace("/*DATA*/", data).replace("<!--UNREAD-->", _unread(unread))


def _unread(lines: Sequence[str]) -> str:
    """What the map does not show, above it and without a script."""
    if not lines:
        return ""
    more = len(lines) - UNREAD_MAX
    items = [element("li", line) for line in lines[:UNREAD_MAX]]
    if more > 0:
        items.append(element("li", f"and {more:,} more"))
    summary = element("summary", f"{len(lines):,} series could not be read")
    return str(element("details", summary, element("ul", items), id="unread", open=""))


def _series(coverage: pl.DataFrame) -> list[dict[str, Any]]:
    found = []
    names = ["market", "dataset", "interval"]
    for (market, dataset, interval), rows in coverage.group_by(names, maintain_order=True):
        first = rows["day"].dt.min()
        assert isinstance(first, date)
        found.append(
            {
                "name": " ".join(str(part) for part in (market, dataset, interval) if part),
                "first": str(first),
                "symbols": [
                    _symbol(str(symbol), days, first)
                    for (symbol,), days in rows.group_by(["symbol"], maintain_order=True)
                ],
            }
        )
    return found


def _symbol(symbol: str, days: pl.DataFrame, first: date) -> dict[str, Any]:
    """at: days from the series' first one; runs: days, rows, rows due (-1: nobody knows), share in
    ten-thousandths, rounded down, over and over."""
    start = days["day"][0]
    # Days of a symbol have no holes: `kernels.coverage.shares` fills them.
    alike = (
        days.select(
            pl.struct(
                "rows",
                pl.col("expected").fill_null(-1),
                (pl.col("share").fill_null(-1e-4) * 10_000 + 1e-6).floor().cast(pl.Int64),
            ).rle()
        )
        .unnest("rows")
        .unnest("value")
    )
    runs = [
        number
        for row in alike.select("len", "rows", "expected", "share").iter_rows()
        for number in row
    ]
    mean = days["share"].mean()
    return {
        "name": symbol,
        "at": (start - first).days,
        "mean": round(mean, 6) if isinstance(mean, float) else None,
        "runs": runs,
    }
