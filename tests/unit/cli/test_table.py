"""Tables for people."""

from __future__ import annotations

import io

import polars as pl
import pytest

from lakehouse_ray.cli.table import CELL_CHARS_MAX, aligned, print_table


def printed(frame: pl.DataFrame, types: list[str], rows_max: int | None, quiet: bool) -> list[str]:
    sink = io.BytesIO()
    halves = iter([frame.head(2), frame.slice(2)])
    print_table(frame.columns, types, halves, sink, rows_max, quiet)
    return sink.getvalue().decode().splitlines()


FRAME = pl.DataFrame({"name": ["a", None, "c" * 100], "n": [1, 22, 333]})


def test_numbers_are_to_the_right_and_long_texts_are_cut(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(FRAME, ["VARCHAR", "BIGINT"], None, quiet=False)
    assert lines[:4] == ["name   n", "────  ──", "a      1", "      22"]
    assert lines[4] == "c" * (CELL_CHARS_MAX - 1) + "…  333"
    assert capsys.readouterr().err == "(3 rows)\n"


def test_rows_that_are_left_out_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(printed(FRAME, ["VARCHAR", "BIGINT"], 1, quiet=False)) == 3
    assert "1 rows shown, 2 more" in capsys.readouterr().err
    printed(FRAME, ["VARCHAR", "BIGINT"], 1, quiet=True)
    assert capsys.readouterr().err == ""


def test_small_tables_are_aligned() -> None:
    assert aligned(("a", "b"), [("x", 1), ("yy", 22)]) == [
        "a    b", "──  ──", "x    1", "yy  22",
    ]  # fmt: skip


def test_wide_signs_take_two_columns_of_a_terminal() -> None:
    lines = aligned(["symbol", "rows"], [["币安人生USDT", 1], ["BTCUSDT", 2]])
    assert lines[2:] == ["币安人生USDT     1", "BTCUSDT          2"]
