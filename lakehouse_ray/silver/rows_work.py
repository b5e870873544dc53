"""Rows that come as such, of REST or of a stream, merged into the tables by the rule of `resolve`.

    frame -> units (`cut_rows`) -> files, written but not visible (`build_rows`) -> a CommitRequest

A table holds afterwards what it would hold if the same rows had come in files of that precedence.
Merging again changes nothing, in whatever pieces and order rows come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.dataset import PRECEDENCE, Dataset
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.table import Column, Table
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.model.venue import Market, parse_interval, parse_market
from lakehouse_ray.silver.changes import Changes
from lakehouse_ray.silver.existing import Existing
from lakehouse_ray.silver.quarantine import ROWS_PER_OBJECT_MAX, Refusals
from lakehouse_ray.silver.regions import regions_of
from lakehouse_ray.silver.resolve import SOURCE_NAMES, key_of, merge_rows, resolve, with_day
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import FileEntry, FileIndex
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import log_request
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.partitions import split_rows

# Later and earlier times are no event of a market: as for single records (`model.records`).
_EARLIEST_US, _LATEST_US = parse_time("2010"), parse_time("2200")


@dataclass(frozen=True)
class RowsUnit:
    """Rows that are merged in one go: of one partition of one table.

    id: The same for the same rows. span: Of the rows' times; its end counts in.
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
    """

    unit: RowsUnit
    silver: CommitRequest
    quarantine: CommitRequest
    rows: int = 0
    rows_replaced: int = 0
    rows_known: int = 0
    rows_refused: int = 0


def rows_schema(dataset: Dataset) -> pl.Schema:
    """Columns that rows must come with: those of the table but `flags`, which merging fills in."""
    table = dataset.tables[0]
    schema = frame_schema(table)
    return pl.Schema({name: schema[name] for name in table.names if name != "flags"})


def cut_rows(dataset: Dataset, frame: pl.DataFrame) -> Iterator[RowsUnit]:
    """Cut rows of any symbols, markets and intervals into units, one per partition.

    frame: At least the columns of `rows_schema`; keys may repeat.
    Raises InvalidError where a column is missing or of another type, or a row does not say whose it
    is (market, symbol, interval, source): that is a mistake of the caller, not of the exchange.
    """
    rows = _checked(dataset, frame)
    for by, part in _by_series(dataset, rows):
        market, interval = parse_market(by[0]), by[1]
        table = dataset.table(interval)
        # A row without a time, or with an impossible one, belongs to no partition.
        timely = _timely(part[dataset.time])
        for _, piece in split_rows(table, part.filter(timely)):
            yield _unit(dataset, market, interval, piece)
        lost = part.filter(~timely)
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
    rows = replaced = known = refused = 0
    with ExitStack() as stack:
        changes = Changes(table, store, unit.market, unit.interval, existing, rules, stack)
        for symbol in unit.symbols:
            given = unit.frame.filter(symbol=symbol).drop(
                "market", "symbol", "interval", strict=False
            )
            good, bad = _refuse(dataset, symbol, given, refusals)
            new, rivals = resolve(good, key_of(dataset))
            bad += _refuse_rows(refusals, symbol, rivals, "CONFLICTING_KEY", _RIVAL)
            refused += bad
            if new.is_empty():
                continue
            there = _competing(dataset, existing, symbol, new)
            outcome = merge_rows(new, there, key_of(dataset))
            refused += _refuse_rows(refusals, symbol, outcome.conflicts, "CONFLICTING_KEY", _RIVAL)
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
    )


_RIVAL = "another series of the same kind has the key with other values"
_CLASH = "other rows of the same answer have the key and other values"


def _checked(dataset: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    schema = rows_schema(dataset)
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise InvalidError(f"rows of {dataset.name} lack {', '.join(missing)}")
    for name, kind in schema.items():
        if frame.schema[name] != kind:
            raise InvalidError(f"{name} of {dataset.name} is {frame.schema[name]}, not {kind}")
    names = ["market", "symbol", *(["interval"] if dataset.bars else []), *SOURCE_NAMES]
    for name in names:
        if frame[name].has_nulls():
            raise InvalidError(f"rows of {dataset.name} without {name}")
    kinds = frame["source"].unique()
    strange = [kind for kind in kinds if kind not in PRECEDENCE]
    if strange:
        raise InvalidError(f"unknown source {strange[0]!r}", f"one of {', '.join(PRECEDENCE)}")
    return frame.select(schema.names())


def _by_series(
    dataset: Dataset, rows: pl.DataFrame
) -> Iterable[tuple[tuple[str, str | None], pl.DataFrame]]:
    names = ["market", "interval"] if dataset.bars else ["market"]
    for values, part in sorted(rows.partition_by(names, as_dict=True).items()):
        interval = parse_interval(str(values[1])) if dataset.bars else None
        yield (str(values[0]), interval), part


def _timely(time: pl.Series) -> pl.Series:
    micro = time.dt.epoch("us")
    return ((micro >= _EARLIEST_US) & (micro < _LATEST_US)).fill_null(False)


def _unit(dataset: Dataset, market: Market, interval: str | None, rows: pl.DataFrame) -> RowsUnit:
    rows = rows.sort("symbol", maintain_order=True)
    timely = rows[dataset.time].filter(_timely(rows[dataset.time])).dt.epoch("us")
    first, last = (timely.min(), timely.max()) if timely.len() else (_EARLIEST_US, _EARLIEST_US)
    span = TimeRange(cast(int, first), cast(int, last) + 1)
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


def _refuse(
    dataset: Dataset, symbol: str, rows: pl.DataFrame, refusals: Refusals
) -> tuple[pl.DataFrame, int]:
    """Rows that a table can hold, one per key and version; the others are refused and counted."""
    untyped = pl.any_horizontal(
        pl.lit(False),
        *(pl.col(c.name).is_null() for c in dataset.columns if c.required),
        *(~pl.col(c.name).is_finite().fill_null(True) for c in _doubles(dataset)),
    )
    bad = rows.select(untyped).to_series()
    refused = _refuse_rows(
        refusals, symbol, rows.filter(bad), "UNTYPED_CELL", "a value is missing or not a number"
    )
    rows = rows.filter(~bad)
    timely = _timely(rows[dataset.time])
    refused += _refuse_rows(
        refusals, symbol, rows.filter(~timely), "OUTSIDE_PERIOD", "not between 2010 and 2200"
    )
    good = with_day(rows.filter(timely), dataset).unique(maintain_order=True)
    clashing = good.select(pl.struct(*key_of(dataset), *SOURCE_NAMES).is_duplicated()).to_series()
    refused += _refuse_rows(refusals, symbol, good.filter(clashing), "CONFLICTING_KEY", _CLASH)
    return good.filter(~clashing), refused


def _doubles(dataset: Dataset) -> list[Column]:
    return [column for column in dataset.columns if column.type == "double"]


def _refuse_rows(
    refusals: Refusals, symbol: str, rows: pl.DataFrame, reason: str, detail: str
) -> int:
    refusals.refuse_frame(symbol, rows.head(ROWS_PER_OBJECT_MAX), reason, detail)
    more = rows.height - ROWS_PER_OBJECT_MAX
    if more > 0:
        last = rows.slice(ROWS_PER_OBJECT_MAX, 1)
        refusals.refuse_frame(symbol, last, "MORE_BAD_ROWS", f"{more:,} more rows: {reason}")
    return rows.height


def _competing(
    dataset: Dataset, existing: Existing, symbol: str, new: pl.DataFrame
) -> pl.DataFrame:
    """Existing rows with a key of the new ones; read a row group at a time."""
    key = list(key_of(dataset))
    columns = [*new.columns, "_file"]
    keys = new.select(key)
    found = [
        with_day(group, dataset).select(columns).join(keys, on=key, how="semi", nulls_equal=True)
        for group in existing.groups(symbol)
    ]
    if found:
        return pl.concat(found)
    return new.head(0).with_columns(_file=pl.lit(None, dtype=pl.String))
