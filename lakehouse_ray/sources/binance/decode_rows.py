"""What both ways of decoding go by: a file cut to its rows, times, words, columns and keys."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.sources.source import Csv, CsvFile

# Between the largest ms and the smallest µs that can be meant: 10^15 ms is the year 33658,
# 10^15 µs is September 2001.
MICROSECONDS_FROM = 10**15
BOOLEAN_WORDS = ("true", "false", "True", "False")
TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Run:
    """A file with its header cut off.

    lines_before: Lines of the file above `body`.
    """

    file: CsvFile
    body: Csv
    rows: int
    lines_before: int


def text_time(value: pl.Expr, *, strict: bool) -> pl.Expr:
    parsed = value.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=strict)
    return parsed.dt.replace_time_zone("UTC")


def complete(dataset: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    """The data set's columns in order; those that this market's files lack are null."""
    if frame.columns == [column.name for column in dataset.columns]:
        return frame
    types = {"double": pl.Float64, "boolean": pl.Boolean, "long": pl.Int64, "string": pl.String}
    return frame.select(
        pl.col(column.name)
        if column.name in frame.columns
        else pl.lit(None, dtype=types.get(column.type, TIME)).alias(column.name)
        for column in dataset.columns
    )


def keys_of(dataset: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    """What may stand once in a file: the key, or the key and the day (as `_day`)."""
    if not dataset.key_within_day:
        return frame.select(dataset.key)
    return frame.select(*dataset.key, pl.col(dataset.time).dt.date().alias("_day"))
