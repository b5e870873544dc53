"""Rows in the words of other libraries, and of notebooks."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from typing import Any

import duckdb
import polars
import pyarrow as pa

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.versions import spell_versions

# Rows that are handed over at once: some MB of bars.
BATCH_ROWS = 30_000
# In a notebook, of an answer that may have millions.
SHOWN_ROWS = 5


class Readings:
    """The ways to have all rows of an answer that is read in batches."""

    @property
    def schema(self) -> pa.Schema:
        raise NotImplementedError

    @property
    def snapshots(self) -> dict[str, int | None]:
        raise NotImplementedError

    def fetch_batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        return pa.Table.from_batches(self.fetch_batches(), self.schema)

    def pl(self) -> polars.DataFrame:
        """All rows as a Polars frame."""
        return frame_of(self.arrow())

    def pandas(self) -> Any:
        """All rows as a pandas DataFrame. Raises InvalidError where pandas is not installed."""
        return pandas_of(self.arrow())

    def duckdb(
        self, connection: duckdb.DuckDBPyConnection | None = None
    ) -> duckdb.DuckDBPyRelation:
        """All rows as a relation of this connection, or of one of its own."""
        return (connection or duckdb.connect()).from_arrow(self.arrow())

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dictionaries, for small answers."""
        found: list[dict[str, Any]] = self.arrow().to_pylist()
        return found

    def _repr_html_(self) -> str:
        """For notebooks: the snapshots and the first rows."""
        schema = self.schema
        batches: Any = self.fetch_batches(SHOWN_ROWS)
        try:
            first = [batch.slice(0, SHOWN_ROWS) for batch in itertools.islice(batches, 1)]
        finally:
            if hasattr(batches, "close"):  # what works on in a thread
                batches.close()
        told = html.escape(spell_versions(self.snapshots)) or "no table"
        shown = frame_of(pa.Table.from_batches(first, schema))
        return f"<p>read from {told}; the first rows:</p>{shown._repr_html_()}"


def frame_of(table: pa.Table | pa.RecordBatch) -> polars.DataFrame:
    """The same rows as a Polars frame."""
    found = polars.from_arrow(table)
    assert isinstance(found, polars.DataFrame)
    return found


def pandas_of(table: pa.Table) -> Any:
    """A pandas DataFrame. Raises InvalidError where pandas is not installed."""
    try:
        return table.to_pandas()
    except ImportError as error:
        raise InvalidError("pandas is not installed", "pip install pandas") from error
