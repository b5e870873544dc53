"""How much of each symbol's day is stored, computed from the tables when it is asked.

One aggregation per kind of series: memory grows with symbols times days (about 100 bytes each), not
with rows.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from lakehouse_ray.kernels.coverage import COVERAGE, DAYS, days_of_bars, is_long, shares
from lakehouse_ray.model.rhythm import About, Grid, Ids, OwnHours, Rhythm, rhythm_of
from lakehouse_ray.model.timespan import DAY_US, TimeRange
from lakehouse_ray.query.answered import UNREAD, Answered, Losses, answer
from lakehouse_ray.query.asked import Asked, wanted
from lakehouse_ray.query.pinned import SYMBOLS_MAX, Among, Kind, Pinned, Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.scan import quoted
from lakehouse_ray.query.views import VIEWS

_EVER = TimeRange(0, 230 * 366 * DAY_US)


def coverage(lake: Readable, asked: Asked, as_of: AsOf = None) -> Answered:
    """Return `kernels.coverage.COVERAGE` of all series asked for, sorted; of those whose files can be
    read.

    Raises NotFoundError where nothing of it is stored.
    """
    pinned = Pinned(lake, VIEWS.values(), as_of)
    found = answer(pinned, asked, _chosen, COVERAGE)
    order = ("market", "dataset", "interval", "symbol", "day")
    return replace(found, rows=found.rows.sort(order))


def _chosen(
    pinned: Pinned, kind: Kind, lives: pl.DataFrame, asked: Asked, losses: Losses
) -> tuple[pl.DataFrame, pl.DataFrame]:
    chosen = wanted(lives, asked)
    rows = COVERAGE.to_frame() if chosen.is_empty() else of_kind(pinned, kind, chosen, asked)
    return rows, UNREAD.to_frame()


def of_kind(pinned: Pinned, kind: Kind, chosen: pl.DataFrame, asked: Asked) -> pl.DataFrame:
    """`COVERAGE` of one kind of series. chosen: `Pinned.lives` of the symbols asked for."""
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    found = shares(rhythm, _days(pinned, kind, rhythm, asked), chosen, asked.start_us, asked.end_us)
    return found.with_columns(
        market=pl.lit(kind.market),
        dataset=pl.lit(kind.dataset.name),
        interval=pl.lit(kind.interval or ""),
    ).select(pl.col(name).cast(dtype) for name, dtype in COVERAGE.items())


def _days(pinned: Pinned, kind: Kind, rhythm: Rhythm | None, asked: Asked) -> pl.DataFrame:
    """`DAYS` that have rows."""
    where = _where(kind, rhythm, asked)
    time = quoted(kind.dataset.time)
    source = f"FROM {kind.view.name} WHERE {where.sql(kind.table)}"
    if rhythm is not None and is_long(rhythm):
        bars = pinned.frame(f"SELECT symbol, {time} AS time {source}", kind.view, where)
        return days_of_bars(bars, rhythm)
    day = f"CAST(date_trunc('day', {time}) AS DATE) AS day"
    present, own = _counted(rhythm, time)
    query = (
        f"SELECT symbol, {day}, count(*) AS rows, {present} AS present, {own} AS own {source} "
        "GROUP BY symbol, day"
    )
    days = pinned.frame(query, kind.view, where)
    if isinstance(rhythm, Grid):
        days = _slots(pinned, kind, rhythm, where, days)
    return days.select(pl.col(name).cast(dtype) for name, dtype in DAYS.items())


def _where(kind: Kind, rhythm: Rhythm | None, asked: Asked) -> Among:
    span = None
    if not is_long(rhythm) and (asked.start_us is not None or asked.end_us is not None):
        start = _EVER.start_us if asked.start_us is None else asked.start_us
        span = TimeRange(start, _EVER.end_us if asked.end_us is None else asked.end_us)
    # More names than that are no help in choosing files.
    names = asked.symbols if len(asked.symbols) <= SYMBOLS_MAX else ()
    return Among(kind.equal, span, names)


def _counted(rhythm: Rhythm | None, time: str) -> tuple[str, str]:
    """What is counted per day besides rows: slots that have one; ids or hours they span.

    On a grid, where times are unique, rows are slots unless some lie off it: these are counted in
    place of slots, and their days looked at again.
    """
    if isinstance(rhythm, Grid):
        off = f"(epoch_us({time}) - {rhythm.anchor_us or 0}) % {rhythm.step_us} <> 0"
        return f"count(*) FILTER ({off})", "NULL"
    if isinstance(rhythm, About):
        wide = rhythm.step_us + rhythm.tolerance_us
        return f"count(DISTINCT epoch_us({time}) // {wide})", "NULL"
    if isinstance(rhythm, Ids):
        number = quoted(rhythm.column)
        return "count(*)", f"max({number}) - min({number}) + 1"
    if isinstance(rhythm, OwnHours):
        return "count(*)", f"sum({quoted(rhythm.column)})"
    return "count(*)", "NULL"


def _slots(
    pinned: Pinned, kind: Kind, rhythm: Grid, where: Among, days: pl.DataFrame
) -> pl.DataFrame:
    """Replace the number of rows off the grid by that of slots that have a row."""
    odd = days.filter(pl.col("present") > 0)
    days = days.with_columns(present="rows")
    if odd.is_empty():
        return days
    time = quoted(kind.dataset.time)
    first, last = odd["day"].dt.min(), odd["day"].dt.max()
    query = (
        f"SELECT symbol, CAST(date_trunc('day', {time}) AS DATE) AS day, "
        f"count(DISTINCT (epoch_us({time}) - {rhythm.anchor_us or 0}) // {rhythm.step_us}) AS slots "
        f"FROM {kind.view.name} WHERE {where.sql(kind.table)} AND {time} >= DATE '{first}' "
        f"AND {time} < DATE '{last}' + INTERVAL 1 DAY GROUP BY symbol, day"
    )
    slots = pinned.frame(query, kind.view, where)
    odd = odd.select("symbol", "day").join(slots, on=["symbol", "day"])
    return (
        days.join(odd, on=["symbol", "day"], how="left")
        .with_columns(present=pl.coalesce("slots", "present"))
        .drop("slots")
    )
