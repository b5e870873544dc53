"""Tables as Polars frames."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.table import Table

_POLARS_TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "long": pl.Int64(),
    "int": pl.Int32(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
    "timestamp": pl.Datetime("us", "UTC"),
}


def frame_schema(table: Table) -> pl.Schema:
    """The table's columns as a frame has them."""
    return pl.Schema({column.name: _POLARS_TYPES[column.type] for column in table.columns})
