"""What a statement can want at most: never less than what it does, whatever it is like."""

from __future__ import annotations

import itertools
import json
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.model.timespan import DAY_US, TimeRange, parse_time
from lakehouse_ray.query.narrowing import narrowed
from lakehouse_ray.query.scan import EVERYTHING, Where
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.query.wanted import columns_of, where_of

KLINES = VIEWS["silver.klines"]
COLUMNS = {"silver.klines": (("market", "symbol", "interval"), "open_time")}


@pytest.fixture(scope="module")
def database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone='UTC'")
    connection.execute("CREATE SCHEMA silver")
    return connection


def tell(database: duckdb.DuckDBPyConnection, query: str, parameters: object = None) -> Any:
    ((text,),) = database.execute(
        "SELECT json_serialize_sql(?::VARCHAR, skip_null := true, skip_empty := true, "
        "skip_default := true)",
        [query],
    ).fetchall()
    tree = json.loads(text)
    assert not tree["error"], tree
    return narrowed(tree, COLUMNS, parameters)


def wanted(database: duckdb.DuckDBPyConnection, query: str, parameters: object = None) -> Where:
    return where_of(KLINES, tell(database, query, parameters)["silver.klines"])


def test_conditions_of_the_where_are_taken(database: duckdb.DuckDBPyConnection) -> None:
    found = wanted(
        database,
        "with x as (select symbol, max(high) from silver.klines as k where k.symbol = 'A' and "
        "(Interval = ? and market = 'um') and close > 3 and open_time >= '2024-03-05 10:00' and "
        "open_time < timestamp '2024-04-01' group by symbol) select * from x a join x b using (symbol)",
        ["1h"],
    )
    assert found.equal == {"symbol": "A", "interval": "1h", "market": "um"}
    assert found.span == TimeRange(parse_time("2024-03-04"), parse_time("2024-04-03"))
    between = "select 1 from silver.klines where open_time between '2024-01-02' and $end"
    assert wanted(database, between, {"end": "2024-01-03T23:59:59Z"}).span == TimeRange(
        parse_time("2024-01-01"), parse_time("2024-01-05")
    )


@pytest.mark.parametrize(
    "query",
    [
        "select 1 from silver.klines",
        "select 1 from silver.klines where symbol = 'A' or market = 'um'",
        "select 1 from silver.klines where not symbol = 'A'",
        "select 1 from silver.klines where symbol <> 'A'",
        "select 1 from silver.klines where symbol = 'A' collate nocase",
        "select 1 from silver.klines where lower(symbol) = 'a'",
        "select 1 from silver.klines where symbol = lower('A')",
        "select 1 from silver.klines where symbol = ''",
        "select 1 from silver.klines where symbol = 3",
        "select 1 from silver.klines where symbol = ?",
        "select 1 from silver.klines where symbol = upper(?)",
        "select 1 from silver.klines as k(symbol, market) where symbol = 'spot'",
        "select 1 from silver.klines as symbol where symbol = 'A'",
        "select 1 from silver.klines tablesample 10 rows where symbol = 'A'",
        "select 1 from silver.klines where symbol = 'A' using sample 10 rows",
        "select 1 from silver.klines a join silver.klines b using (symbol) where a.symbol = 'A'",
        "select 1 from silver.klines left join range(3) t(i) on true where symbol = 'A'",
        "select 1 from silver.klines k, range(3) where symbol = 'A'",
        "select symbol = 'A' from silver.klines",
        "select count(*) filter (symbol = 'A') from silver.klines",
        "select symbol from silver.klines group by symbol having symbol = 'A'",
        "select symbol from silver.klines qualify symbol = 'A'",
        "select 1 from (select * from silver.klines) where symbol = 'A'",
        "select 1 from silver.klines where symbol = 'A' union all select 1 from silver.klines",
        "select 1 from range(3) t(symbol) where symbol = 'A' and exists (from silver.klines)",
        "select 1 from silver.klines where other.symbol = 'A'",
        "select 1 from silver.klines where open_time = '2024-01-01'",
        "select 1 from silver.klines where open_time > 'yesterday'",
        "select 1 from silver.klines where open_time > '2024-01-01 10:00+05'",
        "select 1 from silver.klines where open_time > '0001-01-01'",
        "select 1 from silver.klines where open_time > '2024-02-31'",
        "select 1 from silver.klines where close_time > '2024-01-01'",
        "select 1 from silver.klines where open_time > '2024-06-01' and open_time < '2024-01-01'",
        "summarize silver.klines",
    ],
)
def test_what_is_not_sure_says_nothing(database: duckdb.DuckDBPyConnection, query: str) -> None:
    for parameters in (None, [3], [None], []):
        found = wanted(database, query, parameters)
        assert (found.equal, found.span) == ({}, None)


