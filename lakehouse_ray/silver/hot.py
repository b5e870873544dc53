"""Live rows written to their hot table: small files that are appended, and dropped as a whole.

Nothing is read: several rows of a key may be there, and views tell which of them counts
(`query.live`). So appending conflicts with no other writer, and appending again does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.check import flag_rows
from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.silver.given_rows import by_series, checked_rows, good_rows
from lakehouse_ray.silver.quarantine import Refusals
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.ledger import log_request
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.parquet import TableWriter, to_rows
from lakehouse_ray.storage.partitions import split_rows


@dataclass(frozen=True)
class BuiltHot:
    """Live rows of one data set, written but not visible.

    hot, quarantine: To be committed, hot first. The second has one request per market.
    """

    table: Table
    hot: CommitRequest
    quarantine: tuple[CommitRequest, ...]
    rows: int
    rows_refused: int


def hot_table(dataset: Dataset) -> Table:
    """The data set's hot table; raises InvalidError where none of its rows come live."""
    table = dataset.hot_table
    if table is None:
        raise InvalidError(f"{dataset.name} has no hot table: its rows do not come live")
    return table


def build_hot(
    store: ObjectStore,
    dataset: Dataset,
    frame: pl.DataFrame,
    request_id: str,
    *,
    run_id: str,
    now_us: int,
) -> BuiltHot:
    """Write live rows: one file for each market and day.

    frame: See `given_rows.checked_rows`, which says what it raises. Rows are marked and refused as
        in `rows_work`.
    request_id: Of the rows; a run appends each id once.
    """
    table = hot_table(dataset)
    parts: list[pl.DataFrame] = []
    refused: dict[str, list[pl.DataFrame]] = {}
    count = 0
    for market, interval, rows in by_series(dataset, checked_rows(dataset, frame)):
        refusals = Refusals(market, dataset.name, interval, run_id, now_us)
        good, bad = good_rows(dataset, rows, refusals)
        flags = flag_rows(rules_of(dataset.name, market, interval), good)
        marked = pl.lit(None, pl.String) if flags is None else flags
        parts.append(good.with_columns(marked.alias("flags")).select(table.names))
        count += bad
        if len(refusals):
            refused.setdefault(market, []).append(refusals.frame())
    return BuiltHot(
        table,
        _request(store, table, parts, request_id),
        tuple(_refusal_requests(store, dataset, refused, request_id)),
        sum(part.height for part in parts),
        count,
    )


def _request(
    store: ObjectStore, table: Table, parts: list[pl.DataFrame], request_id: str
) -> CommitRequest:
    if not parts:
        return CommitRequest(request_id, ())
    writers = []
    with ExitStack() as stack:
        for partition, rows in split_rows(table, pl.concat(parts).sort(table.sort)):
            writer = stack.enter_context(TableWriter(table, store, partition))
            writer.write(to_rows(table, rows))
            writers.append(writer)
    return CommitRequest(request_id, tuple(file for w in writers for file in w.files))


def _refusal_requests(
    store: ObjectStore,
    dataset: Dataset,
    refused: Mapping[str, list[pl.DataFrame]],
    request_id: str,
) -> Iterator[CommitRequest]:
    for market, frames in refused.items():
        where = (market, dataset.name)
        request = f"{request_id}-{dataset.view}-{market}"
        yield log_request(QUARANTINE, store, pl.concat(frames), where, request)
