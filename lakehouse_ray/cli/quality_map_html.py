"""Heat maps of scores as pictures in a page: symbols down, time across; no script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import polars as pl

from lakehouse_ray.cli.markup import Markup, element
from lakehouse_ray.cli.quality_words import count, plain, score

# Levels are those of the map of coverage, and so are their colours (page.css).
FULL_FROM, PART_FROM = 0.99, 0.5
_ROW, _HEAD, _LABEL, _WIDTH, _CELL_MAX = 18, 20, 150, 1170, 20
# Of a row the box, and of the box the strip at its foot that shows the worst day.
_BOX, _STRIP = 15, 7
_TICK_ROOM = 74
_NAME_CHARS_MAX, _REASONS_CHARS_MAX = 20, 240
_STEPS = {"day": "1d", "week": "1w", "month": "1mo", "quarter": "1q", "year": "1y"}


def level(value: float | None, threshold: float) -> str:
    """The name of a score's colour."""
    if value is None:
        return "some"
    if value <= 0:
        return "none"
    if value < threshold:
        return "part" if value >= PART_FROM else "low"
    return "full" if value >= FULL_FROM else "high"


def meanings(threshold: float) -> dict[str, str]:
    """What each colour says, the best first."""
    words = {"full": f"{max(FULL_FROM, threshold):g} and more"}
    if threshold < FULL_FROM:
        words["high"] = f"{threshold:g} and more"
    if threshold > PART_FROM:
        words["part"] = f"{PART_FROM:g} and more: under the threshold"
    return words | {
        "low": f"less than {min(PART_FROM, threshold):g}",
        "none": "0: nothing of it is there",
        "some": "no score: nothing could be expected",
    }


@dataclass(frozen=True)
class _Run:
    """Neighbouring cells that look the same and mean the same."""

    place: int
    cells: int
    first: date
    last: date
    days: int
    scored: int
    poor: int
    mean: float | None
    least: float | None
    worst_day: date | None
    reasons: str


def heat_map(cells: pl.DataFrame, name: str, threshold: float) -> Markup:
    """Return the picture of one map.

    cells: `query.quality_map.CELLS` of one market, data set and interval, at least one.
    """
    unit = str(cells["unit"][0])
    first, last = cells["start"].min(), cells["start"].max()
    assert isinstance(first, date)
    assert isinstance(last, date)
    starts = pl.date_range(first, last, _STEPS[unit], eager=True).to_list()
    places = {start: place for place, start in enumerate(starts)}
    width = min(_CELL_MAX, (_WIDTH - _LABEL) / len(starts))
    symbols = cells.partition_by("symbol", maintain_order=True)
    height = _HEAD + _ROW * len(symbols)
    total = _LABEL + max(width * len(starts), 2 * _TICK_ROOM)
    rows = [
        _row(rows, _HEAD + number * _ROW, places, width, threshold, unit)
        for number, rows in enumerate(symbols)
    ]
    return element(
        "svg",
        _axis(starts, unit, width, total),
        rows,
        viewBox=f"0 0 {total:.0f} {height}",
        width=f"{total:.0f}",
        height=height,
        role="img",
        aria_label=f"Heat map of the scores of {name}; the same as numbers stands in the table of "
        "series",
    )


def _row(
    rows: pl.DataFrame, y: int, places: dict[date, int], width: float, threshold: float, unit: str
) -> list[Markup]:
    symbol = plain(str(rows["symbol"][0]))
    shown = symbol if len(symbol) <= _NAME_CHARS_MAX else symbol[: _NAME_CHARS_MAX - 1] + "…"
    # Some scripts run the other way: the end of the text is at the left of the cells.
    label = element(
        "text", element("title", symbol), shown, x=_LABEL - 8, y=y + _ROW - 5,
        text_anchor="end", direction="ltr",
    )  # fmt: skip
    return [
        label,
        *(
            _cell(run, symbol, unit, threshold, _LABEL + run.place * width, y + 1, width)
            for run in _runs(rows, places, threshold)
        ),
    ]


