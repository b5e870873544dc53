"""`gold.daily` as DuckDB makes it from silver's rows: written without a look at the kernel."""

from __future__ import annotations

import duckdb
import polars as pl
from polars.testing import assert_frame_equal
from support.bars import BarLake
from support.lakes import metadata_locations

from lakehouse_ray.model.datasets.klines import KLINES

DAYS = """
with marked as (
    select *, date_trunc('day', open_time) as day,
           case "interval" when '1m' then interval 1 minute when '5m' then interval 5 minute
                           when '15m' then interval 15 minute when '1h' then interval 1 hour
           end as step,
           lag(open_time) over w as last_time, lag(close) over w as last_close
    from silver where "interval" in ('1m', '5m', '15m', '1h')
    window w as (partition by market, "interval", symbol order by open_time)
), returned as (
    select *, ln(close / case when last_time = open_time - step
                               and date_trunc('day', last_time) = day
                         then last_close else open end) as r
    from marked
)
select market, symbol, "interval", day, arg_min(open, open_time) as open, max(high) as high,
       min(low) as low, arg_max(close, open_time) as close, sum(volume) as volume,
       sum(quote_volume) as quote_volume, sum(trades)::bigint as trades,
       sum(taker_buy_volume) as taker_buy_volume,
       sum(taker_buy_quote_volume) as taker_buy_quote_volume,
       case when market <> 'cm' then sum(quote_volume) / nullif(sum(volume), 0) end as vwap,
       count(*) as bars,
       (epoch(interval 1 day) / epoch(any_value(step)))::bigint as bars_expected,
       sqrt(sum(r * r)) as realized_volatility
from returned group by market, symbol, "interval", day
"""


def ask(query: str, silver: pl.DataFrame) -> pl.DataFrame:
    """Run a query over a table `silver`."""
    with duckdb.connect() as database:
        database.execute("set timezone = 'UTC'")
        database.register("silver", silver.to_arrow())
        return database.sql(query).pl()


def assert_days(lake: BarLake) -> None:
    """Hold all of `gold.daily` to what DuckDB makes of silver now."""
    there = metadata_locations(lake.home)
    silver = pl.concat([lake.rows(table.name) for table in KLINES.tables if table.name in there])
    found = lake.rows("gold.daily")
    order = ["market", "symbol", "interval", "day"]
    wanted = ask(DAYS, silver).sort(order)
    assert wanted.height > 0
    assert_frame_equal(found.sort(order), wanted, check_dtypes=False, rel_tol=1e-12)
