"""`lakehouse maintain` on lakes on disk and in a bucket, alone and beside writers and readers."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars
from support.buckets import moto
from support.commands import environment
from support.in_process import run_here
from support.live_lake import LiveLake
from support.live_rows import live_rows, version

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import MINUTE_US, parse_time
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.pipeline.maintenance import MaintenanceRequest, maintain
from lakehouse_ray.query.table_metrics import TableMetrics
from lakehouse_ray.settings import load_settings
from lakehouse_ray.silver.hot import hot_table
from lakehouse_ray.storage.files import index_files
from lakehouse_ray.telemetry.metrics import TABLE_COMMIT_AT

pytestmark = pytest.mark.integration

FINE = "silver.klines_fine"
HOT = hot_table(DATASETS["klines"])
ALL_GOES = {"snapshot_age_days": 0, "snapshots_min": 1, "daily_snapshots_days": 0}


class Later(SystemClock):
    """The machine's clock some days on."""

    def __init__(self, days: int) -> None:
        self._us = days * 86_400_000_000

    def now_us(self) -> int:
        return super().now_us() + self._us


def put(lake: BarLake, number: int) -> pl.DataFrame:
    frame = bars("BTCUSDT", f"2024-05-{number + 1:02}", 1, interval="1m", seed=number)
    lake.put(frame)
    return frame


