"""How long does planning take, and does the driver's memory grow with the number of files?

- Planning 100,000 listed keys (50,000 zips and their CHECKSUMs of 100 symbols) from the bucket
  listing over HTTP, against an empty ledger. Expected growth: linear in keys.
- The real command over 1,000 and over 10,000 objects (daily 1d klines) on a local Ray: the most memory
  of the driver and of a worker. Expected growth of the driver: none to speak of.

usage: python tests/benchmarks/bench_planning.py [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable
from datetime import date, timedelta
from pathlib import Path

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.plan import make_units
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, plan_ingestion
from lakehouse_ray.settings import load_settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import Blob, Head, ReplicaExchange, SyntheticArchive

LAKEHOUSE = Path(sys.executable).with_name("lakehouse")
FOLDER = "data/spot/daily/klines/"


class Names:
    """An archive of which only the listing is asked."""

    def __init__(self, symbols: int, days: int) -> None:
        first = date(2020, 1, 1)
        self._days = [str(first + timedelta(days=n)) for n in range(days)]
        self._symbols = [f"S{n:04d}USDT" for n in range(symbols)]

    def children(self, folder: str) -> list[str]:
        parts = folder.strip("/").split("/") if folder else []
        path = ["data", "spot", "daily", "klines"]
        if parts == path[: len(parts)] and len(parts) < 4:
            return [f"{path[len(parts)]}/"]
        if parts == path:
            return [f"{symbol}/" for symbol in self._symbols]
        if len(parts) == 5:
            return ["1m/"]
        if len(parts) == 6:
            names = (f"{parts[4]}-1m-{day}.zip" for day in self._days)
            return [name + end for name in names for end in ("", ".CHECKSUM")]
        return []

    def inhabited(self, folder: str) -> bool:
        return True

    def version(self, key: str) -> Hashable | None:
        return 1

    def head(self, key: str) -> Head | None:
        return Head(
            60_000, hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 1_700_000_000
        )

    def read(self, key: str) -> Blob | None:
        return None


def planning(symbols: int, days: int) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory() as home,
        ReplicaExchange(Names(symbols, days)) as exchange,
    ):
        writer = Writer(load_settings({"home": home, "binance": {"archive_url": exchange.url}}))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        plan = plan_ingestion(writer, IngestRequest(Selection(KLINES, "spot", "1m"), "daily"))
        planned = time.perf_counter()
        units = sum(1 for _ in make_units(plan, bytes_max=16 << 20, decoder_version=1))
        ended = time.perf_counter()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "keys": 2 * plan.files,
        "plan_s": planned - started,
        "units": units,
        "units_s": ended - planned,
        "memory_mb": (after - before) / 1024,
    }
    print(
        f"planning {result['keys']:,} keys: {result['plan_s']:.1f} s (the listing server is in this "
        f"process), {units} units in {result['units_s']:.2f} s, {result['memory_mb']:.0f} MB more",
        flush=True,
    )
    return result


def driver(objects: int) -> dict[str, float]:
    days = 250
    archive = SyntheticArchive(
        seed=1, symbols=objects // days, markets=("spot",), start=date(2023, 1, 1),
        end=date(2023, 1, 1) + timedelta(days=days),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as home, ReplicaExchange(archive) as exchange:
        environment = os.environ | {
            "LAKEHOUSE_HOME": home,
            "LAKEHOUSE_BINANCE__ARCHIVE_URL": exchange.url,
            "LAKEHOUSE_COMPUTE__LOCAL_BYTES_MAX": "0",
        }
        command = [
            str(LAKEHOUSE), "ingest", "--market", "spot", "--dataset", "klines", "--interval",
            "1d", "--freq", "daily", "--json",
        ]  # fmt: skip
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
    if answer.returncode:
        raise SystemExit(answer.stderr)
    report = json.loads(answer.stdout)
    result = {
        "objects": report["files"],
        "driver_mb": report["driver_rss_bytes_max"] / 1e6,
        "worker_mb": report["worker_rss_bytes_max"] / 1e6,
        "work_s": report["work_seconds"],
    }
    print(
        f"{result['objects']:,} objects: driver {result['driver_mb']:.0f} MB, worker "
        f"{result['worker_mb']:.0f} MB, {result['work_s']:.1f} s",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = {
        "planning": planning(symbols=100, days=500),
        "driver": [driver(1_000), driver(10_000)],
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
