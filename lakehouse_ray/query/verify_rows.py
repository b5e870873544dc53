"""Are the rows of the tables unique and in order, and are their files what the table says?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile

from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import to_us
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import files_sql, plan_files, quoted, text
from lakehouse_ray.query.statement import create_view
from lakehouse_ray.query.verification import EXAMPLES_MAX, Workbench
from lakehouse_ray.query.verify_advice import remake
from lakehouse_ray.storage.files import PartitionKey, file_entry


@dataclass
class _Faults:
    """Files of a table that are not as they should be, and why."""

    unreadable: list[str] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)
    bounds: list[str] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)


def verify_rows(bench: Workbench) -> None:
    """Look into every data file, then for keys that occur twice.

    Makes a view of every table over its readable files, for the checks that follow.
    """
    faults: dict[str, _Faults] = defaultdict(_Faults)
    for pin in bench.pins.values():
        bench.say(f"rows of {pin.shape.name}")
        files = [f for f in plan_files(pin) if bench.relative(f.file_path) not in bench.broken]
        own = faults[remake(pin.shape.name)]
        sound = [file for file in files if _verify_file(bench, pin, file, own)]
        create_view(bench.db, pin.shape.name, files_sql(pin.shape, sound))
        if pin.shape.key:
            _verify_keys(bench, pin, sound, set(own.order))
    for again, found in faults.items():
        _report(bench, found, again)


def _report(bench: Workbench, faults: _Faults, again: str) -> None:
    add = bench.result.add
    add("file_unreadable", "data files cannot be read", again, faults.unreadable)
    add("file_rows", "data files have another number of rows than the table says", again,
        faults.counts)  # fmt: skip
    add("file_bounds", "data files hold rows outside of what the table says", again, faults.bounds)
    add("row_group_symbols", "row groups hold several symbols: reads of one are slow", again,
        faults.symbols)  # fmt: skip
    add("file_order", "rows are not in the table's order", again, faults.order)


def _verify_file(bench: Workbench, pin: Pin, file: DataFile, faults: _Faults) -> bool:
    """Check one file, a row group at a time; returns whether it can be read."""
    table, path = pin.shape, bench.relative(file.file_path)
    try:
        parquet = pq.ParquetFile(
            bench.store.locate(path),
            filesystem=bench.store.filesystem,
            page_checksum_verification=True,
        )
        metadata = parquet.metadata
        if metadata.num_rows != file.record_count:
            faults.counts.append(path)
        if bench.deep and not _within_bounds(pin, file, metadata):
            faults.bounds.append(path)
        last: tuple[Any, ...] | None = None
        ordered = True
        for number in range(metadata.num_row_groups):
            columns = None if bench.deep else list(table.sort)
            rows = pl.from_arrow(parquet.read_row_group(number, columns=columns))
            assert isinstance(rows, pl.DataFrame)
            if not table.key or rows.is_empty():
                continue
            keys = rows.select(table.sort).with_columns(pl.col(pl.Categorical).cast(pl.String))
            if path not in faults.symbols and keys["symbol"].n_unique() > 1:
                faults.symbols.append(path)
            ordered = ordered and _ascending(keys) and (last is None or last < keys.row(0))
            last = keys.row(-1)
        if not ordered:
            faults.order.append(path)
    except (OSError, pa.ArrowException) as error:
        faults.unreadable.append(f"{path}: {error}")
        bench.broken.add(path)
        return False
    return True


def _ascending(keys: pl.DataFrame) -> bool:
    """Whether each row is after the one before: strictly, so no key occurs twice."""
    equal, later = pl.lit(True), pl.lit(False)
    for name in keys.columns:
        before, value = pl.col(name).shift(1), pl.col(name)
        later = later | (equal & (value > before))
        equal = equal & (value == before)
    return bool(keys.select(later.slice(1).all()).item())


def _within_bounds(pin: Pin, file: DataFile, metadata: Any) -> bool:
    """Whether symbols, times and the partition's own values are those that the table tells.

    Files need not have bounds of what their partition fixes.
    """
    assert pin.table is not None
    region = file_entry(pin.shape, pin.table.schema(), file).region
    names = [metadata.schema.column(i).name for i in range(metadata.num_columns)]
    leads = _extremes(metadata, names.index(pin.shape.sort[0]))
    times = _extremes(metadata, names.index(pin.shape.time))
    if leads != (region.lead_min, region.lead_max) or times is None:
        return False
    if (_us(times[0]), _us(times[1])) != (region.time_min_us, region.time_max_us):
        return False
    return all(
        found in (None, (value, value))
        for partition, value in zip(pin.shape.partitions, region.partition, strict=True)
        if partition.transform == "identity"
        for found in (_extremes(metadata, names.index(partition.column)),)
    )


def _extremes(metadata: Any, column: int) -> tuple[Any, Any] | None:
    """The bounds that a file's row groups tell of a column; None where they tell none."""
    groups = [
        metadata.row_group(i).column(column).statistics for i in range(metadata.num_row_groups)
    ]
    if any(group is None for group in groups):
        return None
    return min(group.min for group in groups), max(group.max for group in groups)