def test_a_lake_on_disk_keeps_its_rows_and_loses_what_nobody_needs(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    for number in range(4):
        put(lake, number)
    lake.rewrite(FINE, lambda rows: rows.with_columns(volume=pl.col("volume") + 1))
    before = lake.rows(FINE)
    left = tmp_path / "data/tables/silver/klines_fine/data/left.parquet"
    left.write_bytes(b"of a run that was killed")
    raw = tmp_path / "data/bronze/binance/left.zip"
    raw.parent.mkdir(parents=True)
    raw.write_bytes(b"raw")
    old_s = time.time() - 3 * 86_400
    for path in (left, raw):
        os.utime(path, (old_s, old_s))
    env = environment(HOME=tmp_path)
    told = json.loads(run_here("maintain", "--dry-run", "--json", env=env).stdout)
    assert (told["orphans"], told["orphan_bytes"], told["dry_run"]) == (1, 24, True)
    assert left.exists()
    told = json.loads(run_here("maintain", FINE, "--steps=sweep", "--json", env=env).stdout)
    assert told["tables"][0]["first_orphans"] == [str(left.relative_to(tmp_path / "data"))]
    assert not left.exists()
    assert raw.exists()
    # Once all is old enough, what the rewriting replaced goes in two runs: readers come first.
    writer = Writer(load_settings({"home": tmp_path, "maintain": ALL_GOES}).resolved())
    report = maintain(writer, MaintenanceRequest(), clock=Later(3))
    assert report.total("expired") == 5
    files = maintain(writer, MaintenanceRequest(), clock=Later(4)).total("orphans")
    assert files >= 4
    assert_frame_equal(lake.rows(FINE).sort("open_time"), before.sort("open_time"))
    findings = json.loads(run_here("verify", "--deep", "--json", env=env).stdout)["findings"]
    # Nobody ingested these rows.
    assert {finding["check"] for finding in findings} <= {"source_unknown", "orphan_object"}


def test_a_monitor_is_told_when_rows_came_and_not_when_they_were_looked_after(
    tmp_path: Path,
) -> None:
    lake = BarLake(tmp_path)
    settings = load_settings(
        {"home": tmp_path, "maintain": {"small_files_min": 2, "manifests_max": 1}}
    ).resolved()
    find = Writer(settings).catalog.find

    def told() -> tuple[float, float]:
        """When rows last came, and when the current snapshot was made."""
        table = find(FINE)
        assert table is not None
        snapshot = table.current_snapshot()
        assert snapshot is not None
        found = dict(TableMetrics(find).look())
        return found[TABLE_COMMIT_AT][(FINE,)], snapshot.timestamp_ms / 1000

    for number in range(4):
        put(lake, number)
    came_at, made_at = told()
    assert came_at == made_at
    time.sleep(0.002)
    for step in ("compact", "manifests"):
        (report,) = maintain(Writer(settings), MaintenanceRequest((FINE,), (step,))).tables
        assert report.failed == []
        at_s, made_at = told()
        assert at_s == came_at
    assert made_at > came_at
    # What remembers nothing else says when it was looked after.
    gone = settings.model_copy(update={"maintain": settings.maintain.model_copy(update=ALL_GOES)})
    maintain(Writer(gone), MaintenanceRequest((FINE,), ("expire",)), clock=Later(3))
    assert told() == (made_at, made_at)
    # Other values of the same rows are news.
    lake.rewrite(FINE, lambda rows: rows.with_columns(volume=pl.col("volume") + 1))
    at_s, latest = told()
    assert at_s == latest > made_at


def test_small_files_are_written_together_beside_one_who_appends(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    settings = load_settings(
        {"home": tmp_path, "maintain": {"small_files_min": 2, "manifests_max": 1}}
    ).resolved()
    for number in range(6):
        put(lake, number)
    started, rounds = threading.Event(), 4

    def compact() -> tuple[int, int]:
        written = overtaken = 0
        while not done.is_set():
            started.set()
            request = MaintenanceRequest((FINE,), ("compact", "manifests"))
            (report,) = maintain(Writer(settings), request).tables
            assert report.failed == []
            assert report.manifests_left <= 2
            written, overtaken = written + report.written, overtaken + report.overtaken
        return written, overtaken

    done = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(compact)
        try:
            started.wait(30)
            frames = [put(lake, number) for number in range(6, 6 + rounds)]
        finally:
            done.set()
        written, _ = work.result()
    assert written >= 1
    maintain(Writer(settings), MaintenanceRequest((FINE,), ("compact",)))
    expected = pl.concat(
        [
            bars("BTCUSDT", f"2024-05-{n + 1:02}", 1, interval="1m", seed=n)
            for n in range(6 + rounds)
        ]
    )
    assert len(frames) == rounds
    assert len(lake.files(FINE)) == 1
    assert_frame_equal(lake.rows(FINE).sort("open_time"), expected.sort("open_time"))
    # Again, nothing is to be done.
    before = lake.snapshots()
    assert (
        maintain(Writer(settings), MaintenanceRequest((FINE,), ("compact",))).total("written") == 0
    )
    assert lake.snapshots() == before


def test_live_rows_are_seen_once_before_meanwhile_and_after(tmp_path: Path) -> None:
    """Hot files stay as they are, each of its hour, so that a fold takes those of closed hours."""
    lake = LiveLake(tmp_path)
    klines, start_us = DATASETS["klines"], parse_time("2024-05-31T22:00")
    for part in range(12):
        rows = [
            (start_us + (10 * part + n) * MINUTE_US, float(part), version(part)) for n in range(10)
        ]
        frame = live_rows(klines, rows, source="stream", interval="1m")
        lake.append(klines, frame)
        lake.merge(klines, frame.head(3))
    settings = load_settings(
        {"home": tmp_path, "maintain": ALL_GOES | {"small_files_min": 2, "manifests_max": 1}}
    ).resolved()

    def seen() -> pl.DataFrame:
        columns = "symbol, open_time, open, source_version"
        return lake.connect().sql(f"SELECT {columns} FROM silver.klines ORDER BY ALL").pl()

    def hot() -> set[str]:
        return {file.path for file in index_files(HOT, lake.writer().catalog.find(HOT.name))}

    before, files = seen(), hot()
    assert before.height == 120
    for days in (0, 3, 4):
        steps = ("compact", "manifests", "expire", "sweep")
        report = maintain(Writer(settings), MaintenanceRequest(steps=steps), clock=Later(days))
        assert not report.partial
        assert hot() == files
        assert_frame_equal(seen(), before)
    fold(lake.writer(), start_us + 60 * MINUTE_US)
    assert 0 < len(hot()) < len(files)
    assert_frame_equal(seen(), before)
    planned = maintain(Writer(settings), MaintenanceRequest(dry_run=True))
    report = maintain(Writer(settings), MaintenanceRequest(), clock=Later(6))
    assert not report.partial
    assert planned.folded is not None
    assert report.folded is not None
    assert planned.folded.rows == report.folded.rows == 60
    assert hot() == set()
    assert_frame_equal(seen(), before)


def test_a_table_that_there_is_not_is_said(tmp_path: Path) -> None:
    done = run_here("maintain", "silver.kline_fine", env=environment(HOME=tmp_path))
    assert done.returncode == 2
    assert "did you mean silver.klines_fine" in done.stderr
    assert not (tmp_path / "catalog.db").exists()


# The second lists more objects than come at once: a minute.
@pytest.mark.parametrize("orphans", [2, pytest.param(1006, marks=pytest.mark.slow)])
def test_a_lake_in_a_bucket(tmp_path: Path, orphans: int) -> None:
    with moto() as bucket:
        settings = {
            "home": tmp_path,
            "storage": {
                "root": f"s3://{bucket.name}/lake",
                "s3": {
                    "endpoint_url": bucket.endpoint_url,
                    "region": bucket.access.region,
                    "access_key_id": bucket.access.access_key_id,
                    "secret_access_key": bucket.access.secret_access_key,
                },
            },
            "maintain": ALL_GOES,
        }
        writer = Writer(load_settings(settings).resolved())

        class InBucket(BarLake):
            def writer(self, **_: object) -> Writer:
                return writer

        lake = InBucket(tmp_path)
        frames = [put(lake, number) for number in range(3)]
        left = [f"tables/silver/klines_fine/data/left-{n}.parquet" for n in range(orphans)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: writer.store.put(name, b"left"), left))
        report = maintain(writer, MaintenanceRequest())
        assert (report.total("young"), report.total("orphans")) == (orphans, 0)
        report = maintain(writer, MaintenanceRequest(), clock=Later(3))
        assert (report.total("expired"), report.total("orphans")) == (2, orphans)
        assert not list(writer.store.walk("tmp"))
        assert maintain(writer, MaintenanceRequest(), clock=Later(4)).total("orphans") >= 2
        assert not report.partial
        assert not any(map(writer.store.exists, left[:2]))
        table = writer.catalog.find(FINE)
        assert table is not None
        rows = pl.from_arrow(table.scan().to_arrow())
        assert isinstance(rows, pl.DataFrame)
        assert rows.height == sum(frame.height for frame in frames)


def test_beside_a_writer_and_readers_nothing_is_lost(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    frames = [put(lake, 0)]
    settings = load_settings({"home": tmp_path, "maintain": ALL_GOES}).resolved()
    reader = Reader(settings)
    stop = threading.Event()

    def look_after() -> int:
        expired = 0
        orphan = tmp_path / "data/tables/silver/klines_fine/data/left.parquet"
        while not stop.is_set():
            orphan.write_bytes(b"left")
            os.utime(orphan, (0, 0))
            report = maintain(
                Writer(settings), MaintenanceRequest(steps=("expire",)), clock=Later(3)
            )
            expired += report.total("expired")
            report = maintain(Writer(settings), MaintenanceRequest(steps=("sweep",)))
            assert not report.partial, report.as_dict()
            assert not orphan.exists()
        return expired

    def read() -> list[int]:
        counts = []
        while not stop.is_set():
            frame = reader.lake.sql(f"SELECT count(*) AS n FROM {FINE}").pl()
            counts.append(int(frame["n"][0]))
        return counts

    with ThreadPoolExecutor(2) as threads:
        work, counts = threads.submit(look_after), threads.submit(read)
        try:
            frames += [put(lake, number) for number in range(1, 8)]
        finally:
            stop.set()
        assert work.result() > 0
        assert counts.result() == sorted(counts.result())
    assert lake.rows(FINE).height == sum(frame.height for frame in frames)
