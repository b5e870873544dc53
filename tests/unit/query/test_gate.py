"""Statements of strangers: what is refused by its syntax tree alone, and what is not."""

from __future__ import annotations

import duckdb
import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.gate import FUNCTIONS, TABLE_FUNCTIONS
from lakehouse_ray.serve.sandbox_child import check

TABLES = ["silver.klines", "silver.klines_fine", "gold.daily"]
S = "/etc"

ALLOWED = [
    "select * from silver.klines",
    "SELECT Symbol, count(*) FROM Silver.Klines GROUP BY ALL ORDER BY 2 DESC LIMIT 5",
    "from silver.klines select max(high) where open_time >= '2024-01-01'",
    "with a as (select * from silver.klines), b as (select * from a) select * from a join b using (symbol)",
    "with recursive t(n) as (select 1 union all select n + 1 from t where n < 9) select * from t",
    "select *, avg(close) over (partition by symbol order by open_time rows 20 preceding) from silver.klines",
    "select symbol from silver.klines where close between 1 and 2 and symbol in ('A', 'B') or symbol like 'B%'",
    "select date_trunc('hour', open_time), arg_max(close, open_time) from silver.klines group by 1",
    "select time_bucket(interval 5 minute, open_time) from silver.klines",
    "select case when close > open then 'up' else 'down' end, coalesce(close, 0), close::int from silver.klines",
    "select * exclude (source) replace (round(close, 2) as close) from silver.klines",
    "select k.*, d.* from silver.klines k asof join gold.daily d on k.symbol = d.symbol and k.open_time >= d.day",
    "describe silver.klines",
    "summarize silver.klines",
    "describe select 1",
    "values (1, 'a'), (2, 'b')",
    "select * from range(100) t(i)",
    "select unnest([1, 2, 3])",
    "select list_transform([1, 2], x -> x + 1)",
    "select ?, $1",
    "select symbol from silver.klines union all select symbol from gold.daily",
    "select * from silver.klines qualify row_number() over (partition by symbol order by open_time desc) = 1",
    "select * from silver.klines tablesample 10%",
    "select (select max(close) from silver.klines), exists (select 1 from gold.daily)",
]  # fmt: skip

