"""A heat map as one HTML file that needs nothing else: symbols down, days across, on a canvas.

Neighbouring days that are alike are written once, so whole years cost a few bytes; 500 symbols with
3,000 complete days are some 100 kB.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

_TEMPLATE = Path(__file__).with_name("heatmap.html")
_STYLE = Path(__file__).with_name("page.css")


def html_map(coverage: pl.DataFrame, title: str, made_at: str) -> str:
    """Return the page.

    coverage: `kernels.coverage.COVERAGE`, sorted.
    made_at: When it was computed, in words.
    """
    document = {"title": title, "made": made_at, "series": _series(coverage)}
    # A text of the data must not end the element it stands in.
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("/*STYLE*/", _STYLE.read_text(encoding="utf-8"))
    return page.replace("/*DATA*/", data)


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
