"""Does finding gaps cost more than reading the times, and does memory grow with the symbols?

- Finding the gaps of 10 million minutes of one series with a hole every 1,000 rows, against a plain
  Polars script that does the same by differences (`diff() > step`). Unit of work: a row. Expected
  growth: linear. The script knows no slots, no carry and no rows off the grid.
- `lake.gaps` and `lake.coverage` over a lake of two months of 1m bars, of 1 symbol and of 50, each in
  a process of its own: seconds, and the most memory beyond that of a process that has only opened
  the lake. Expected growth of time: with rows; of memory: up to the bound of a piece.

usage: python tests/benchmarks/bench_gaps.py [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.kernels.gaps import find_gaps
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.rhythm import Grid
from lakehouse_ray.model.timespan import MINUTE_US, month_range
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.settings import load_settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.telemetry.processes import rss_bytes_max
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

ROWS = 10_000_000
ROUNDS = 5


def kernel() -> dict[str, float]:
    minutes = np.arange(ROWS + ROWS // 1000)
    times = pl.Series("time", minutes[minutes % 1001 != 0] * MINUTE_US)
    frame = times.cast(pl.Datetime("us", "UTC")).to_frame()
    step = pl.duration(minutes=1)
    ours, plain = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        found, _ = find_gaps(Grid(MINUTE_US), frame)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        script = (
            frame.lazy()
            .with_columns(before=pl.col("time").shift(1))
            .filter(pl.col("time") - pl.col("before") > step)
            .select(start=pl.col("before") + step, end="time")
            .collect()
        )
        plain.append(time.perf_counter() - start)
    assert found.height == script.height == ROWS // 1000 - 1
    return {
        "million_rows_per_s": round(ROWS / 1e6 / min(ours), 1),
        "plain_polars_ratio": round(min(ours) / min(plain), 2),
    }


def publish(root: Path, symbols: int) -> None:
    """Two months of minutes; of each symbol an hour is missing."""
    for month in (6, 7):
        span = month_range(2024, month)
        hole = span.start_us + 5 * 24 * 60 * MINUTE_US
        lines = "".join(
            f"{t // 1000},1,2,0.5,1.5,10,{(t + MINUTE_US) // 1000 - 1},15,3,5,7,0\n"
            for t in range(span.start_us, span.end_us, MINUTE_US)
            if not hole <= t < hole + 60 * MINUTE_US
        )
        for k in range(symbols):
            symbol = f"S{k:03d}USDT"
            folder = root / f"data/futures/um/monthly/klines/{symbol}/1m"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{symbol}-1m-2024-{month:02d}.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.writestr(f"{path.stem}.csv", lines)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")


def ask(home: str, what: str) -> None:
    """In a process of its own: the seconds and the memory of one question."""
    lake = lh.connect(home)
    lake.sql("select 1 from silver.klines limit 1").pl()
    before, start = rss_bytes_max(), time.perf_counter()
    rows = 0 if what == "nothing" else getattr(lake, what)().height
    seconds = time.perf_counter() - start
    print(json.dumps({"rows": rows, "s": seconds, "mb": (rss_bytes_max() - before) / 1e6}))


def whole(symbols: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        root, home = Path(folder, "archive"), Path(folder, "home")
        publish(root, symbols)
        with ReplicaExchange(FolderArchive(root)) as exchange:
            settings = {
                "home": home,
                "binance": {"archive_url": exchange.url},
                "compute": {"local_bytes_max": 1 << 40},
            }
            ingest(Writer(load_settings(settings)), IngestRequest(Selection(KLINES, "um", "1m")))
        figures: dict[str, float] = {}
        for what in ("gaps", "coverage"):
            ended = subprocess.run(
                [sys.executable, __file__, "--ask", what, str(home)],
                capture_output=True, check=True, text=True,
            )  # fmt: skip
            told = json.loads(ended.stdout)
            figures |= {f"{what}_s": round(told["s"], 2), f"{what}_mb": round(told["mb"])}
            assert told["rows"] == symbols * (2 if what == "gaps" else 61)
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="also write the figures here")
    parser.add_argument("--ask", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        ask(arguments.ask[1], arguments.ask[0])
        return
    figures: dict[str, object] = {
        "at": datetime.now(UTC).isoformat(),
        "kernel": kernel(),
        "one_symbol": whole(1),
        "fifty_symbols": whole(50),
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
