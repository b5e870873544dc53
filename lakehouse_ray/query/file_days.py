"""What the ledger and the quarantine tell of each day of a series: delay, and what was refused."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.kernels.day_gaps import refused_by_day
from lakehouse_ray.query.pinned import Among, Kind, Pinned
from lakehouse_ray.query.views import VIEWS

_TIME = pl.Datetime("us", "UTC")
_END = (
    "o.period_start + CASE o.freq WHEN 'monthly' THEN INTERVAL 1 MONTH ELSE INTERVAL 1 DAY END "
    "AS period_end"
)

DELAYS = pl.Schema({"symbol": pl.String(), "day": _TIME, "delay_hours": pl.Float64()})
REFUSED_DAYS = pl.Schema({"symbol": pl.String(), "day": _TIME})


def delays(pinned: Pinned, kind: Kind, symbols: tuple[str, ...], hours_max: float) -> pl.DataFrame:
    """Return `DELAYS`: from the end of the period of a file in silver to its oldest known version.

    hours_max: A file as old as that was made anew: nothing tells when it was first out, so it tells
        no delay. Of several files of a day the first counts.
    """
    where = _among(kind, symbols)
    query = f"""
    WITH files AS (
        SELECT symbol, key, any_value(period_start) AS period_start, any_value(freq) AS freq,
               min(last_modified) AS published
        FROM bronze.objects o
        WHERE {where.sql(VIEWS["bronze.objects"].tables[0])} AND freq IN ('daily', 'monthly')
        GROUP BY symbol, key HAVING bool_or(state = 'built')
    ), late AS (
        SELECT symbol, period_start, {_END}, date_diff('second', period_end, published) / 3600.0
               AS delay_hours
        FROM files o
    )
    SELECT symbol, day, min(delay_hours) AS delay_hours
    FROM (
        SELECT symbol, delay_hours,
               unnest(generate_series(period_start, period_end - INTERVAL 1 DAY, INTERVAL 1 DAY))
               AS day
        FROM late WHERE delay_hours < {hours_max}
    ) GROUP BY symbol, day ORDER BY symbol, day
    """
    return pinned.frame(query, VIEWS["bronze.objects"], where).cast(DELAYS)


def refused_days(pinned: Pinned, kind: Kind, symbols: tuple[str, ...]) -> pl.DataFrame:
    """Return `REFUSED_DAYS`: days of files of which no version could be taken."""
    where = _among(kind, symbols)
    query = f"""
    WITH files AS (
        SELECT symbol, key, any_value(period_start) AS period_start, any_value(freq) AS freq
        FROM bronze.objects
        WHERE {where.sql(VIEWS["bronze.objects"].tables[0])} AND freq IN ('daily', 'monthly')
        GROUP BY symbol, key HAVING NOT bool_or(state = 'built')
    ), spans AS (SELECT symbol, period_start, {_END} FROM files o)
    SELECT DISTINCT symbol,
           unnest(generate_series(period_start, period_end - INTERVAL 1 DAY, INTERVAL 1 DAY)) AS day
    FROM spans ORDER BY symbol, day
    """
    return pinned.frame(query, VIEWS["bronze.objects"], where).cast(REFUSED_DAYS)


def refused_rows(pinned: Pinned, kind: Kind, symbols: tuple[str, ...]) -> pl.DataFrame:
    """Return `kernels.day_gaps.REFUSED_SCHEMA`: rows refused of the current version of each file.

    A file fills the quarantine with no more than 10,000 lines; what is beyond is not counted.
    """
    where = _among(kind, symbols)
    objects = where.sql(VIEWS["bronze.objects"].tables[0])
    known = pinned.frame(
        f"SELECT symbol, key, version, period_start, {_END} FROM bronze.objects o "
        f"WHERE {objects} AND current AND rows_quarantined > 0 AND freq IN ('daily', 'monthly')",
        VIEWS["bronze.objects"],
        where,
    )
    if known.is_empty():
        return refused_by_day(known.with_columns(raw=pl.lit("")))
    lines = pinned.frame(
        "SELECT source_key AS key, source_version AS version, raw FROM silver.quarantine "
        f"WHERE {where.sql(VIEWS['silver.quarantine'].tables[0])} AND raw IS NOT NULL",
        VIEWS["silver.quarantine"],
        where,
    )
    return refused_by_day(known.join(lines, on=["key", "version"]))


def _among(kind: Kind, symbols: tuple[str, ...]) -> Among:
    return Among(kind.equal | {"dataset": kind.dataset.name}, None, symbols)
