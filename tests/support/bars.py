"""Bars put into silver directly, file by file, so that a test decides how they lie in files."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
    first = datetime.fromisoformat(start).replace(tzinfo=UTC)
    price = rng.uniform(1, 1000)
    rows: list[dict[str, Any]] = []
    step = timedelta(microseconds=INTERVAL_US[interval])
    for number in range(round(timedelta(days=days) / step)):
        if rng.random() < holes:
            continue
        open_, close = price, price * (1 + rng.gauss(0, 0.002))
        volume = 0.0 if rng.random() < 0.05 else rng.uniform(0, 50)
        time = first + number * step
        rows.append(
            {
                "market": market,
                "symbol": symbol,
                "interval": interval,
                "open_time": time,
                "open": open_,
                "high": max(open_, close) * 1.001,
                "low": min(open_, close) * 0.999,
                "close": close,
                "volume": volume,
                "quote_volume": volume * (open_ + close) / 2,
                "trades": int(volume * 10),
                "taker_buy_volume": volume * 0.4,
                "taker_buy_quote_volume": volume * 0.4 * close,
                "close_time": time + step - timedelta(microseconds=1),
                "source": "daily",
                "source_key": f"{symbol}-{start}",
                "source_version": str(seed),
            }
        )
        price = close
    return pl.DataFrame(rows, schema=frame_schema(KLINES.table(interval)))


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
