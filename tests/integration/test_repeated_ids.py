"""One id on both sides of midnight (the exchange has published such aggTrades): two trades."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import polars as pl
import pytest

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.settings import load_settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

pytestmark = pytest.mark.integration

HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
# 2026-04-10 23:59:59.900 and 2026-04-11 00:00:00.100
EVENING, MORNING = 1775865599900, 1775865600100
FOLDER = "data/futures/um/daily/aggTrades/SOLUSDT"


def publish(root: Path, day: str, rows: list[str]) -> None:
    name = f"SOLUSDT-aggTrades-{day}"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.csv", HEADER + "".join(f"{row}\n" for row in rows))
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.zip").write_bytes(packed.getvalue())
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    (folder / f"{name}.zip.CHECKSUM").write_text(f"{digest}  {name}.zip\n")


def run(root: Path, home: Path) -> IngestReport:
    with ReplicaExchange(FolderArchive(root)) as exchange:
        overrides = {"home": home, "binance": {"archive_url": exchange.url}}
        return ingest(
            Writer(load_settings(overrides)), IngestRequest(Selection(AGG_TRADES, "um", None))
        )


def prices(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    writer = Writer(load_settings({"home": home}))
    table = writer.catalog.find("silver.agg_trades")
    assert table is not None
    frame = pl.scan_iceberg(table).sort("transact_time").collect()
    return frame.select("agg_trade_id", "price").rows()


DAY_1 = [f"6,82.5,1,60,60,{EVENING - 5},false", f"7,83.1,1,70,70,{EVENING},true"]
DAY_2 = [f"7,84.2,2,71,72,{MORNING},false", f"8,84.3,1,73,73,{MORNING + 9},true"]
BOTH = [(6, 82.5), (7, 83.1), (7, 84.2), (8, 84.3)]


def test_both_trades_are_kept_whether_their_days_come_together_or_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "exchange"
    publish(root, "2026-04-10", DAY_1)
    apart, together = tmp_path / "apart", tmp_path / "together"
    run(root, apart)
    publish(root, "2026-04-11", DAY_2)
    second = run(root, apart)
    at_once = run(root, together)
    assert prices(apart, monkeypatch) == prices(together, monkeypatch) == BOTH
    assert (second.rows, at_once.rows) == (2, 4)
    assert not second.partial
    assert not at_once.partial


def test_a_day_published_anew_touches_nothing_of_the_other_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home = tmp_path / "exchange", tmp_path / "home"
    publish(root, "2026-04-10", DAY_1)
    publish(root, "2026-04-11", DAY_2)
    run(root, home)
    publish(root, "2026-04-10", DAY_1[:1])
    again = run(root, home)
    assert prices(home, monkeypatch) == [BOTH[0], *BOTH[2:]]
    assert (again.files, again.rows) == (1, 0)


def test_one_id_with_two_prices_in_one_file_is_refused_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home = tmp_path / "exchange", tmp_path / "home"
    publish(root, "2026-04-10", [*DAY_1, f"7,99.9,1,70,70,{EVENING + 1},true"])
    report = run(root, home)
    assert prices(home, monkeypatch) == [(6, 82.5)]
    assert (report.rows, report.rows_quarantined, report.partial) == (1, 2, True)
