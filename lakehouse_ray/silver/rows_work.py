"""Rows that come as such, of REST or of a stream, merged into the tables by the rule of `resolve`.

    frame -> units (`cut_rows`) -> files, written but not visible (`build_rows`) -> a CommitRequest

A table holds afterwards what it would hold if the same rows had come in files of that precedence.
Merging again changes nothing, in whatever pieces and order rows come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import polars as pl

from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market
from lakehouse_ray.silver.changes import Changes
from lakehouse_ray.silver.existing import Existing
from lakehouse_ray.silver.given_rows import (
    EARLIEST_US,
    RIVAL,
    by_series,
    checked_rows,
    good_rows,
    refuse_rows,
    timely,
)
from lakehouse_ray.silver.given_rows import (
    rows_schema as rows_schema,
)
from lakehouse_ray.silver.quarantine import Refusals
from lakehouse_ray.silver.regions import regions_of
from lakehouse_ray.silver.resolve import key_of, merge_rows, with_day
from lakehouse_ray.silver.sealing import Sealed
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import FileEntry, FileIndex
from lakehouse_ray.storage.ledger import log_request
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.partitions import split_rows


@dataclass(frozen=True)
class RowsUnit:
    """Rows that are merged in one go: of one partition of one table.

    id: The same for the same rows. span: Where rows of their keys may be; its end counts in.
    frame: Columns of the table but `flags`.
    """

    id: str
    dataset: Dataset
    market: Market
    interval: str | None
    span: TimeRange
    frame: pl.DataFrame

    @property
    def table(self) -> Table:
        return self.dataset.table(self.interval)

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self.frame["symbol"].unique().sort())

    def seen(self, index: FileIndex) -> tuple[FileEntry, ...]:
        """Files of the unit's table that its rows may have to be merged with."""
        regions = regions_of(self.table, self.market, self.interval, self.symbols, self.span)
        found = {e.path: e for region in regions for e in index.overlapping(region)}
        return tuple(found.values())


@dataclass(frozen=True)
class BuiltRows:
    """What came of a unit.

    silver, quarantine: To be committed, silver first.
    rows: Rows whose key is new to silver. rows_replaced: Rows written whose key was there before.
    rows_known: Rows that changed nothing: they are there, or another of their key is better.
    rows_refused: Rows in the quarantine.
    sealed: Of live rows that came after the archive's; to be committed before silver.
    """

    unit: RowsUnit
    silver: CommitRequest
    quarantine: CommitRequest
    rows: int = 0
    rows_replaced: int = 0
    rows_known: int = 0
    rows_refused: int = 0
    sealed: tuple[tuple[Table, CommitRequest], ...] = ()


def cut_rows(dataset: Dataset, frame: pl.DataFrame) -> Iterator[RowsUnit]:
    """Cut rows of any symbols, markets and intervals into units, one per partition.

    frame: At least the columns of `rows_schema`; keys may repeat.
    Raises InvalidError where a column is missing or of another type, or a row does not say whose it
    is (market, symbol, interval, source): that is a mistake of the caller, not of the exchange.
    """
    rows = checked_rows(dataset, frame)
    for market, interval, part in by_series(dataset, rows):
        table = dataset.table(interval)
        # A row without a time, or with an impossible one, belongs to no partition.
        within = timely(part[dataset.time])
        for _, piece in split_rows(table, part.filter(within)):
            yield _unit(dataset, market, interval, piece)
        lost = part.filter(~within)
        if lost.height:
            yield _unit(dataset, market, interval, lost)