def _cell(
    run: _Run, symbol: str, unit: str, threshold: float, x: float, y: int, width: float
) -> Markup:
    """A box; of several days whose mean has another colour than the worst of them, two halves."""
    gap = 1 if width > 4 else 0
    wide = f"{max(1.0, run.cells * width - gap):.2f}"
    worst, mean = level(run.least, threshold), level(run.mean, threshold)

    def box(name: str, top: int, high: int) -> Markup:
        return element("rect", class_=name, x=f"{x:.2f}", y=top, width=wide, height=high)

    tip = element("title", _tip(symbol, run, unit))
    if worst == mean:
        return element("g", tip, box(worst, y, _BOX))
    return element("g", tip, box(mean, y, _BOX - _STRIP), box(worst, y + _BOX - _STRIP, _STRIP))


def _runs(rows: pl.DataFrame, places: dict[date, int], threshold: float) -> Iterator[_Run]:
    open_: _Run | None = None
    for row in rows.iter_rows(named=True):
        place = places[row["start"]]
        run = _Run(
            place, 1, row["start"], row["start"], row["days"], row["scored"], row["poor"],
            row["mean"], row["least"], row["worst_day"], row["reasons"] or "",
        )  # fmt: skip
        if open_ is not None and _alike(open_, run, threshold):
            open_ = _merged(open_, run)
            continue
        if open_ is not None:
            yield open_
        open_ = run
    if open_ is not None:
        yield open_


def _alike(one: _Run, next_: _Run, threshold: float) -> bool:
    if one.place + one.cells != next_.place:
        return False
    shade = level(one.least, threshold)
    if shade != level(next_.least, threshold):
        return False
    if level(one.mean, threshold) != level(next_.mean, threshold):
        return False
    return shade in ("full", "some") or (one.least, one.reasons) == (next_.least, next_.reasons)


def _merged(one: _Run, more: _Run) -> _Run:
    worse = one.least is not None and more.least is not None and more.least < one.least
    told = more if worse else one
    scored = one.scored + more.scored
    mean = ((one.mean or 0) * one.scored + (more.mean or 0) * more.scored) / max(1, scored)
    return replace(
        told,
        place=one.place,
        cells=one.cells + more.cells,
        first=one.first,
        last=more.last,
        days=one.days + more.days,
        scored=scored,
        mean=mean if scored else None,
        poor=one.poor + more.poor,
    )


def _tip(symbol: str, run: _Run, unit: str) -> str:
    """What the pointer is told."""
    first = _named(run.first, unit)
    when = first if run.cells == 1 else f"{first} to {_named(run.last, unit)}"
    if run.least is None:
        return f"{symbol}  {when}\nno score: nothing could be expected"
    lines = [f"{symbol}  {when}"]
    if run.days == 1:
        lines.append(f"score {score(run.least)}")
    else:
        worst = f"worst {score(run.least)}" + (f" on {run.worst_day}" if run.worst_day else "")
        lines.append(
            f"{worst}, mean {score(run.mean)}; {run.poor:,} of {count(run.scored, 'day')} under the threshold"
        )
    reasons = run.reasons
    if len(reasons) > _REASONS_CHARS_MAX:
        reasons = reasons[: _REASONS_CHARS_MAX - 1] + "…"
    return "\n".join([*lines, *([reasons] if reasons else [])])


def _named(start: date, unit: str) -> str:
    if unit == "month":
        return f"{start:%Y-%m}"
    if unit == "quarter":
        return f"{start:%Y} Q{(start.month + 2) // 3}"
    if unit == "year":
        return f"{start:%Y}"
    if unit == "week":
        return f"{start} to {start + timedelta(days=6)}"
    return str(start)


def _axis(starts: Sequence[date], unit: str, width: float, total: float) -> Iterable[Markup]:
    """Where months begin, of cells that are longer where years do; none on another."""
    free = 0.0
    for place, start in enumerate(starts):
        before = starts[place - 1] if place else start
        begins = before.year != start.year or (
            unit in ("day", "week") and before.month != start.month
        )
        x = _LABEL + place * width
        if x < free or (place and not begins):
            continue
        text = str(start) if unit in ("day", "week") and place == 0 else f"{start:%Y-%m}"
        if x + _TICK_ROOM > total and place:
            return
        free = x + _TICK_ROOM
        yield element("text", text, class_="axis", x=f"{x:.1f}", y=_HEAD - 7)
        yield element("line", x1=f"{x + 0.5:.1f}", x2=f"{x + 0.5:.1f}", y1=_HEAD - 5, y2=_HEAD)
