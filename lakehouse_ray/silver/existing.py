"""Reading what silver already has in the way of a merge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange, to_us
from lakehouse_ray.storage.files import FileEntry
from lakehouse_ray.storage.ledger import frame_schema
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.parquet import TableWriter


@dataclass(frozen=True)
class _Group:
    """A row group that may hold rows of a symbol."""

    path: str
    number: int


class Existing:
    """Rows of some files, by symbol. A row group holds one symbol, so little more is read."""

    def __init__(
        self, table: Table, store: ObjectStore, files: Sequence[FileEntry], span: TimeRange
    ) -> None:
        """span: Rows outside it are of no interest; its end counts in."""
        self._table = table
        self._store = store
        self._span = span
        self._files = {entry.path: entry for entry in files}
        self._groups: dict[str, list[_Group]] = defaultdict(list)
        lead, time = table.names.index(table.sort[0]), table.names.index(table.time)
        for entry in files:
            metadata = self._open(entry.path).metadata
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                names, times = group.column(lead).statistics, group.column(time).statistics
                first, last = _us(times.min), _us(times.max)
                if first > span.end_us or last < span.start_us:
                    continue
                assert names.min == names.max, "a row group holds one symbol"
                self._groups[names.min].append(_Group(entry.path, number))

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._groups

    def groups(self, symbol: str) -> Iterator[pl.DataFrame]:
        """Yield the symbol's rows in the span, a row group at a time, with `_file`."""
        schema = frame_schema(self._table)
        micro = pl.col(self._table.time).dt.epoch("us")
        inside = (micro >= self._span.start_us) & (micro <= self._span.end_us)
        for group in self._groups.get(symbol, ()):
            frame = _frame(self._open(group.path).read_row_group(group.number), schema)
            yield frame.filter(inside).with_columns(_file=pl.lit(group.path))

    def rows(self, symbol: str) -> pl.DataFrame:
        """The same in one frame."""
        frames = list(self.groups(symbol))
        if not frames:
            empty = frame_schema(self._table).to_frame()
            return empty.with_columns(_file=pl.lit(None, dtype=pl.String))
        return pl.concat(frames)

    def count(self, symbol: str) -> int:
        """Rows in the row groups that may hold the symbol's rows: no fewer than `rows` has."""
        return sum(
            self._open(group.path).metadata.row_group(group.number).num_rows
            for group in self._groups.get(symbol, ())
        )

    def rewrite(self, path: str, dropped: pl.DataFrame, writer: TableWriter) -> None:
        """Copy a file without some of its rows, row group by row group.

        dropped: Keys of the rows, with `symbol`.
        """
        schema = frame_schema(self._table)
        symbols = set(dropped["symbol"].to_list())
        file = self._open(path)
        lead = self._table.names.index(self._table.sort[0])
        for number in range(file.metadata.num_row_groups):
            rows = file.read_row_group(number)
            if file.metadata.row_group(number).column(lead).statistics.min not in symbols:
                writer.write(rows.cast(writer.schema))
                continue
            # The market is the same in all of a file; a key may hold nulls nowhere.
            keys = [name for name in self._table.key if name != "market"]
            left = rows.filter(_staying(_frame(rows, schema), dropped, keys))
            if left.num_rows:
                writer.write(left.cast(writer.schema))

    def entry(self, path: str) -> FileEntry:
        return self._files[path]

    def _open(self, path: str) -> pq.ParquetFile:
        relative = path.removeprefix("file://").removeprefix(self._store.root + "/")
        try:
            return pq.ParquetFile(
                self._store.locate(relative), filesystem=self._store.filesystem, memory_map=False
            )
        except OSError as error:
            raise explain(error, f"reading {path}") from error


def _staying(frame: pl.DataFrame, dropped: pl.DataFrame, keys: Sequence[str]) -> pa.Array:
    """A mask of the rows that stay, in the order they have."""
    marked = frame.select(keys).join(
        dropped.select(keys).unique().with_columns(_gone=pl.lit(True)),
        on=list(keys),
        how="left",
        maintain_order="left",
    )
    return marked["_gone"].is_null().to_arrow()


def _frame(table: object, schema: pl.Schema) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.select(schema.names()).cast(schema)


def _us(value: object) -> int:
    assert isinstance(value, datetime)
    return to_us(value)
