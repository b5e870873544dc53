"""SQL made from tables and conditions, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import EVERYTHING, Where, empty_sql, plan_files, quoted, text

TABLE = KLINES.table("1m")


def test_conditions_hold_their_end_out() -> None:
    span = TimeRange(parse_time("2024"), parse_time("2025"))
    where = Where({"market": "spot", "symbol": "O'NEILUSDT"}, span)
    assert where.sql(TABLE) == (
        "\"market\" = 'spot' AND \"symbol\" = 'O''NEILUSDT' "
        f'AND "open_time" >= make_timestamptz({span.start_us}) '
        f'AND "open_time" < make_timestamptz({span.end_us})'
    )
    assert EVERYTHING.sql(TABLE) == "true"


def test_names_and_texts_cannot_leave_their_quotes() -> None:
    assert quoted('a"b') == '"a""b"'
    assert text("a'b") == "'a''b'"


def test_a_table_without_files_has_its_columns() -> None:
    assert plan_files(Pin(TABLE, None, None)) == []
    assert empty_sql(TABLE).count(" AS ") == len(TABLE.columns)


@dataclass
class Task:
    delete_files: set[str]
    file: Any = None


class Scanned:
    """A table into which another engine has put delete files."""

    def scan(self, *args: object, **kwargs: object) -> Scanned:
        return self

    def plan_files(self) -> list[Task]:
        return [Task(set()), Task({"gone.parquet"})]


def test_delete_files_are_refused_and_not_passed_over() -> None:
    with pytest.raises(InvalidError, match="delete files"):
        plan_files(Pin(TABLE, Scanned(), 1))  # type: ignore[arg-type]
