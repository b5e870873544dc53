"""What a listing proves of a CHECKSUM need not be asked for; what it does not prove is."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

pytestmark = pytest.mark.integration

NAME = "BTCUSDT-1h-2024-05-01.zip"
KEY = f"data/spot/daily/klines/BTCUSDT/1h/{NAME}"
ROW = "1714521600000,1.0,2.0,0.5,1.5,10.0,1714525199999,15.0,3,4.0,6.0,0\n"


def run(root: Path, home: Path, **ingest_settings: int) -> tuple[IngestReport, dict[str, int]]:
    with ReplicaExchange(FolderArchive(root)) as exchange:
        settings = Settings(
            home=home,
            binance={"archive_url": exchange.url},
            compute={"local_bytes_max": 1 << 40},
        )
        changed = settings.ingest.model_copy(update=ingest_settings)
        writer = Writer(settings.model_copy(update={"ingest": changed}))
        report = ingest(writer, IngestRequest(Selection(DATASETS["klines"], "spot", "1h"), "daily"))
        return report, exchange.requests()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of one zip; its CHECKSUM is for the test to write."""
    target = tmp_path / "archive" / KEY
    target.parent.mkdir(parents=True)
    with zipfile.ZipFile(target, "w") as packed:
        packed.writestr(NAME.replace(".zip", ".csv"), ROW)
    return tmp_path / "archive"


def publish(root: Path, text: str) -> None:
    (root / f"{KEY}.CHECKSUM").write_text(text)


def digest(root: Path) -> str:
    return hashlib.sha256((root / KEY).read_bytes()).hexdigest()


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("large_object_bytes", [1, 1 << 30])
def test_a_checksum_whose_etag_is_that_of_the_right_line_is_not_asked_for(
    archive: Path, tmp_path: Path, end: str, large_object_bytes: int
) -> None:
    publish(archive, f"{digest(archive)}  {NAME}{end}")
    report, asked = run(archive, tmp_path, large_object_bytes=large_object_bytes)
    assert (report.rows, report.quarantined) == (1, 0)
    assert asked[KEY] == 1
    assert f"{KEY}.CHECKSUM" not in asked


@pytest.mark.parametrize("text", ["{}   {}\r\n", "{} *{}\n"])
def test_one_that_is_spelled_in_another_way_is_read(
    archive: Path, tmp_path: Path, text: str
) -> None:
    publish(archive, text.format(digest(archive), NAME))
    report, asked = run(archive, tmp_path)
    assert (report.rows, report.quarantined) == (1, 0)
    assert asked[f"{KEY}.CHECKSUM"] == 1


@pytest.mark.parametrize("large_object_bytes", [1, 1 << 30])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0" * 64 + f"  {NAME}\n", "CHECKSUM_MISMATCH"),
        ("{digest}  OTHER-1h-2024-05-01.zip\n", "CHECKSUM_UNREADABLE"),
        ("not a digest\n", "CHECKSUM_UNREADABLE"),
    ],
)
def test_a_wrong_one_refuses_the_object(
    archive: Path, tmp_path: Path, text: str, reason: str, large_object_bytes: int
) -> None:
    publish(archive, text.format(digest=digest(archive)))
    report, _ = run(archive, tmp_path, large_object_bytes=large_object_bytes)
    assert (report.rows, report.quarantined) == (0, 1)
    assert set(report.reasons) == {reason}


def test_without_one_the_object_is_refused_before_it_is_fetched(
    archive: Path, tmp_path: Path
) -> None:
    report, asked = run(archive, tmp_path)
    assert (report.rows, report.quarantined) == (0, 1)
    assert set(report.reasons) == {"CHECKSUM_MISSING"}
    assert KEY not in asked
