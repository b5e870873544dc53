"""A file read line by line in columns of text, where each bad row is told apart with its number."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.sources.binance.decode_rows import (
    BOOLEAN_WORDS,
    MICROSECONDS_FROM,
    TIME,
    Run,
    complete,
    keys_of,
    text_time,
)
from lakehouse_ray.sources.binance.layouts import Cell, Layout
from lakehouse_ray.sources.source import BadRow, Decoded

_RAW_CHARACTERS_MAX = 1000


def decode_carefully(dataset: Dataset, layout: Layout, part: Run) -> Decoded:
    """Tell good rows from bad ones, line by line."""
    file = part.file
    texts = part.body.decode("utf-8", "replace").split("\n")[:-1]
    lines = pl.DataFrame({"_raw": texts}, schema={"_raw": pl.String})
    lines = lines.with_row_index("_line", offset=part.lines_before + 1).with_columns(
        pl.col("_raw").str.strip_chars_end("\r")
    )
    lines = lines.filter(pl.col("_raw").str.strip_chars() != "")
    cells = pl.col("_raw").str.split_exact(",", len(layout) - 1).struct
    table = lines.with_columns(
        (pl.col("_raw").str.count_matches(",", literal=True) + 1).alias("_cells"),
        *(
            cells.field(f"field_{i}").fill_null("").str.strip_chars(' "').alias(f"_{i}")
            for i in range(len(layout))
        ),
    )
    problems: list[pl.Expr] = [
        pl.when(pl.col("_cells") != len(layout)).then(
            pl.format("WRONG_CELL_COUNT|{} cells instead of {}", "_cells", pl.lit(len(layout)))
        )
    ]
    typed: list[pl.Expr] = []
    for i, cell in enumerate(layout):
        text = pl.col(f"_{i}")
        if cell.type == "ignored":
            continue
        value = from_text(cell, text)
        if cell.type == "symbol":
            problems.append(pl.when(text != file.symbol).then(pl.format("WRONG_SYMBOL|{}", text)))
            continue
        empty = text == ""
        bad = value.is_null() & ~empty if cell.optional else value.is_null()
        if cell.type == "double":
            bad = bad | ~value.is_finite().fill_null(True)
        problems.append(
            pl.when(bad).then(pl.format(f"UNTYPED_CELL|{cell.name} is {{}}", text.str.slice(0, 60)))
        )
        typed.append(value.alias(cell.column))
    start, end = file.period.start_us, file.period.end_us + dataset.slack_us
    table = table.with_columns(*typed)
    micro = pl.col(dataset.time).dt.epoch("us")
    problems.append(
        pl.when((micro < start) | (micro >= end)).then(
            pl.format(
                "OUTSIDE_PERIOD|{} is not in {}", pl.col(dataset.time), pl.lit(str(file.period))
            )
        )
    )
    table = table.with_columns(pl.coalesce(problems).alias("_problem"))
    bad_rows = table.filter(pl.col("_problem").is_not_null())
    good = table.filter(pl.col("_problem").is_null())

    columns = [cell.column for cell in layout if cell.column]
    before = good.height
    good = good.unique(subset=columns, keep="first", maintain_order=True)
    duplicates = before - good.height
    conflicting = keys_of(dataset, good).is_duplicated()
    conflicts = good.filter(conflicting)
    good = good.filter(~conflicting)

    refused = [
        BadRow(line, reason, detail, raw[:_RAW_CHARACTERS_MAX])
        for line, problem, raw in bad_rows.select("_line", "_problem", "_raw").iter_rows()
        for reason, _, detail in (problem.partition("|"),)
    ] + [
        BadRow(
            line,
            "CONFLICTING_KEY",
            f"other rows of the file have the same {', '.join(dataset.key)} and other values",
            raw[:_RAW_CHARACTERS_MAX],
        )
        for line, raw in conflicts.select("_line", "_raw").iter_rows()
    ]
    frame = complete(dataset, good.select(columns))
    return Decoded(
        frame,
        (frame.height,),
        (tuple(sorted(refused, key=lambda r: r.line)),),
        (duplicates,),
        clashing=keys_of(dataset, conflicts).unique() if conflicts.height else None,
    )


def from_text(cell: Cell, text: pl.Expr) -> pl.Expr:
    """The typed value, null where the text is not one."""
    if cell.type == "epoch":
        number = text.cast(pl.Int64, strict=False)
        micro = pl.when(number >= MICROSECONDS_FROM).then(number).otherwise(number * 1000)
        return micro.cast(TIME)
    if cell.type == "text_time":
        return text_time(text, strict=False)
    if cell.type == "long":
        return text.cast(pl.Int64, strict=False)
    if cell.type == "double":
        return text.cast(pl.Float64, strict=False)
    if cell.type == "boolean":
        return pl.when(text.is_in(BOOLEAN_WORDS)).then(text.is_in(("true", "True")))
    return pl.when(text != "").then(text)
