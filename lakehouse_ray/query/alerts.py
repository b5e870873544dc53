"""Alerts that nobody has been told of."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.alerts import ALERT_DELIVERIES, ALERT_KEY
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.scan import quoted
from lakehouse_ray.query.views import VIEWS

_DAY = pl.Datetime("us", "UTC")
_KEY = ", ".join(map(quoted, ALERT_KEY))
# Codes may be null, so that USING would not do.
_SAME = " AND ".join(f"a.{quoted(n)} IS NOT DISTINCT FROM d.{quoted(n)}" for n in ALERT_KEY)
# Before there were runs of days, each alert was of one.
_TAKEN = f"SELECT * REPLACE (coalesce(last_day, day) AS last_day) FROM {ALERT_DELIVERIES.name}"
# Two runs at a time may raise the same alert; it is one.
_PENDING = f"""
SELECT a.* FROM gold.alerts AS a ANTI JOIN ({_TAKEN}) AS d ON {_SAME}
QUALIFY row_number() OVER (PARTITION BY {_KEY} ORDER BY raised_at, run_id) = 1
"""


def waiting(lake: Lake, rows_max: int) -> tuple[pl.DataFrame, int]:
    """Return alerts that have not been delivered, the oldest first, and how many there are in all.

    rows_max: So many rows are returned; some 500 bytes each.
    """
    query = (
        f"SELECT *, count(*) OVER () AS _all FROM ({_PENDING}) "
        f"ORDER BY raised_at, {_KEY} LIMIT {rows_max}"
    )
    with lake.ask(query, [VIEWS["gold.alerts"], VIEWS[ALERT_DELIVERIES.name]]) as result:
        found = result.pl().with_columns(
            pl.col("day", "last_day", "worst_day", "raised_at").cast(_DAY)
        )
    number = int(found["_all"][0]) if found.height else 0
    return found.drop("_all"), number
