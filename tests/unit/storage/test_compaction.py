"""Files written together hold the same rows, in the order and the row groups of bulk ingestion."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage import compaction
from lakehouse_ray.storage.catalog import CatalogAccess, TableCatalog
from lakehouse_ray.storage.committer import CommitRequest, Committer
from lakehouse_ray.storage.compaction import CompactionPolicy, compact, plan_compaction
from lakehouse_ray.storage.files import FileEntry, index_files
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.storage.parquet import TableWriter, to_rows
from lakehouse_ray.storage.partitions import split_rows

FINE = KLINES.table("1m")
EVERYTHING = CompactionPolicy(small_bytes=1 << 30, files_min=2, task_bytes_max=1 << 30)


class Lake:
    def __init__(self, root: Path) -> None:
        self.store = LocalStore(root / "data")
        self.access = CatalogAccess(f"sqlite:///{root}/catalog.db", self.store.root, {})
        self.made = 0

    def put(self, table: Table, *frames: pl.DataFrame) -> None:
        """A file for each frame, with a row group for each value of the leading column."""
        files = []
        for frame in frames:
            for key, part in split_rows(table, frame.sort(table.sort)):
                with TableWriter(table, self.store, key) as writer:
                    for group in part.partition_by(table.sort[0], maintain_order=True):
                        writer.write(to_rows(table, group))
                files += writer.files
        self.made += 1
        committer = Committer(self.access, table, f"run-{self.made}")
        (outcome,) = committer.commit([CommitRequest("unit", tuple(files))])
        assert outcome.committed

    def files(self, table: Table) -> list[FileEntry]:
        return list(index_files(table, TableCatalog(self.access).find(table.name)))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def bars(symbol: str, first: int, count: int, step: int = 1) -> pl.DataFrame:
    rng = random.Random(f"{symbol} {first}")
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = []
    for number in range(first, first + count * step, step):
        time = start + timedelta(minutes=number)
        rows.append(
            {
                "market": "spot",
                "symbol": symbol,
                "interval": "1m",
                "open_time": time,
                "open": rng.random(),
                "close": rng.choice([-0.0, 0.0, float("inf"), 1e-300]),
                "trades": number,
                "close_time": time + timedelta(seconds=59),
                "source": rng.choice(["daily", "monthly", "rest"]),
                "source_key": f"{symbol}-{first}",
                "source_version": "v",
                "flags": rng.choice([None, "", "a,b"]),
            }
        )
    frame = pl.DataFrame(rows)
    schema = frame_schema(FINE)
    for name, kind in schema.items():
        if name not in frame.columns:
            value = 0 if kind.is_numeric() else None
            frame = frame.with_columns(pl.lit(value).alias(name))
    return frame.select(schema.names()).cast(dict(schema))


def read(paths: list[str], table: Table) -> pl.DataFrame:
    """By Polars alone, in the order of the file."""
    frames = [pl.read_parquet(path.removeprefix("file://")) for path in paths]
    return pl.concat(frames).cast(dict(frame_schema(table)))


def test_the_rows_are_the_same_and_each_row_group_has_one_symbol(lake: Lake) -> None:
    # Of one bucket, overlapping in symbols and in time, one within another.
    lake.put(FINE, bars("BTCUSDT", 0, 50, 2), bars("BTCUSDT", 1, 50, 2), bars("BTCUSDT", 500, 9))
    lake.put(FINE, pl.concat([bars("BTCUSDT", 200, 5), bars("BTCUSDT", 300, 5)]))
    files = lake.files(FINE)
    before = read([file.path for file in files], FINE)
    (task,) = plan_compaction(files, EVERYTHING)
    old, new = compact(lake.store, FINE, task)
    assert {file.path for file in old} == {file.path for file in files}
    assert len(new) == 1
    after = read([new[0].file_path], FINE)
    assert_frame_equal(after, before.sort(FINE.sort))
    metadata = pq.ParquetFile(new[0].file_path.removeprefix("file://")).metadata
    lead = FINE.names.index("symbol")
    for number in range(metadata.num_row_groups):
        statistics = metadata.row_group(number).column(lead).statistics
        assert statistics.min == statistics.max


def test_rows_of_several_symbols_stay_apart(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    # One partition for all symbols.
    table = KLINES.table("1d")
    symbols = ["ADAUSDT", "BTCUSDT", "ETHUSDT"]
    for first in (0, 3000, 1500):
        frames = [bars(symbol, first, 20).with_columns(interval=pl.lit("1d")) for symbol in symbols]
        lake.put(table, pl.concat(frames).select(frame_schema(table).names()))
    files = lake.files(table)
    before = read([file.path for file in files], table)
    (task,) = plan_compaction(files, EVERYTHING)
    # Never more at once than one symbol's rows of one file: they do not overlap.
    monkeypatch.setattr(compaction, "ROWS_AT_ONCE_MAX", 20)
    old, new = compact(lake.store, table, task)
    assert len(old) == 3
    assert_frame_equal(read([new[0].file_path], table), before.sort(table.sort))


def test_what_does_not_fit_into_memory_is_left_as_it_is(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put(FINE, bars("BTCUSDT", 0, 50, 2), bars("BTCUSDT", 1, 50, 2))
    lake.put(FINE, bars("BTCUSDT", 500, 9), bars("BTCUSDT", 600, 9))
    monkeypatch.setattr(compaction, "ROWS_AT_ONCE_MAX", 60)
    (task,) = plan_compaction(lake.files(FINE), EVERYTHING)
    old, new = compact(lake.store, FINE, task)
    assert sorted(file.rows for file in old) == [9, 9]
    assert sum(file.record_count for file in new) == 18


def test_a_log_keeps_every_row_even_where_two_are_the_same(lake: Lake) -> None:
    schema = frame_schema(QUARANTINE)
    at = datetime(2024, 1, 1, tzinfo=UTC)
    for number in range(4):
        rows = [
            {
                "market": "spot", "dataset": "klines", "symbol": symbol, "source": "daily",
                "source_key": f"{symbol}-{number // 2}", "reason": "R", "run_id": "r",
                "quarantined_at": at,
            }
            for symbol in ("BTCUSDT", "ETHUSDT")
        ]  # fmt: skip
        frame = pl.DataFrame(rows)
        missing = [pl.lit(None, kind).alias(n) for n, kind in schema.items() if n not in frame]
        lake.put(QUARANTINE, frame.with_columns(missing).select(schema.names()).cast(dict(schema)))
    files = lake.files(QUARANTINE)
    (task,) = plan_compaction(files, EVERYTHING)
    old, new = compact(lake.store, QUARANTINE, task)
    assert len(old) == 4
    before = read([file.path for file in files], QUARANTINE)
    after = read([new[0].file_path], QUARANTINE)
    assert_frame_equal(after, before, check_row_order=False)


def test_only_partitions_with_enough_small_files_are_written_together(lake: Lake) -> None:
    lake.put(FINE, *(bars("BTCUSDT", 100 * i, 5) for i in range(3)), bars("BTCUSDT", 60_000, 5))
    files = lake.files(FINE)
    policy = CompactionPolicy(small_bytes=1 << 30, files_min=3, task_bytes_max=1 << 30)
    (task,) = plan_compaction(files, policy)
    assert len(task.files) == 3
    assert plan_compaction(files, CompactionPolicy(1, 2, 1 << 30)) == []
    assert plan_compaction(files, CompactionPolicy(1 << 30, 2, 1)) == []


def test_a_damaged_file_is_not_written_on(lake: Lake) -> None:
    lake.put(FINE, bars("BTCUSDT", 0, 500), bars("BTCUSDT", 600, 500))
    files = lake.files(FINE)
    path = Path(files[0].path.removeprefix("file://"))
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 4
    path.write_bytes(data)
    (task,) = plan_compaction(files, EVERYTHING)
    folder = path.parent
    before = set(folder.iterdir())
    with pytest.raises(BadDataError, match="FILE_DAMAGED"):
        compact(lake.store, FINE, task)
    assert set(folder.iterdir()) == before
