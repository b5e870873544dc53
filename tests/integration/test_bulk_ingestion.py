"""The run as a whole: no room, no rights, nobody there; and after it the same table as ever."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import DeniedError, LakehouseError, ResourceError, UnavailableError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

ARCHIVE = SyntheticArchive(
    3, symbols=["BTCUSDT", "币安人生USDT"], markets=["spot"], start=date(2024, 5, 1), end=date(2024, 5, 8)
)  # fmt: skip
REQUEST = IngestRequest(Selection(DATASETS["klines"], "spot", "1m"))


def writer(url: str, home: Path, **more: Any) -> Writer:
    ingest_settings = {"retry_attempts_max": 4, "retry_budget_s": 5.0, "request_timeout_s": 5.0}
    return Writer(
        Settings(
            home=home,
            binance={"archive_url": url},
            compute={"local_bytes_max": 1 << 40},
            ingest=ingest_settings,
            **more,
        )
    )


def rows(lake: Writer) -> pl.DataFrame:
    table = SqlCatalog("lakehouse", uri=lake.settings.catalog_uri).load_table("silver.klines_fine")
    if table.current_snapshot() is None:
        return pl.DataFrame()
    frame = pl.scan_iceberg(table.metadata_location, reader_override="pyiceberg").collect()
    return frame.sort("symbol", "open_time")


@pytest.fixture(scope="module")
def exchange() -> Iterator[ReplicaExchange]:
    with ReplicaExchange(ARCHIVE) as running:
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False
    )
    if made.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_symbol_in_chinese_is_a_symbol(exchange: ReplicaExchange, tmp_path: Path) -> None:
    lake = writer(exchange.url, tmp_path / "home")
    report = ingest(lake, REQUEST)
    assert (report.files, report.partial) == (14, False)
    counts = dict(rows(lake).group_by("symbol").len().iter_rows())
    assert counts == {"BTCUSDT": 7 * 1440, "币安人生USDT": 7 * 1440}


@pytest.mark.parametrize("free_kib", [16, 100, 300, 700, 900])
def test_a_full_disk_is_one_error_and_a_second_run_with_room_ends_as_ever(
    free_kib: int, exchange: ReplicaExchange, small_disk: Path, tmp_path: Path
) -> None:
    """Whatever was being written when the room ran out: bronze, silver, a table's metadata."""
    undisturbed = writer(exchange.url, tmp_path / "undisturbed")
    ingest(undisturbed, REQUEST)
    lake = writer(
        exchange.url,
        tmp_path / "home",
        storage={"root": str(small_disk / "data")},
    )
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((1024 - free_kib) << 10))
    with pytest.raises(ResourceError):
        ingest(lake, REQUEST)
    assert not list(small_disk.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    report = ingest(lake, REQUEST)
    assert not report.partial
    assert rows(lake).equals(rows(undisturbed))
    assert ingest(lake, REQUEST).rows == 0


def test_a_store_that_may_not_be_written_is_one_error(
    exchange: ReplicaExchange, small_disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DeniedError):
        ingest(
            writer(exchange.url, tmp_path / "home", storage={"root": str(small_disk / "data")}),
            REQUEST,
        )


def test_a_home_that_may_not_be_written_is_one_error(
    exchange: ReplicaExchange, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DeniedError):
        ingest(writer(exchange.url, small_disk / "home"), REQUEST)


def test_nobody_listening_is_told_in_bounded_time(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken and not listened at
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1"):
            ingest(writer(url, tmp_path / "home"), REQUEST)
        assert time.monotonic() - started < 10


def test_a_url_that_lists_nothing_is_told_from_an_archive(
    exchange: ReplicaExchange, tmp_path: Path
) -> None:
    with pytest.raises(LakehouseError, match="nowhere"):
        ingest(writer(f"{exchange.url}/nowhere", tmp_path / "home"), REQUEST)


def test_a_server_that_asks_for_more_quiet_than_the_budget_is_not_waited_for(
    tmp_path: Path,
) -> None:
    rule = Rule("*", "throttled", params={"retry_after_s": 3600})
    with ReplicaExchange(ARCHIVE, Faults((rule,))) as busy:
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="quiet"):
            ingest(writer(busy.url, tmp_path / "home"), REQUEST)
        assert time.monotonic() - started < 10


def test_a_torn_listing_is_asked_for_again(tmp_path: Path) -> None:
    rules = (
        Rule("?prefix=*", "short_body", times=1),
        Rule("?prefix=*", "server_error", times=2),
    )
    with ReplicaExchange(ARCHIVE, Faults(rules)) as shaky:
        assert ingest(writer(shaky.url, tmp_path / "home"), REQUEST).files == 14


def test_a_data_set_that_is_not_published_any_more_fails_nothing(
    exchange: ReplicaExchange, tmp_path: Path
) -> None:
    request = IngestRequest(Selection(DATASETS["liquidationSnapshot"], "um", None))
    report = ingest(writer(exchange.url, tmp_path / "home"), request)
    assert (report.files, report.failed, report.partial) == (0, 0, False)
