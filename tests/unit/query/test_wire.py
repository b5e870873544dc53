"""Rows as text: what is written reads back as the same values."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.wire import csv_bytes, ndjson_bytes

# The first call loads libraries.
unhurried = settings(deadline=None)
UTC = pa.timestamp("us", "UTC")
# Hypothesis takes bounds without a zone.
EARLIEST = dt.datetime(1970, 1, 2)  # noqa: DTZ001
LATEST = dt.datetime(2200, 1, 1)  # noqa: DTZ001


def lines(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ndjson_bytes(batch).splitlines()]


def one(values: list[Any], kind: pa.DataType) -> list[Any]:
    return [row["a"] for row in lines(pa.record_batch({"a": pa.array(values, kind)}))]


@unhurried
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=1))
def test_floats_read_back_as_the_same_number(values: list[float | None]) -> None:
    assert one(values, pa.float64()) == values
    batch = pa.record_batch({"a": pa.array(values, pa.float64()), "b": pa.array([0] * len(values))})
    rows = list(csv.reader(io.StringIO(csv_bytes(batch, header=False).decode())))
    assert [None if cell == "" else float(cell) for cell, _ in rows] == values


@unhurried
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_are_exact(values: list[int]) -> None:
    assert one(values, pa.int64()) == values


@unhurried
@given(st.lists(st.text() | st.none(), min_size=1))
def test_texts_read_back(values: list[str | None]) -> None:
    assert one(values, pa.string()) == values


@unhurried
@given(st.lists(st.datetimes(EARLIEST, LATEST), min_size=1))
def test_times_are_iso_with_z_and_exact(values: list[dt.datetime]) -> None:
    aware = [value.replace(tzinfo=dt.UTC) for value in values]
    texts = one(aware, UTC)
    assert all(text.endswith("Z") for text in texts)
    assert [dt.datetime.fromisoformat(text) for text in texts] == aware
    assert [len(text) == 20 for text in texts] == [value.microsecond == 0 for value in values]


def test_what_json_has_no_word_for_is_null() -> None:
    assert one([math.nan, math.inf, -math.inf, None, 1.0], pa.float64()) == [None] * 4 + [1.0]


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        (Decimal("1.5"), pa.decimal128(4, 1), 1.5),
        (Decimal(2**60), pa.decimal128(38, 0), 2**60),
        (Decimal(2**70), pa.decimal128(38, 0), str(2**70)),
        (dt.date(2024, 1, 5), pa.date32(), "2024-01-05"),
        (dt.time(1, 2, 3), pa.time64("us"), "01:02:03.000000"),
        (b"\x01\xff", pa.binary(), "01ff"),
        ("x", pa.dictionary(pa.int8(), pa.string()), "x"),
        (pa.MonthDayNano([1, 2, 3_500_000_000]), pa.month_day_nano_interval(), "P1M2DT3.5S"),
        (pa.MonthDayNano([0, 0, 0]), pa.month_day_nano_interval(), "PT0S"),
        ([1, 2], pa.list_(pa.int64()), [1, 2]),
        ({"t": dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "x": math.nan},
         pa.struct({"t": UTC, "x": pa.float64()}), {"t": "2024-01-01T00:00:00Z", "x": None}),
        (None, pa.null(), None),
    ],
    ids=str,
)  # fmt: skip
def test_every_type_has_a_spelling(value: Any, kind: pa.DataType, wanted: Any) -> None:
    assert one([value], kind) == [wanted]


def test_csv_tells_null_from_an_empty_text() -> None:
    batch = pa.record_batch({"a": [None, "", "x,y"], "b": [[1], None, []]})
    assert csv_bytes(batch, header=True).decode() == 'a,b\n,[1]\n"",\n"x,y",[]\n'


def test_no_rows_are_no_lines() -> None:
    batch = pa.RecordBatch.from_pylist([], schema=pa.schema({"a": pa.int64()}))
    assert ndjson_bytes(batch) == b""
    assert csv_bytes(batch, header=True) == b"a\n"


@pytest.mark.parametrize(
    "type_", ["TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMPTZ", "DATE"]
)
@pytest.mark.parametrize("value", ["infinity", "-infinity", "10000-01-01", "0001-01-01 (BC)"])
@pytest.mark.parametrize("spelled", ["{}", "[{}]"])
def test_a_time_that_no_text_has_is_refused(type_: str, value: str, spelled: str) -> None:
    """By the engine whose answers these are. Polars panics at some of them and miscounts others."""
    made = spelled.format(f"'{value}'::{type_}")
    (batch,) = duckdb.sql(f"SELECT {made} a").to_arrow_table().to_batches()
    for write in (ndjson_bytes, lambda batch: csv_bytes(batch, header=False)):
        with pytest.raises(InvalidError, match="no text has"):
            write(batch)


def test_the_first_and_the_last_time_that_text_has() -> None:
    table = duckdb.sql(
        "SELECT '0001-01-01'::TIMESTAMP a, '9999-12-31 23:59:59.999999'::TIMESTAMP b, "
        "'0001-01-01'::DATE c, '9999-12-31'::DATE d, '9999-12-31 23:59:59'::TIMESTAMP_S e, NULL::DATE f"
    ).to_arrow_table()
    assert lines(table.to_batches()[0]) == [
        {
            "a": "0001-01-01T00:00:00Z",
            "b": "9999-12-31T23:59:59.999999Z",
            "c": "0001-01-01",
            "d": "9999-12-31",
            "e": "9999-12-31T23:59:59Z",
            "f": None,
        }
    ]
