"""Bars put into silver directly, file by file, so that a test decides how they lie in files."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.table import StaticTable
from support.commands import MANY_BYTES
from support.lakes import metadata_locations

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.settings import load_settings
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import PartitionKey, index_files
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.parquet import TableWriter, arrow_schema
from lakehouse_ray.storage.partitions import split_rows

INTERVAL_US = {"1m": 60_000_000, "15m": 900_000_000, "1h": 3_600_000_000}


def bars(
    symbol: str,
    start: str,
    days: float,
    *,
    interval: str = "1h",
    market: str = "spot",
    seed: int = 0,
    holes: float = 0.05,
) -> pl.DataFrame:
    """A random walk with some bars missing and some without trades."""
    rng = random.Random(f"{symbol} {start} {seed}")
    price, step_us = rng.uniform(1, 1000), INTERVAL_US[interval]
    drawn: list[tuple[int, float, float, float]] = []
    for number in range(round(days * DAY_US / step_us)):
        if rng.random() < holes:
            continue
        close = price * (1 + rng.gauss(0, 0.002))
        volume = 0.0 if rng.random() < 0.05 else rng.uniform(0, 50)
        drawn.append((number, price, close, volume))
        price = close
    schema = frame_schema(KLINES.table(interval))
    columns = {"number": pl.Int64, **dict.fromkeys(("open", "close", "volume"), pl.Float64)}
    first, step = (
        datetime.fromisoformat(start).replace(tzinfo=UTC),
        pl.duration(microseconds=step_us),
    )
    open_, close_, volume_ = pl.col("open"), pl.col("close"), pl.col("volume")
    made: dict[str, Any] = {
        "market": pl.lit(market),
        "symbol": pl.lit(symbol),
        "interval": pl.lit(interval),
        "open_time": first + pl.col("number") * step,
        "high": pl.max_horizontal(open_, close_) * 1.001,
        "low": pl.min_horizontal(open_, close_) * 0.999,
        "quote_volume": volume_ * (open_ + close_) / 2,
        "trades": (volume_ * 10).cast(pl.Int64),
        "taker_buy_volume": volume_ * 0.4,
        "taker_buy_quote_volume": volume_ * 0.4 * close_,
        "close_time": first + (pl.col("number") + 1) * step - pl.duration(microseconds=1),
        "source": pl.lit("daily"),
        "source_key": pl.lit(f"{symbol}-{start}"),
        "source_version": pl.lit(str(seed)),
    }
    found = pl.DataFrame(drawn, schema=columns, orient="row").with_columns(**made)
    nothing = [pl.lit(None).alias(name) for name in schema if name not in found.columns]
    return found.with_columns(nothing).select(list(schema)).cast(dict(schema))


@dataclass(frozen=True)
class BarLake:
    """A lake whose silver a test writes by itself."""

    home: Path

    def writer(
        self, *, on_ray: bool = False, kind: type[Writer] = Writer, **build: object
    ) -> Writer:
        return kind(
            load_settings(
                {
                    "home": self.home,
                    "compute": {"local_bytes_max": 0 if on_ray else MANY_BYTES},
                    "build": {"task_bytes_max": 1 << 17, "tasks_per_commit": 2, **build},
                }
            ).resolved()
        )

    def put(self, *frames: pl.DataFrame) -> None:
        """Add rows: one file for each partition, however many symbols."""
        tables = {KLINES.table(str(frame["interval"][0])).name for frame in frames}
        for table in KLINES.tables:
            mine = [f for f in frames if KLINES.table(str(f["interval"][0])).name == table.name]
            if table.name in tables:
                self._commit(table, pl.concat(mine), ())

    def rewrite(self, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        """Write all rows of a table anew as `change` makes them, into as few files as can be."""
        table = next(table for table in KLINES.tables if table.name == name)
        files = index_files(table, self.writer().catalog.find(name))
        self._commit(table, change(self.rows(name)), tuple(entry.path for entry in files))

    def rows(self, name: str) -> pl.DataFrame:
        """What a table holds, read by pyiceberg alone."""
        location = metadata_locations(self.home)[name]
        found = pl.from_arrow(StaticTable.from_metadata(location).scan().to_arrow())
        assert isinstance(found, pl.DataFrame)
        table = next((t for t in KLINES.tables if t.name == name), None)
        return found.cast(dict(frame_schema(table))) if table else found

    def snapshots(self) -> dict[str, int]:
        """The number of each table's snapshots."""
        return {
            name: len(StaticTable.from_metadata(location).metadata.snapshots)
            for name, location in metadata_locations(self.home).items()
        }

    def files(self, name: str) -> dict[str, list[str]]:
        """Symbols of each data file of a table."""
        location = metadata_locations(self.home)[name]
        found = {}
        for task in StaticTable.from_metadata(location).scan().plan_files():
            path = task.file.file_path.removeprefix("file://")
            symbols = pq.read_table(path, columns=["symbol"])["symbol"].to_pylist()
            found[path] = sorted(set(symbols))
        return found

    def _commit(self, table: Table, rows: pl.DataFrame, removed: tuple[str, ...]) -> None:
        writer = self.writer()
        files = []
        for key, part in split_rows(table, rows.sort("symbol", "open_time")):
            files += _write(writer, table, key, part)
        request = CommitRequest(uuid.uuid4().hex, tuple(files), removed)
        (outcome,) = writer.committer_factory(table, uuid.uuid4().hex)().commit([request])
        assert outcome.committed


def _write(writer: Writer, table: Table, key: PartitionKey, rows: pl.DataFrame) -> Sequence[Any]:
    with TableWriter(table, writer.store, key) as target:
        for symbol in rows["symbol"].unique(maintain_order=True):
            arrow = rows.filter(symbol=symbol).to_arrow(compat_level=pl.CompatLevel.oldest())
            schema = arrow_schema(table)
            target.write(
                pa.Table.from_arrays([arrow[f.name].cast(f.type) for f in schema], schema=schema)
            )
    return target.files
