"""Files that change after publication, and files that disagree."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import polars as pl
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.plan import FreqPolicy
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

MONTHS = SyntheticArchive(
    2, symbols=["BTCUSDT"], markets=["um"], start=date(2024, 5, 1), end=date(2024, 6, 4)
)
DAY_OF = "data/futures/um/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-05-{:02d}.zip"
MONTH = "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-05.zip"


class Lake:
    def __init__(self, exchange: ReplicaExchange, home: Path) -> None:
        self.exchange = exchange
        self.writer = Writer(
            Settings(
                home=home,
                binance={"archive_url": exchange.url},
                compute={"local_bytes_max": 1 << 40},
            )
        )

    def ingest(self, freq: FreqPolicy = "auto", dataset: str = "klines") -> IngestReport:
        interval = "1h" if dataset == "klines" else None
        return ingest(
            self.writer, IngestRequest(Selection(DATASETS[dataset], "um", interval), freq)
        )

    def table(self, name: str) -> Any:
        return SqlCatalog("lakehouse", uri=self.writer.settings.catalog_uri).load_table(name)

    def frame(
        self, name: str = "silver.klines_coarse", snapshot: int | None = None
    ) -> pl.DataFrame:
        location = self.table(name).metadata_location
        scan = pl.scan_iceberg(location, snapshot_id=snapshot, reader_override="pyiceberg")
        return scan.collect()

    def closes(self, snapshot: int | None = None) -> dict[int, float]:
        frame = self.frame(snapshot=snapshot)
        keys = frame["open_time"].dt.epoch("ms").to_list()
        assert len(set(keys)) == len(keys)
        return dict(zip(keys, frame["volume"].to_list(), strict=True))

    def served(self, key: str) -> dict[int, float]:
        """Volumes by open time, as Python reads them from what is served now."""
        with urlopen(f"{self.exchange.url}/{key}") as answer:
            data = answer.read()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            text = archive.read(archive.namelist()[0]).decode()
        rows = [row for row in csv.reader(io.StringIO(text)) if row[0].isdigit()]
        return {int(row[0]): float(row[5]) for row in rows}


@pytest.fixture
def make_lake(tmp_path: Path) -> Iterator[Any]:
    exchanges: list[ReplicaExchange] = []

    def make(*rules: Rule, archive: Any = MONTHS) -> Lake:
        exchanges.append(ReplicaExchange(archive, Faults(rules)).start())
        return Lake(exchanges[-1], tmp_path / "home")

    yield make
    for exchange in exchanges:
        exchange.stop()


def test_a_file_published_anew_replaces_its_rows_and_the_old_state_stays_readable(
    make_lake: Any,
) -> None:
    lake = make_lake()
    key = DAY_OF.format(7)
    lake.ingest("daily")
    before, snapshot = (
        lake.closes(),
        lake.table("silver.klines_coarse").metadata.current_snapshot_id,
    )
    lake.exchange.republish(key, "missing_rows")
    report = lake.ingest("daily")
    old, new = {k: v for k, v in before.items() if k // 86_400_000 == 19_850}, lake.served(key)
    assert len(old) == 24
    assert 0 < len(new) < 24
    assert lake.closes() == {k: v for k, v in before.items() if k not in old} | new
    assert lake.closes(snapshot) == before
    assert report.files == 1
    history = [s.snapshot_id for s in lake.table("silver.klines_coarse").metadata.snapshots]
    assert len(history) == 2, "replaced in one step"
    log = lake.frame("bronze.object_log").filter(key=key, state="built")
    assert log["sha256"].n_unique() == log["version"].n_unique() == 2
    root = Path(lake.writer.settings.storage_root)
    assert all((root / path).is_file() for path in log["path"])


def test_a_stale_monthly_file_gives_way_to_daily_files_whatever_is_asked_for(
    make_lake: Any,
) -> None:
    lake = make_lake(Rule(MONTH, "stale_values", params={"rows": 100}))
    lake.ingest("monthly")
    assert lake.closes() == lake.served(MONTH)
    lake.ingest("daily")
    for day in (1, 15, 31):
        served = lake.served(DAY_OF.format(day))
        assert {k: v for k, v in lake.closes().items() if k in served} == served
    lake.ingest("monthly")
    assert set(lake.frame()["source"]) == {"daily"}


def test_days_that_a_monthly_file_lacks_come_from_daily_files(make_lake: Any) -> None:
    """The first ten days are in no monthly row: #320, #403."""
    lake = make_lake(Rule(MONTH, "missing_rows", params={"from": 0.0, "to": 0.3226}))
    report = lake.ingest("auto")
    source = lake.frame().filter(pl.col("open_time").dt.month() == 5)
    days = source.group_by(pl.col("open_time").dt.day().alias("day"), "source").len()
    assert sorted(days.rows()) == sorted(
        (day, "daily" if day <= 10 else "monthly", 24) for day in range(1, 32)
    )
    assert report.skipped == 21
    again = lake.ingest("auto")
    assert (again.files, again.rows, again.commits) == (0, 0, 0)


def test_a_daily_file_newer_than_the_monthly_one_is_taken(make_lake: Any) -> None:
    lake = make_lake()
    lake.ingest("auto")
    key = DAY_OF.format(20)
    lake.exchange.republish(key, "stale_values")
    report = lake.ingest("auto")
    assert (report.files, report.rows) == (1, 0)
    served = lake.served(key)
    assert {k: v for k, v in lake.closes().items() if k in served} == served


def test_a_monthly_file_refused_at_first_is_replaced_by_all_its_days(make_lake: Any) -> None:
    lake = make_lake(Rule(MONTH, "wrong_checksum"))
    report = lake.ingest("auto")
    assert (report.quarantined, report.files) == (1, 34)
    assert lake.frame().height == 34 * 24
    lake.exchange.set_faults(Faults())
    assert lake.ingest("auto").quarantined == 0
    assert set(lake.frame()["source"]) == {"daily"}


@pytest.mark.parametrize("order", [(31, 1), (1, 31)], ids=["in order", "the other way"])
def test_midnight_at_the_edge_of_a_month_is_there_whichever_file_comes_first(
    order: tuple[int, int], make_lake: Any
) -> None:
    """The metrics of 31 May end with 00:00 of 1 June."""
    lake = make_lake()
    keys = {
        31: "data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-05-31.zip",
        1: "data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-06-01.zip",
    }
    lake.exchange.set_faults(Faults((Rule(keys[order[1]], "not_found"),)))
    lake.ingest("daily", "metrics")
    lake.exchange.set_faults(Faults())
    lake.ingest("daily", "metrics")
    frame = lake.frame("silver.metrics")
    midnight = frame.filter(pl.col("create_time").dt.strftime("%m-%d %H:%M") == "06-01 00:00")
    assert midnight["source_key"].to_list() == [keys[31]]
    assert frame["create_time"].is_unique().all()


def test_a_file_that_vanishes_from_the_listing_costs_nothing(
    make_lake: Any, tmp_path: Path
) -> None:
    lake = make_lake()
    lake.ingest("auto")
    rows = lake.closes()
    later = SyntheticArchive(
        2, symbols=["BTCUSDT"], markets=["spot"], start=date(2024, 5, 1), end=date(2024, 5, 2)
    )
    empty = make_lake(archive=later)
    assert (empty.ingest("auto").files, empty.closes()) == (0, rows)
