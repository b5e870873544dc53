"""Tables of a page, and the line that says how many rows they leave out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from lakehouse_ray.cli.markup import Markup, element
from lakehouse_ray.cli.quality_document import Told
from lakehouse_ray.cli.quality_words import count, name_of


@dataclass(frozen=True)
class Column:
    """title: At its head. cell: What stands in a row. kind: Class of its cells; empty: a number."""

    title: str
    cell: Callable[[dict[str, Any]], object]
    kind: str = ""


def rows_table(columns: Sequence[Column], rows: pl.DataFrame) -> Markup:
    head = [element("th", column.title, class_=column.kind or None) for column in columns]
    body = [
        element(
            "tr",
            [element("td", column.cell(row), class_=column.kind or None) for column in columns],
        )
        for row in rows.iter_rows(named=True)
    ]
    return element("table", element("thead", element("tr", head)), element("tbody", body))


def more(left_out: int, query: str, one: str = "more", many: str = "more") -> list[Markup]:
    """Say what is left out, and how to ask for it."""
    if left_out <= 0:
        return []
    return [
        element(
            "p",
            count(left_out, one, many),
            "; ask ",
            element("code", shlex.join(["lakehouse", "sql", query])),
        )
    ]


def named(row: dict[str, Any]) -> Markup:
    """What a row is about. Names of some scripts run the other way: kept apart from the rest."""
    return element("bdi", name_of(row))


def left_out(told: Told, name: str, rows_max: int) -> int:
    """How many of what `Verdict.totals` counts are not among the first `rows_max`."""
    total = told.verdict.totals[name]
    assert isinstance(total, int)
    return total - rows_max