REFUSED = [
    "select 1; select 2",
    "",
    ";",
    "-- nothing",
    f"select * from read_csv('{S}/passwd')",
    "select * from read_csv_auto('/etc/passwd', delim=':')",
    f"select * from '{S}/s.csv'",
    f'select * from "{S}/s.parquet"',
    f"select content from read_text('{S}/passwd')",
    "select content from read_blob('/proc/self/environ')",
    "select * from read_json('x')",
    "select * from read_ndjson_objects('x')",
    "select * from read_parquet('x')",
    "select * from parquet_scan('x')",
    "select * from parquet_metadata('x')",
    "select * from parquet_schema('x')",
    "select * from parquet_kv_metadata('x')",
    "select * from sniff_csv('x')",
    "select * from glob('/*')",
    "select * from read_duckdb('x')",
    "copy (select 1) to '/tmp/x.csv'",
    "copy silver.klines to '/tmp/x' (use_tmp_file false)",
    "export database '/tmp/x'",
    "import database '/tmp/x'",
    "attach '/tmp/x.duckdb' as x",
    "attach ':memory:' as m",
    "install httpfs",
    "load json",
    "force install shellfs from community",
    "create secret s1 (type s3, key_id 'a', secret 'b')",
    "select * from duckdb_secrets()",
    "select * from which_secret('s3://x', 's3')",
    "select getenv('HOME')",
    "select getvariable('x')",
    "pragma database_list",
    "select * from duckdb_settings()",
    "select * from duckdb_settings",
    "select current_setting('secret_directory')",
    "select * from duckdb_logs",
    "select * from duckdb_views",
    "select sql from duckdb_views()",
    "select * from pragma_table_info('silver.klines')",
    "select * from information_schema.tables",
    "select * from sqlite_master",
    "select * from pg_catalog.pg_class",
    "select * from pg_class",
    "set memory_limit='100GB'",
    "set lock_configuration=false",
    "reset enable_external_access",
    "set variable a=1",
    "call enable_logging()",
    "create macro f(x) as x",
    "create view v as select 1",
    "create table t as select 1",
    "drop view silver.klines",
    "insert into silver.klines values (1)",
    "delete from silver.klines",
    "update silver.klines set close = 0",
    "use memory",
    "detach memory",
    "checkpoint",
    "vacuum",
    "explain select 1",
    "explain analyze select 1",
    "prepare p as select 1",
    "execute p",
    "pivot silver.klines on symbol using sum(volume)",
    "select * from query('select 1')",
    "select * from query_table('silver.klines')",
    "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select json_serialize_plan('select 1')",
    "select * from (select * from (select * from read_text('x')))",
    "with a as (select * from read_text('x')) select 1",
    "select (select content from read_text('x'))",
    "select 1 where exists (from read_text('x'))",
    "select * from silver.klines where symbol in (select content from read_text('x'))",
    "select * from silver.klines order by (select content from read_text('x'))",
    "select sum((select count(*) from read_text('x'))) over ()",
    "select case when (select true from read_text('x')) then 1 end",
    "values ((select content from read_text('x')))",
    "describe select * from read_text('x')",
    "summarize '/etc/passwd'",
    "summarize from read_text('x')",
    "show tables",
    "show all tables",
    "show databases",
    "select * from unnest([1]) u, lateral (select * from read_text('x'))",
    "from silver.klines select * limit (select count(*) from read_text('x'))",
    "with duckdb_views as (select 1) select * from duckdb_views",
    "with a as (select * from duckdb_tables), duckdb_tables as (select 1) select * from a",
    "with pg_class as (select 1) select * from pg_class",
    "select sleep_ms(10000)",
    "select write_log('x')",
    "select stats(close) from silver.klines",
    "select error(symbol) from silver.klines",
    "select repeat('x', 4000000000)",
    "select lpad('x', 2000000000, 'y')",
    "select printf('%2000000000d', 1)",
    "select format('{:2000000000d}', 1)",
    "select levenshtein(symbol, symbol) from silver.klines",
    "select damerau_levenshtein(symbol, symbol) from silver.klines",
    "select regexp_extract_all(symbol, '.') from silver.klines",
    "select nextval('s')",
    "select setseed(1)",
    "select main.read_text('x')",
    "select system.main.sum(1)",
    "select * from system.main.duckdb_settings()",
    "select * from silver.main.klines",
    "select * from memory.silver.klines",
    "select * from klines",
    "select * from bronze.secrets",
    "select * from silver.klines at (version => 3)",
    "select * from range(100000000)",
    "select * from range((select 10))",
    "select range(1, 100000000)",
    "select * from generate_series(1, ?)",
    "select * from repeat_row(1, num_rows := 1000000)",
    "select * from test_all_types()",
    "select * from seq_scan('x')",
    "select * from arrow_scan(1, 2, 3)",
    "select * from python_map_function(1)",
    "select txid_current()",
    "select version()",
    "select current_database()",
    "select current_schemas(true)",
    "select in_search_path('a', 'b')",
    "select pg_sleep(10)",
    "select col_description(1, 2)",
    "select has_table_privilege('x', 'y')",
    "select path_join('a', 'b')",
    "select url_decode('%41')",
    "select 'x' collate nocase, read_text('x')",
    "select " + "(" * 300 + "1" + ")" * 300 + " + (select 1 from read_text('x'))",
    "select " + " + ".join(["1"] * 400),
    "select * from silver.klines where symbol in (" + ",".join(["'x'"] * 10_001) + ")",
    "with a as (select 1) select * from " + ", ".join(["a"] * 40),
    "select * from silver.klines a0 " + " ".join(f"join silver.klines a{n} using (symbol)" for n in range(1, 20)),
    "select '" + "x" * (64 << 10) + "'",
    "select 1\0",
]  # fmt: skip


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


@pytest.mark.parametrize("statement", ALLOWED)
def test_questions_may_be_asked(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    check(connection, statement, TABLES)


@pytest.mark.parametrize("statement", REFUSED, ids=lambda text: text[:60])
def test_nothing_else_may(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    with pytest.raises((InvalidError, duckdb.ParserException)):
        check(connection, statement, TABLES)


def test_every_allowed_function_is_one(connection: duckdb.DuckDBPyConnection) -> None:
    """A list that names what is not there would allow what comes under that name later."""
    found = connection.execute("select distinct function_name from duckdb_functions()").fetchall()
    known = {str(row[0]) for row in found}
    # Windows and what the parser itself makes of names are in no list of the engine.
    without = {
        "cume_dist", "dense_rank", "first_value", "lag", "last_value", "lead", "nth_value", "ntile",
        "percent_rank", "rank", "rank_dense", "row_number", "fill", "row", "coalesce", "ifnull",
        "==", "<>", "->",
    }  # fmt: skip
    assert sorted(FUNCTIONS - known - without) == []
    assert known >= TABLE_FUNCTIONS


@pytest.mark.parametrize(
    "part",
    ["read", "scan", "parquet", "duckdb", "pragma", "glob", "query", "secret", "setting", "env",
     "variable", "log", "copy", "path", "sleep", "attach", "serialize", "levenshtein", "stats"],
)  # fmt: skip
def test_no_allowed_function_is_of_these(part: str) -> None:
    harmless = {"log", "log10", "log2"}
    assert {name for name in FUNCTIONS | TABLE_FUNCTIONS if part in name} <= harmless
