"""Reading what silver already has in the way of a merge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse_ray.kernels.check import flag_rows
from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.dataset import FLAGS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.silver.columns import marks
from lakehouse_ray.storage.files import FileEntry
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.groups import Footers, GroupReader, RowGroup, relative_path
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.parquet import TableWriter


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
        self._groups: dict[str, list[RowGroup]] = defaultdict(list)
        for group in Footers(store).groups(table, files):
            region = group.region
            if region.time_min_us > span.end_us or region.time_max_us < span.start_us:
                continue
            assert region.lead_min == region.lead_max, "a row group holds one symbol"
            self._groups[region.lead_min].append(group)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._groups

    def groups(self, symbol: str) -> Iterator[pl.DataFrame]:
        """Yield the symbol's rows in the span, a row group at a time, with `_file`."""
        micro = pl.col(self._table.time).dt.epoch("us")
        inside = (micro >= self._span.start_us) & (micro <= self._span.end_us)
        with GroupReader(self._store) as reader:
            for group in self._groups.get(symbol, ()):
                frame = reader.read(self._table, group, self._table.names)
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
        return sum(group.rows for group in self._groups.get(symbol, ()))

    def rewrite(
        self, path: str, dropped: pl.DataFrame, writer: TableWriter, rules: Sequence[Rule]
    ) -> None:
        """Copy a file without some of its rows, row group by row group.

        dropped: Keys of the rows, with `symbol`.
        rules: Mark what stays of a file that was written before rows were marked.
        """
        schema = frame_schema(self._table)
        symbols = set(dropped["symbol"].to_list())
        file = self._open(path)
        lead = self._table.names.index(self._table.sort[0])
        for number in range(file.metadata.num_row_groups):
            rows = _marked(_read(file, number, path), writer.schema, rules)
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
        try:
            return pq.ParquetFile(
                self._store.locate(relative_path(self._store, path)),
                filesystem=self._store.filesystem,
                memory_map=False,
                # A flipped bit must not be copied, under a checksum that is right again.
                page_checksum_verification=True,
            )
        except OSError as error:
            raise explain(error, f"reading {path}") from error


def _read(file: pq.ParquetFile, number: int, path: str) -> pa.Table:
    try:
        return file.read_row_group(number)
    except OSError as error:
        raise explain(error, f"reading {path}") from error


def _marked(rows: pa.Table, schema: pa.Schema, rules: Sequence[Rule]) -> pa.Table:
    """Rows with their marks, which files lack that are older than these."""
    if FLAGS.name in rows.column_names:
        return rows
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    flags = marks(flag_rows(rules, frame), rows.num_rows)
    return rows.append_column(schema.field(FLAGS.name), flags)


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
