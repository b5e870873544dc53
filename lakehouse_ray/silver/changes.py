"""What a merge changes in a table, as files: those it adds, and those it copies without some rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import polars as pl

from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.work import ObjectResult
from lakehouse_ray.silver.columns import to_arrow
from lakehouse_ray.silver.existing import Existing
from lakehouse_ray.silver.regions import partition_of, regions_of, split_by_partition
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import FileEntry, PartitionKey
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.parquet import TableWriter

# Rows of one row group; a symbol with more in a partition has several.
ROW_GROUP_ROWS_MAX = 1_000_000


class Changes:
    """Files of one merge, written but not visible; rows of one market and interval.

    Symbols must come in order. Files of a merge that fails are deleted.
    """

    def __init__(
        self,
        table: Table,
        store: ObjectStore,
        market: str,
        interval: str | None,
        existing: Existing,
        rules: Sequence[Rule],
        stack: ExitStack,
    ) -> None:
        """stack: Left when the merge is done: files are complete then."""
        self._table = table
        self._store = store
        self._market = market
        self._interval = interval
        self._existing = existing
        self._rules = rules
        self._stack = stack
        self._writers: dict[PartitionKey, TableWriter] = {}
        self._dropped: dict[str, list[pl.DataFrame]] = defaultdict(list)
        self._removed: list[str] = []
        self._finished: list[TableWriter] = []

    def write(self, symbol: str, frame: pl.DataFrame, objects: Sequence[ObjectResult] = ()) -> None:
        """Add rows of one symbol, in the table's order; as `columns.to_arrow` wants them."""
        constants = {"market": self._market, "symbol": symbol}
        if self._interval is not None:
            constants["interval"] = self._interval
        for time_us, part in split_by_partition(self._table, frame):
            partition = partition_of(self._table, self._market, self._interval, symbol, time_us)
            writer = self._writers.get(partition)
            if writer is None:
                writer = self._stack.enter_context(TableWriter(self._table, self._store, partition))
                self._writers[partition] = writer
                self._finished.append(writer)
            for piece in part.iter_slices(ROW_GROUP_ROWS_MAX):
                writer.write(
                    to_arrow(self._table, writer.schema, piece, constants, objects, self._rules)
                )

    def add_files(self, writers: Iterable[TableWriter]) -> None:
        """Take over files that were written elsewhere."""
        self._finished += writers

    def drop(self, symbol: str, rows: pl.DataFrame) -> None:
        """Remove existing rows of one symbol; `_file` says where they are."""
        for (path,), part in rows.partition_by("_file", as_dict=True).items():
            keys = part.select(pl.lit(symbol).alias("symbol"), *self._table.sort[1:])
            if self._interval is not None:
                keys = keys.with_columns(interval=pl.lit(self._interval))
            self.drop_keys(str(path), keys)

    def drop_keys(self, path: str, keys: pl.DataFrame) -> None:
        """Remove rows of one file. keys: With all columns of the table's key but the market."""
        self._dropped[path].append(keys)

    def rewrite_files(self) -> None:
        """Copy every file that holds dropped rows without them."""
        for path, dropped in sorted(self._dropped.items()):
            partition = self._existing.entry(path).region.partition
            writer = self._stack.enter_context(TableWriter(self._table, self._store, partition))
            self._existing.rewrite(path, pl.concat(dropped), writer, self._rules)
            self._finished.append(writer)
            self._removed.append(path)

    def request(
        self, request_id: str, symbols: Iterable[str], span: TimeRange, seen: Iterable[FileEntry]
    ) -> CommitRequest:
        """What is to be committed, once the stack is left. span: Its end counts in."""
        return CommitRequest(
            request_id,
            tuple(file for writer in self._finished for file in writer.files),
            tuple(self._removed),
            regions_of(self._table, self._market, self._interval, symbols, span),
            frozenset(entry.path for entry in seen),
        )
