"""Rows in the words of other libraries, and of notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.versions import spell_versions

# In a notebook, of an answer that may have millions.
SHOWN_ROWS = 5


def pandas_of(table: pa.Table) -> Any:
    """A pandas DataFrame. Raises InvalidError where pandas is not installed."""
    try:
        return table.to_pandas()
    except ImportError as error:
        raise InvalidError("pandas is not installed", "pip install pandas") from error


def table_html(first: pa.Table, snapshots: Mapping[str, int | None]) -> str:
    """The first rows of a result, and the snapshots that it was read from."""
    shown = pl.from_arrow(first)
    assert isinstance(shown, pl.DataFrame)
    told = html.escape(spell_versions(snapshots)) or "no table"
    return f"<p>read from {told}; the first rows:</p>{shown._repr_html_()}"
