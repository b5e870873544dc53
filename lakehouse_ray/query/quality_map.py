"""Scores as cells of a heat map: symbols down, time across, few enough to be drawn.

Where there are too many days, a cell is a week, a month, a quarter or a year, and shows its worst
day; where there are too many symbols, the worst ones stay.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Literal, get_args

import polars as pl

from lakehouse_ray.query.scan import quoted, text

Unit = Literal["day", "week", "month", "quarter", "year"]
UNITS: tuple[Unit, ...] = get_args(Unit)
_DAYS_OF: dict[Unit, int] = {"day": 1, "week": 7, "month": 28, "quarter": 90, "year": 365}

# Most cells beside each other, symbols below each other, and maps.
COLUMNS_MAX, SYMBOLS_MAX, MAPS_MAX = 120, 40, 24

# One row per cell. `days`: with a row in `gold.quality`, `scored`: of these with a score. `least` is
# the score of `worst_day`, and `reasons` its reasons; null where no day has a score.
CELLS = pl.Schema(
    {
        "market": pl.String(),
        "dataset": pl.String(),
        "interval": pl.String(),
        "unit": pl.String(),
        "symbol": pl.String(),
        "start": pl.Date(),
        "days": pl.Int64(),
        "scored": pl.Int64(),
        "poor": pl.Int64(),
        "mean": pl.Float64(),
        "least": pl.Float64(),
        "worst_day": pl.Date(),
        "reasons": pl.String(),
    }
)


def unit_for(first: date, last: date, columns_max: int = COLUMNS_MAX) -> Unit:
    """The shortest unit of which the range has no more than `columns_max`."""
    days = (last - first).days + 1
    # The range may begin on the last day of a unit and end on the first of one: these two days are
    # units of their own, beside those that the days between them fill.
    fits = (u for u in UNITS if (days - 2) // _DAYS_OF[u] + 2 <= columns_max)
    return next(fits, "year")


def map_cells(
    kinds: pl.DataFrame,
    threshold: float,
    cells_max: int,
    ask: Callable[[str], pl.DataFrame],
) -> pl.DataFrame:
    """Return `CELLS` by map (in the order of `kinds`), symbol (the worst first) and time.

    kinds: `market, dataset, interval, first_day, last_day` of each map, the worst first.
    cells_max: Of all maps together.
    ask: Runs a query over `gold.quality`, named `{view}`, whose rows fulfil `{day}`.
    """
    chosen = kinds.head(MAPS_MAX)
    if chosen.is_empty():
        return CELLS.to_frame()
    symbols_max = max(1, min(SYMBOLS_MAX, cells_max // (chosen.height * COLUMNS_MAX)))
    rows = [
        f"({place}, {text(row['market'])}, {text(row['dataset'])}, {text(row['interval'])}, "
        f"{text(unit_for(row['first_day'], row['last_day']))})"
        for place, row in enumerate(chosen.iter_rows(named=True))
    ]
    kind = ", ".join(map(quoted, ("market", "dataset", "interval")))
    found = ask(
        f"WITH maps(map, {kind}, unit) AS (VALUES {', '.join(rows)}), "
        f"days AS (SELECT * FROM {{view}} JOIN maps USING ({kind}) WHERE {{day}}), "
        "ranked AS (SELECT map, symbol, row_number() OVER (PARTITION BY map ORDER BY min(score) "
        "NULLS LAST, avg(score), symbol) AS place FROM days GROUP BY map, symbol) "
        f"SELECT {kind}, unit, symbol, CAST(date_trunc(unit, CAST(day AS DATE)) AS DATE) AS start, "
        "count(*) AS days, count(score) AS scored, "
        f"count(*) FILTER (score < {threshold!r}) AS poor, avg(score) AS mean, "
        "min(score) AS least, CAST(arg_min(day, score) AS DATE) AS worst_day, "
        "arg_min(reasons, score) AS reasons FROM days JOIN ranked USING (map, symbol) "
        f"WHERE place <= {symbols_max} GROUP BY map, {kind}, unit, symbol, place, start "
        "ORDER BY map, place, start"
    )
    return found.select(pl.col(name).cast(kind) for name, kind in CELLS.items())