def _us(moment: datetime) -> int:
    return to_us(moment)


def _verify_keys(
    bench: Workbench, pin: Pin, files: Sequence[DataFile], unordered: set[str]
) -> None:
    """Find keys that occur twice, a partition at a time.

    A single file in strict order of its key has none. Where the time is no part of the key (ids of
    trades), a key could also occur in two partitions: only symbols whose ids overlap are looked at.
    """
    table = pin.shape
    by_time = table.time in table.key
    partitions: dict[PartitionKey, list[DataFile]] = defaultdict(list)
    for file in files:
        key = tuple(file.partition[i] for i in range(len(table.partitions)))
        partitions[key].append(file)
    found = _Duplicates()
    try:
        for members in partitions.values():
            alone = len(members) == 1 and bench.relative(members[0].file_path) not in unordered
            if not (alone and by_time):
                found.take(bench, table, files_sql(table, members))
        if not by_time and len(partitions) > 1:
            _verify_ids(bench, table, partitions, found)
    except duckdb.Error as error:
        bench.result.add(
            "rows_unreadable", f"{table.name} cannot be read", str(error), [table.name]
        )
        return
    bench.result.add(
        "duplicate_key",
        f"keys occur twice in {table.name}",
        "two runs wrote it at once with different versions of this program, or another engine "
        f"did: {remake(table.name)}",
        found.examples,
        count=found.count,
    )


@dataclass
class _Duplicates:
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def take(self, bench: Workbench, table: Table, select: str, where: str = "true") -> None:
        names = ", ".join(quoted(name) for name in table.key)
        query = (
            f"SELECT {names}, count(*) AS n FROM ({select}) WHERE {where} "
            f"GROUP BY ALL HAVING count(*) > 1"
        )
        # Counted and shown in one go: grouping is what costs.
        rows = bench.db.sql(
            f"SELECT count(*) OVER () AS total, * FROM ({query}) LIMIT {EXAMPLES_MAX}"
        ).to_arrow_table().to_pylist()  # fmt: skip
        if rows:
            self.count += rows[0]["total"]
            room = EXAMPLES_MAX - len(self.examples)
            self.examples += [" ".join(str(row[name]) for name in table.key) for row in rows[:room]]


def _verify_ids(
    bench: Workbench,
    table: Table,
    partitions: dict[PartitionKey, list[DataFile]],
    found: _Duplicates,
) -> None:
    """Find ids that occur in two partitions, among symbols whose ranges of ids overlap."""
    key = [name for name in table.key if name not in ("market", "symbol")]
    lead = quoted(key[0])
    ranges: dict[tuple[str, str], list[tuple[Any, Any]]] = defaultdict(list)
    for members in partitions.values():
        query = (
            f"SELECT market, symbol, min({lead}) a, max({lead}) b "
            f"FROM ({files_sql(table, members)}) GROUP BY ALL"
        )
        for row in bench.db.sql(query).to_arrow_table().to_pylist():
            ranges[row["market"], row["symbol"]].append((row["a"], row["b"]))
    every = files_sql(table, [file for members in partitions.values() for file in members])
    for (market, symbol), spans in ranges.items():
        spans.sort()
        if any(later[0] <= before[1] for before, later in pairwise(spans)):
            where = f"market = {text(market)} AND symbol = {text(symbol)}"
            found.take(bench, table, every, where)
