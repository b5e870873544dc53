"""Statements in a DuckDB of their own, without any table."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import psutil
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.query.statement import BATCH_ROWS, Engine, Result
from lakehouse_ray.storage.objects import LocalStore


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(LocalStore(tmp_path / "data"), tmp_path / "tmp")


def ask(engine: Engine, query: str, parameters: object = None) -> Result:
    return engine.run(query, [], {}, parameters)


def test_repeated_names_are_numbered(engine: Engine) -> None:
    result = ask(engine, "select 1 a, 2 a, 3 a_1, 4 a")
    assert result.columns == ["a", "a_2", "a_1", "a_3"]
    assert result.rows() == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]
    assert result.schema.names == result.columns


def test_parameters_are_values_and_not_text(engine: Engine) -> None:
    assert ask(engine, "select ? a", ["x' or true --"]).rows() == [{"a": "x' or true --"}]
    assert ask(engine, "select $n + 1 a", {"n": 1}).rows() == [{"a": 2}]


def test_times_are_utc(engine: Engine) -> None:
    (row,) = ask(engine, "select '2024-01-01 00:00:00'::timestamptz t, epoch_us(t) us").rows()
    assert row["us"] == 1_704_067_200_000_000
    assert row["t"].utcoffset().total_seconds() == 0


def test_variables_of_the_program_are_no_tables(engine: Engine) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(InvalidError, match="does not exist"):
        ask(engine, "select * from secret")
    assert secret.num_rows == 1


def test_an_empty_statement_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidError, match="no statement"):
        ask(engine, "  -- nothing")


def test_errors_on_the_way_are_told_as_wrong_questions(engine: Engine) -> None:
    query = f"select case when i > {3 * BATCH_ROWS} then ('x' || i)::int else 1 end from range(1000000) t(i)"
    with pytest.raises(InvalidError, match="Could not convert"):
        list(ask(engine, query).fetch_batches())


def test_a_frame_is_what_arrow_has_and_changes_nothing_for_it(engine: Engine) -> None:
    result = ask(
        engine,
        "select i, 'a' || i as short, case when i % 3 > 0 then 'longer than twelve ' || i end as t, "
        "[null, 'x' || i] as l, {'a': 'q' || i, 'b': i} as s, map {'k' || i: i} as m, "
        "'b73e2a08-0b5c-4bbd-a8a3-5e0b6f5f3c1a'::uuid as u, '{}'::json as j, '\\xAA'::blob as b, "
        "'a'::enum ('a', 'b') as e, i::decimal(9, 2) as d, i::hugeint as h, null as nothing, "
        "make_timestamptz(i) as at, '' as empty from range(5000) r(i) order by i",
    )
    before = result.arrow()
    frame = result.pl()
    after = result.arrow()
    wanted = pl.from_arrow(before)
    assert isinstance(wanted, pl.DataFrame)
    assert_frame_equal(frame, wanted)
    assert after.equals(before)
    assert after.schema == before.schema == result.schema
    assert next(result.fetch_batches()).schema == before.schema
    assert ask(engine, "select 'a' as t where false").pl().schema == {"t": pl.String()}


def test_reading_in_batches_takes_bounded_memory(engine: Engine) -> None:
    """20 million rows of three columns are about 700 MB at once."""
    rows = 20_000_000
    result = ask(engine, f"select i, i * 0.5 d, 'symbol' || i s from range({rows}) t(i)")
    process, peak, seen = psutil.Process(), 0, 0
    gc.collect()
    before = process.memory_info().rss
    for number, batch in enumerate(result.fetch_batches()):
        seen += batch.num_rows
        if number % 10 == 0:
            peak = max(peak, process.memory_info().rss - before)
    assert seen == rows
    assert peak < 300 << 20


def settings(engine: Engine) -> dict[str, str]:
    names = "('memory_limit', 'temp_directory', 'threads', 'TimeZone', 'arrow_output_version')"
    query = f"select name, value from duckdb_settings() where name in {names}"
    with engine.run(query, [], {}) as result:
        return {row["name"]: row["value"] for row in result.rows()}


def test_a_statement_finds_nothing_of_those_before_it(engine: Engine) -> None:
    with engine.run("FROM silver.klines", [], {"silver.klines": "SELECT 1 AS n"}) as result:
        assert result.rows() == [{"n": 1}]
    with pytest.raises(InvalidError, match=r"does not exist"):
        engine.run("FROM silver.klines", [], {})
    with engine.run("FROM silver.klines", [], {"silver.klines": "SELECT 2 AS n"}) as result:
        assert result.pl().rows() == [(2,)]


def test_what_a_statement_sets_holds_for_no_other(engine: Engine) -> None:
    before = settings(engine)
    for statement in ("SET threads=1", "SET memory_limit='64MB'", "SET TimeZone='Asia/Tokyo'",
                      "SELECT 1; SET threads=1", "ATTACH ':memory:' AS more; USE more"):  # fmt: skip
        with engine.run(statement, [], {}) as result:
            result.rows()
    assert settings(engine) == before


def test_statements_at_once_have_a_database_each(engine: Engine) -> None:
    results = [engine.run("FROM silver.n", [], {"silver.n": f"SELECT {n} n"}) for n in range(5)]
    assert [result.rows() for result in results] == [[{"n": n}] for n in range(5)]
    for result in results:
        result.close()
        result.close()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(lambda n=n: ask_and_close(engine, n)) for n in range(200)]
        assert [one.result() for one in asked] == [[(n, f"text {n}")] for n in range(200)]


def ask_and_close(engine: Engine, n: int) -> list[tuple[int, str]]:
    with engine.run("FROM silver.n", [], {"silver.n": f"SELECT {n} n, 'text {n}' t"}) as result:
        return result.pl().rows() if n % 2 else [tuple(row.values()) for row in result.rows()]


def test_a_result_that_is_only_dropped_leaves_its_database_to_the_next(engine: Engine) -> None:
    folders = set()
    gc.collect()
    gc.freeze()  # what is loaded is looked through once
    try:
        for n in range(20):
            result = engine.run("FROM silver.n", [], {"silver.n": f"SELECT {n} AS n"})
            assert result.pl()["n"].to_list() == [n]
            del result
            gc.collect()
            folders.add(settings(engine)["temp_directory"])
    finally:
        gc.unfreeze()
    assert len(folders) <= 2


def test_a_statement_that_is_given_up_ends_no_other(engine: Engine) -> None:
    with engine.run("FROM range(100000000)", [], {}) as result:
        next(iter(result.fetch_batches()))
    with engine.run("SELECT count(*) n FROM range(1000000)", [], {}) as result:
        assert result.rows() == [{"n": 1_000_000}]


def test_a_file_that_is_damaged_meanwhile_is_seen(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "data" / "one.parquet"
    path.parent.mkdir()
    pl.DataFrame({"n": range(1000)}).write_parquet(path, statistics=False)
    query = f"SELECT sum(n) s FROM read_parquet('{path}')"
    with engine.run(query, [], {}) as result:
        assert result.rows() == [{"s": 499_500}]
    stat, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) - 8) + content[-4:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(UnavailableError), engine.run(query, [], {}) as result:
        result.rows()


def test_what_was_spilled_is_gone_with_its_result(engine: Engine) -> None:
    engine.temp.mkdir()
    connection = engine.open()
    connection.execute("SET memory_limit='60MB'; SET threads=1")
    connection.execute("SELECT i, random() r FROM range(6000000) t(i) ORDER BY r").fetchone()
    assert any(engine.temp.iterdir())
    engine.release(connection)
    assert not any(engine.temp.iterdir())


_FORKING = """
import gc, os, signal, sys
from pathlib import Path
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.storage.objects import LocalStore

signal.alarm(60)
engine = Engine(LocalStore(Path("data")), Path("tmp"))
for n in range(2):
    with engine.run(f"SELECT {n} n", [], {}) as result:
        assert result.rows() == [{"n": n}]
    child = os.fork()
    if child == 0:
        del engine, result
        gc.collect()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_process_that_is_forked_between_statements_ends_well(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _FORKING], cwd=tmp_path, check=True)
