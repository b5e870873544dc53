"""From frames to the Arrow tables that are written: constants, sources and marks as dictionaries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from lakehouse_ray.kernels.check import flag_rows
from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.dataset import FLAGS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.work import ObjectResult
from lakehouse_ray.silver.resolve import SOURCE_NAMES

# Number of the object that a row came from, among those of its symbol; cheaper than its names. Rows
# that all come from one need none.
ORIGIN = "_origin"


def with_origin(frame: pl.DataFrame, numbers: Sequence[int], counts: Sequence[int]) -> pl.DataFrame:
    """Say of each row which object it came from: `counts[i]` rows of object `numbers[i]`."""
    origin = np.repeat(np.asarray(numbers, np.int32), np.asarray(counts, np.int64))
    return frame.hstack([pl.Series(ORIGIN, origin)])


def with_sources(frame: pl.DataFrame, objects: Sequence[ObjectResult]) -> pl.DataFrame:
    """Replace the number of the object by its names; without numbers all rows are of the one object."""
    if ORIGIN not in frame.columns:
        (item,) = objects
        return frame.with_columns(
            source=pl.lit(item.task.freq, pl.String),
            source_key=pl.lit(item.task.key, pl.String),
            source_version=pl.lit(item.version, pl.String),
        )
    names = pl.DataFrame(
        {
            ORIGIN: range(len(objects)),
            "source": [item.task.freq for item in objects],
            "source_key": [item.task.key for item in objects],
            "source_version": [item.version for item in objects],
        },
        schema={ORIGIN: pl.Int32, **dict.fromkeys(SOURCE_NAMES, pl.String)},
    )
    return frame.join(names, on=ORIGIN, how="left", maintain_order="left").drop(ORIGIN)


def to_arrow(
    table: Table,
    schema: pa.Schema,
    frame: pl.DataFrame,
    constants: dict[str, str],
    objects: Sequence[ObjectResult],
    rules: Sequence[Rule],
) -> pa.Table:
    """Rows of one symbol in the schema of the table's files.

    frame: With ORIGIN, or with the names of the sources, or with neither where all are of one object.
    constants: market, symbol and interval.
    rules: That each row is held against; what it breaks stands in `flags`.
    """
    rows = frame.height
    arrays: list[pa.Array | pa.ChunkedArray] = []
    plain = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    by_origin = {
        "source": [item.task.freq for item in objects],
        "source_key": [item.task.key for item in objects],
        "source_version": [item.version for item in objects],
    }
    first = pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(bytes(4 * rows))])
    origin: pa.Array | None = None
    if ORIGIN in frame.columns:
        origin = frame[ORIGIN].to_arrow().cast(pa.int32())
    elif SOURCE_NAMES[0] not in frame.columns:
        if len(objects) != 1:
            raise ValueError(f"rows of {len(objects)} objects that do not say which is whose")
        origin = first
    for field in schema:
        name = field.name
        if name in constants:
            value = pa.array([constants[name]], pa.string())
            arrays.append(pa.DictionaryArray.from_arrays(first, value))
        elif name == FLAGS.name:
            arrays.append(marks(flag_rows(rules, frame), rows))
        elif origin is not None and name in by_origin:
            names = pa.array(by_origin[name], pa.string())
            arrays.append(pa.DictionaryArray.from_arrays(origin, names))
        else:
            column = plain.column(name)
            arrays.append(column if column.type == field.type else column.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def marks(flags: pl.Series | None, rows: int) -> pa.Array | pa.ChunkedArray:
    """Flags as a dictionary; none at all cost four bytes a row until they are written."""
    if flags is None:
        nothing = pa.nulls(rows, pa.int32())
        return pa.DictionaryArray.from_arrays(nothing, pa.array([], pa.string()))
    plain = flags.to_arrow(compat_level=pl.CompatLevel.oldest())
    return plain.cast(pa.string()).dictionary_encode()
