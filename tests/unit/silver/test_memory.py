"""A file larger than memory should be goes through in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration  # for its seconds

CODE = """
import sys, zipfile, importlib.util
from datetime import date
from pathlib import Path
import polars as pl
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import day_range
from lakehouse_ray.telemetry.processes import rss_bytes_max
spec = importlib.util.spec_from_file_location("small_lake", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["small_lake"] = module
spec.loader.exec_module(module)
day = day_range(date(2024, 1, 31))
rows, block = 4_400_000, 100_000
root = Path(sys.argv[2])
lake = module.SmallLake(root, DATASETS["aggTrades"], "um", csv_bytes_in_memory=48 << 20)
key = lake.publish("BTCUSDT", "daily", day, b"")
name = key.rpartition("/")[2].removesuffix(".zip") + ".csv"
ms, total = day.start_us // 1000, 0
with zipfile.ZipFile(root / "big.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    with archive.open(name, "w") as member:
        for start in range(0, rows, block):
            i = pl.int_range(start, start + block)
            text = pl.select(
                a=3_000_000_000 + i,
                b=pl.format("{}.{}", 64000 + i % 977, (i % 100).cast(pl.String).str.zfill(2)),
                c=pl.format("0.{}", (i % 1000).cast(pl.String).str.zfill(3)),
                d=5_000_000_000 + i, e=5_000_000_000 + i, f=ms + i // 60, g=pl.lit("true"),
            ).write_csv(include_header=False).encode()
            total += len(text)
            member.write(text)
object.__setattr__(lake.objects[key], "zip", (root / "big.zip").read_bytes())
before = rss_bytes_max()
(built,) = lake.ingest()
peak = rss_bytes_max()
print(total >> 20, built.rows, before >> 20, peak >> 20)
"""


def test_300_mb_of_csv_take_a_fraction_of_it_in_memory(tmp_path: Path) -> None:
    """Measured in a process of its own; the bound is a worker's 1 GiB with room to spare."""
    helper = Path(__file__).with_name("conftest.py")
    ran = subprocess.run(
        [sys.executable, "-c", CODE, str(helper), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    csv_mib, rows, before_mib, peak_mib = map(int, ran.stdout.split())
    print(f"{csv_mib} MiB of CSV, {rows:,} rows: {before_mib} MiB before, {peak_mib} MiB at most")
    assert csv_mib > 280
    assert rows == 4_400_000
    assert peak_mib < 800
