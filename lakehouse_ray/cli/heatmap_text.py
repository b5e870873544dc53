"""A heat map in text: symbols down, days across, squeezed to the width.

What a cell says is in its sign, so it reads without colours too; colours go from blue to orange,
which colour-blind people tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from lakehouse_ray.cli.table import cells_of, pad

# At least this share of a cell's rows is nearly all; at least that, the greater part.
HIGH, HALF = 0.95, 0.5

_LABEL_CHARS_MAX = 24
_SHARE_CHARS = 8


@dataclass(frozen=True)
class Style:
    """How cells are drawn. colours: ANSI codes by state, empty for none."""

    signs: dict[str, str]
    colours: dict[str, str]


_BLOCKS = {
    "full": "█", "high": "▓", "part": "▒", "low": "░", "none": "×", "some": "■", "outside": " ",
}  # fmt: skip
_ASCII = {
    "full": "#", "high": "+", "part": "-", "low": ".", "none": "x", "some": "o", "outside": " ",
}  # fmt: skip
_COLOURS = {
    "full": "38;5;32", "high": "38;5;117", "part": "38;5;220", "low": "38;5;208",
    "none": "1;38;5;202", "some": "38;5;36", "outside": "",
}  # fmt: skip
_MEANING = {
    "full": "all rows", "high": "95 % and more", "part": "half and more", "low": "less",
    "none": "no row", "some": "rows, nobody knows how many there should be",
}  # fmt: skip


def style_of(*, ascii_only: bool, colours: bool) -> Style:
    return Style(_ASCII if ascii_only else _BLOCKS, _COLOURS if colours else {})


def text_map(coverage: pl.DataFrame, width: int, style: Style) -> Iterator[str]:
    """Yield the lines of a heat map, a block per kind of series, and the legend.

    coverage: `kernels.coverage.COVERAGE`.
    width: Characters of a line; at least one cell is drawn however narrow it is.
    """
    seen: set[str] = set()
    series = ["market", "dataset", "interval"]
    for names, rows in coverage.group_by(series, maintain_order=True):
        yield from _block(" ".join(str(name) for name in names if name), rows, width, style, seen)
        yield ""
    legend = "  ".join(
        f"{_painted(state, style)} {meaning}"
        for state, meaning in _MEANING.items()
        if state in seen
    )
    yield legend


def _block(
    title: str, rows: pl.DataFrame, width: int, style: Style, seen: set[str]
) -> Iterator[str]:
    first, last = rows["day"].dt.min(), rows["day"].dt.max()
    assert isinstance(first, date)
    assert isinstance(last, date)
    symbols = rows["symbol"].unique(maintain_order=True).to_list()
    label = min(_LABEL_CHARS_MAX, max(cells_of(name) for name in symbols))
    room = max(1, width - label - 1 - _SHARE_CHARS)
    days = (last - first).days + 1
    per_cell = math.ceil(days / room)
    cells = math.ceil(days / per_cell)
    squeezed = f", a sign is {per_cell} days" if per_cell > 1 else ""
    yield f"{title}: {_number(len(symbols), 'symbol')}, {_number(days, 'day')}{squeezed}"
    yield f"{'':<{label}} {_axis(first, last, cells, per_cell)}"
    at = ((pl.col("day") - first).dt.total_days() // per_cell).alias("cell")
    states = _states(rows.with_columns(at))
    for symbol in symbols:
        known = states.filter(symbol=symbol)
        line = ["outside"] * cells
        for cell, state in known.select("cell", "state").iter_rows():
            line[cell] = state
        seen.update(known["state"])
        drawn = _runs(line, style)
        share = rows.filter(symbol=symbol)["share"].mean()
        told = f"{_percent(share):>{_SHARE_CHARS}}" if isinstance(share, float) else ""
        yield f"{pad(_cut(symbol, label), label)} {drawn}{told}".rstrip()


def _states(rows: pl.DataFrame) -> pl.DataFrame:
    """State of each symbol's cells. A cell is full only if every day in it is."""
    share, whole = pl.col("share").mean(), (pl.col("share") == 1.0).all()
    return rows.group_by("symbol", "cell").agg(
        state=pl.when(pl.col("share").is_null().all())
        .then(pl.when((pl.col("rows") > 0).any()).then(pl.lit("some")).otherwise(pl.lit("none")))
        .when(whole)
        .then(pl.lit("full"))
        .when(share >= HIGH)
        .then(pl.lit("high"))
        .when(share >= HALF)
        .then(pl.lit("part"))
        .when(share > 0)
        .then(pl.lit("low"))
        .otherwise(pl.lit("none"))
    )


def _axis(first: date, last: date, cells: int, per_cell: int) -> str:
    """Dates above the cells: the first and the last day, and years between where there is room."""
    line = [" "] * max(cells, len(str(first)))
    marks = [(0, str(first))]
    marks += [
        ((date(year, 1, 1) - first).days // per_cell, str(year))
        for year in range(first.year + 1, last.year + 1)
    ]
    free = 0
    for at, text in marks:
        if at >= free and at + len(text) <= len(line):
            line[at : at + len(text)] = text
            free = at + len(text) + 1
    end = str(first + timedelta(days=(cells - 1) * per_cell) if per_cell > 1 else last)
    if len(line) - len(end) >= free:
        line[len(line) - len(end) :] = end
    return "".join(line).rstrip()


def _runs(states: list[str], style: Style) -> str:
    """Signs of a line; a colour is set where it changes, not for each sign."""
    drawn, colour = [], ""
    for state in states:
        wanted = style.colours.get(state, "")
        if wanted != colour:
            drawn.append(f"\x1b[0m\x1b[{wanted}m" if wanted else "\x1b[0m")
            colour = wanted
        drawn.append(style.signs[state])
    return "".join(drawn) + ("\x1b[0m" if colour else "")


def _painted(state: str, style: Style) -> str:
    return _runs([state], style)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def _percent(share: float) -> str:
    """Never 100 % where a row is missing."""
    return f"{math.floor(share * 10_000) / 100:.2f}%"


def _cut(text: str, width: int) -> str:
    if cells_of(text) <= width:
        return text
    while cells_of(text) >= width:
        text = text[:-1]
    return f"{text}…"