def test_what_is_not_read_is_not_told(database: duckdb.DuckDBPyConnection) -> None:
    assert tell(database, "select 'silver.klines' -- silver.klines") == {}
    assert tell(database, "select 1 from silver.trades where symbol = 'A'") == {"silver.trades": {}}


@pytest.mark.parametrize(
    "told",
    [
        None, [], {"equal": []}, {"equal": {"close": "1", "symbol": 3}}, {"start_us": "1"},
        {"start_us": -5}, {"end_us": 1 << 70}, {"start_us": 5, "end_us": 5},
    ],
)  # fmt: skip
def test_a_process_that_lies_gets_no_more_than_everything(told: object) -> None:
    found = where_of(KLINES, told)
    assert (found.equal, found.span) == ({}, None)


def test_rows_that_are_made_of_others_are_made_of_all() -> None:
    for name in ("silver.quarantine", "bronze.objects", "gold.builds", "silver.gaps"):
        assert columns_of(VIEWS[name]) is None
        assert where_of(VIEWS[name], {"equal": {"symbol": "A"}}) is EVERYTHING
    assert columns_of(VIEWS["silver.klines_fine"]) == columns_of(KLINES)


_CONDITIONS = st.sampled_from(
    [
        "symbol = 'A'", "'A' = symbol", "market = 'spot'", "t.symbol = 'B'", "interval = '1h'",
        "symbol in ('A', 'B')", "symbol = 'A' or market = 'um'", "not symbol = 'A'",
        "open_time >= '2024-01-02'", "open_time > timestamp '2024-01-02 05:00'",
        "open_time < '2024-01-03T12:00'", "open_time <= date '2024-01-03'", "true",
        "open_time between '2024-01-02' and '2024-01-04'", "open_time > ?", "symbol = ?",
        "open_time < '2024-01-03 00:00Z'", "open_time >= '2024-01-03'::timestamptz",
    ]
)  # fmt: skip
_SHAPES = st.sampled_from(
    [
        "select * from silver.klines t where {}", "select * from (select * from silver.klines t where {})",
        "with x as (select * from silver.klines t where {}) select * from x union all select * from x",
        "select 'A' as symbol, count(*) as n from silver.klines t where {} group by all",
        "select *, row_number() over (order by open_time) from silver.klines t where {}",
        "select (select count(*) from silver.klines t where {}) as n from range(2)",
    ]
)  # fmt: skip


@settings(max_examples=50)
@given(st.lists(_CONDITIONS, min_size=1, max_size=4), _SHAPES, st.sampled_from(["A", "2024-01-03"]))
def test_what_is_left_away_changes_no_answer(
    database: duckdb.DuckDBPyConnection, conditions: list[str], shape: str, parameter: str
) -> None:
    """The statement over all rows, and over those that are told to be wanted."""
    query = shape.format(" and ".join(f"({one})" for one in conditions))
    given_ = [parameter] if "?" in query else None
    where = wanted(database, query, given_)
    rows = ", ".join(
        f"('{market}', '{symbol}', '{interval}', '2024-01-01'::timestamptz + interval {hours} hour)"
        for market, symbol, interval, hours in itertools.product(
            ("spot", "um"), ("A", "B"), ("1h", "1m"), (0, 23, 24, 29, 30, 48, 60, 72, 73, 96)
        )
    )
    answers = []
    for condition in ("true", where.sql(KLINES.tables[0])):
        database.execute(
            "CREATE OR REPLACE VIEW silver.klines AS SELECT * FROM "
            f"(VALUES {rows}) AS v(market, symbol, interval, open_time) WHERE {condition}"
        )
        try:
            found = database.execute(query.replace("?", f"'{parameter}'")).fetchall()
        except duckdb.ConversionException:
            found = []  # 'A' is no time
        answers.append(sorted(map(repr, found)))
    assert answers[0] == answers[1]
    assert where.span is None or (where.span.end_us - where.span.start_us) >= DAY_US
