"""From when to when each symbol traded, by its stored rows, live ones too; cut where it stood still for
long.

Only rows that trades make count: bars, joined trades, single trades. Funding and metrics have been
seen to go on after a contract's end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.trades import TRADES
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.pinned import Among, Pinned
from lakehouse_ray.query.scan import quoted, text
from lakehouse_ray.query.views import View

# Without any row for so long, a life is cut: what comes after may be another asset.
HOLE_US = 7 * DAY_US
_TIME = pl.Datetime("us", "UTC")

# One row per life. first_row, last_row: Times of rows. row_end: End of the last bar. trade_end: End
# of the last bar with a trade; the exchange has published flat bars after a symbol's end. A life of
# 1w or 1mo bars alone is known to the length of a bar.
RUNS = pl.Schema(
    {
        "symbol": pl.String(),
        "first_row": _TIME,
        "last_row": _TIME,
        "row_end": _TIME,
        "trade_end": _TIME,
        "days": pl.Int64(),
    }
)

_STEPS = {name: step or 31 * DAY_US for name, step in INTERVALS.items()}
_STEP = " ".join(f"WHEN {text(name)} THEN {step}" for name, step in _STEPS.items())


def _bars(table: str) -> str:
    return (
        f'SELECT market, symbol, open_time AS "time", trades > 0 AS traded, '
        f'CASE "interval" {_STEP} END AS step_us FROM {table}'
    )


_TRADED = (KLINES, AGG_TRADES, TRADES)


def _rows_of(tables: Iterable[Table]) -> str:
    """Times of the rows of some tables, each of one of these data sets."""
    parts = []
    for table in tables:
        if "interval" in table.names:
            parts.append(_bars(table.name))
        else:
            time = quoted(table.time)
            parts.append(f'SELECT market, symbol, {time} AS "time", true, 1 FROM {table.name}')
    return " UNION ALL ".join(parts)


_TABLES = tuple(table for dataset in _TRADED for table in dataset.tables)
TRADED_ROWS = View(
    "silver.traded_rows", "Times of all rows that trades make.", _TABLES, _rows_of(_TABLES)
)
_HOT = tuple(dataset.hot_table for dataset in _TRADED if dataset.hot_table is not None)
_LIVE_ROWS = View(
    TRADED_ROWS.name, "The same of rows that wait in hot tables.", _HOT, _rows_of(_HOT)
)

# Of each day the finest rows tell when it began and ended.
_RUNS = f"""
WITH days AS (
    SELECT symbol, date_trunc('day', "time") AS day, step_us, min("time") AS first_row,
           max("time") AS last_row, max("time") FILTER (WHERE traded) AS last_trade
    FROM {TRADED_ROWS.name} WHERE {{where}}
    GROUP BY symbol, day, step_us
    QUALIFY row_number() OVER (PARTITION BY symbol, day ORDER BY step_us) = 1
), fine AS (
    -- A bar of a month hides when in it a symbol came and went.
    SELECT * FROM days WHERE step_us <= {DAY_US}
    OR symbol NOT IN (SELECT symbol FROM days WHERE step_us <= {DAY_US})
), ends AS (
    SELECT symbol, first_row, last_row, last_row + to_microseconds(step_us) AS row_end,
           last_trade + to_microseconds(step_us) AS trade_end
    FROM fine
), cuts AS (
    SELECT *, coalesce(
        first_row - max(row_end) OVER (
            PARTITION BY symbol ORDER BY first_row ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) >= to_microseconds({HOLE_US}), false
    ) AS cut
    FROM ends
), numbered AS (
    SELECT *, count(*) FILTER (WHERE cut) OVER (PARTITION BY symbol ORDER BY first_row) AS run
    FROM cuts
)
SELECT symbol, min(first_row) AS first_row, max(last_row) AS last_row, max(row_end) AS row_end,
       max(trade_end) AS trade_end, count(*) AS days
FROM numbered GROUP BY symbol, run ORDER BY symbol, first_row
"""


def runs(pinned: Pinned, market: str, symbols: tuple[str, ...] = ()) -> pl.DataFrame:
    """Return `RUNS` of a market's symbols (or these), in the order of symbol and time.

    Reads the times of all their rows; memory is that of a row per symbol and day, on disk beyond.
    Those of the main tables are kept as long as these do not change; live ones are few.
    """
    where = Among({"market": market}, None, symbols)
    query = _RUNS.format(where=where.sql(KLINES.tables[0]))
    stored = pinned.derive(
        ("lives", market, symbols),
        TRADED_ROWS.tables,
        lambda: pinned.frame(query, TRADED_ROWS, where).cast(RUNS),
    )
    live = pinned.frame(query, _LIVE_ROWS, where).cast(RUNS)
    return joined(stored, live) if live.height else stored


def joined(some: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Two accounts of the same symbols, `RUNS` each, as one. Days that both have count once, where
    lives overlap."""
    schema = {name: pl.Int64() if kind == _TIME else kind for name, kind in RUNS.items()}
    both = pl.concat([some, others]).cast(pl.Schema(schema)).sort("symbol", "first_row")
    found: list[dict[str, Any]] = []
    for row in both.iter_rows(named=True):
        last = found[-1] if found and found[-1]["symbol"] == row["symbol"] else None
        if last is None or row["first_row"] - last["row_end"] >= HOLE_US:
            found.append(row)
            continue
        ends = min(last["last_row"], row["last_row"]) // DAY_US
        shared = max(ends - row["first_row"] // DAY_US + 1, 0)
        last["days"] += max(row["days"] - shared, 0)
        last["last_row"] = max(last["last_row"], row["last_row"])
        last["row_end"] = max(last["row_end"], row["row_end"])
        traded = [end for end in (last["trade_end"], row["trade_end"]) if end is not None]
        last["trade_end"] = max(traded, default=None)
    return pl.DataFrame(found, schema=schema).cast(RUNS)