def build_rows(
    store: ObjectStore, unit: RowsUnit, seen: Sequence[FileEntry], *, run_id: str, now_us: int
) -> BuiltRows:
    """Return the files of a unit, written but not visible.

    seen: `unit.seen` of the table's files as they are now.
    Memory: some times the unit's rows, and one row group of the table.
    """
    dataset, table = unit.dataset, unit.table
    rules = rules_of(dataset.name, unit.market, unit.interval)
    refusals = Refusals(unit.market, dataset.name, unit.interval, run_id, now_us)
    existing = Existing(table, store, seen, unit.span)
    rows = replaced = known = 0
    sealed = Sealed()
    with ExitStack() as stack:
        changes = Changes(table, store, unit.market, unit.interval, existing, rules, stack)
        good, refused = good_rows(dataset, unit.frame, refusals)
        good = good.drop("market", "interval", strict=False)
        for (symbol,), new in (
            good.sort(table.sort)
            .partition_by("symbol", include_key=False, maintain_order=True, as_dict=True)
            .items()
        ):
            there = _competing(dataset, existing, symbol, new)
            outcome = merge_rows(new, there, key_of(dataset))
            sealed.compare(dataset, symbol, new, there, key_of(dataset))
            rivals = outcome.conflicts.with_columns(symbol=pl.lit(symbol))
            refused += refuse_rows(refusals, rivals, "CONFLICTING_KEY", RIVAL)
            changes.write(symbol, outcome.added.sort(table.sort[1:]))
            changes.drop(symbol, outcome.dropped)
            rows += outcome.fresh
            replaced += outcome.added.height - outcome.fresh
            known += new.height - outcome.added.height
        changes.rewrite_files()
    quarantine = CommitRequest(unit.id, ())
    if len(refusals):
        where = (unit.market, dataset.name)
        quarantine = log_request(QUARANTINE, store, refusals.frame(), where, unit.id)
    return BuiltRows(
        unit,
        changes.request(unit.id, unit.symbols, unit.span, seen),
        quarantine,
        rows,
        replaced,
        known,
        refused,
        sealed.requests(
            store, dataset, unit.market, unit.interval, unit.id, run_id=run_id, now_us=now_us
        ),
    )


def _unit(dataset: Dataset, market: Market, interval: str | None, rows: pl.DataFrame) -> RowsUnit:
    rows = rows.sort("symbol", maintain_order=True)
    time = rows[dataset.time].filter(timely(rows[dataset.time])).dt.epoch("us")
    first, last = (time.min(), time.max()) if time.len() else (EARLIEST_US, EARLIEST_US)
    edge_us = dataset.edge_us
    span = TimeRange(cast(int, first) - edge_us, cast(int, last) + 1 + edge_us)
    return RowsUnit(_name(dataset, market, interval, rows), dataset, market, interval, span, rows)


def _name(dataset: Dataset, market: str, interval: str | None, rows: pl.DataFrame) -> str:
    """Name a unit by its rows, whatever their order: 16 hexadecimal digits."""
    digest = hashlib.sha256(f"rows {dataset.name} {market} {interval} {rows.height}".encode())
    ordered = rows.sort(rows.columns)
    for column in ordered.iter_columns():
        # The values as they are in memory: seeds of hashes differ from process to process.
        digest.update(column.name.encode())
        digest.update(_bytes_of(column))
    return digest.hexdigest()[:16]


def _bytes_of(column: pl.Series) -> bytes:
    # The oldest layout has each text once, in order: newer ones depend on where a text came from.
    frame, oldest = column.rechunk().to_frame(), pl.CompatLevel.oldest()
    return frame.write_ipc(None, compression="uncompressed", compat_level=oldest).getvalue()


def _competing(
    dataset: Dataset, existing: Existing, symbol: str, new: pl.DataFrame
) -> pl.DataFrame:
    """Existing rows with a key of the new ones; read a row group at a time."""
    key = list(key_of(dataset))
    nothing = new.head(0).with_columns(_file=pl.lit(None, pl.String))
    keys = new.select(key)
    return pl.concat(
        [
            nothing,
            *(
                with_day(group, dataset)
                .select(nothing.columns)
                .join(keys, on=key, how="semi", nulls_equal=True)
                for group in existing.groups(symbol)
            ),
        ]
    )
