"""Statements in a DuckDB of their own, without any table."""

from __future__ import annotations

import gc
from pathlib import Path

import polars as pl
import psutil
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from lakehouse_ray.errors import InvalidError
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
