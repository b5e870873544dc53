"""What a compressed byte of each data set costs a worker: CPU seconds and memory.

The figures of `lakehouse_ray/model/datasets` (`Dataset.cost`) and of docs/sizing.md. For each data set
the real command ingests units of a synthetic archive, or of made files where that has none, in one
process, one unit at a time: once of few bytes and once of many. What the second took more than the first,
by its bytes, is the cost: what a process needs at rest drops out. Daily files; of rates of funding
monthly ones. A busy machine spends more CPU on the same work: read the ratios to klines. Expected growth:
linear in bytes.

usage: python tests/benchmarks/bench_costs.py [--dataset NAME]... [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import made_files
from support.commands import MANY_BYTES, environment, run, serve

from lakehouse_ray.testing.exchange import SyntheticArchive, write_archive

START = date(2024, 6, 1)

# Market, interval, days (of fundingRate: months) and symbols of the large run; trades a minute, of what the
# synthetic archive has. A month is at most a unit's.
SHAPES: dict[str, tuple[str, str, int, int, int]] = {
    "klines": ("spot", "1m", 30, 8, 4),
    "aggTrades": ("um", "", 4, 2, 240),
    "trades": ("um", "", 4, 2, 240),
    "markPriceKlines": ("um", "1m", 30, 8, 4),
    "indexPriceKlines": ("um", "1m", 30, 8, 4),
    "premiumIndexKlines": ("um", "1m", 30, 8, 4),
    "metrics": ("um", "", 30, 40, 1),
    "bookTicker": ("um", "", 6, 2, 0),
    "bookDepth": ("um", "", 12, 4, 0),
    "liquidationSnapshot": ("um", "", 30, 20, 0),
    "fundingRate": ("um", "", 12, 60, 0),
}


def ingest(name: str, days: int, symbols: int) -> dict[str, float]:
    market, interval, _, _, per_minute = SHAPES[name]
    freq = "monthly" if name == "fundingRate" else "daily"
    with tempfile.TemporaryDirectory(prefix="costs-", dir="/tmp") as folder:
        root = Path(folder) / "archive"
        if name in made_files.NAMES:
            made_files.write_files(root, market, name, symbols, START, days)
        else:
            write_synthetic(root, name, days, symbols, per_minute)
        with serve(root) as url:
            env = environment(
                HOME=Path(folder) / "home",
                BINANCE__ARCHIVE_URL=url,
                COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES,
                INGEST__UNIT_BYTES_MAX=MANY_BYTES,
                INGEST__CSV_BYTES_IN_MEMORY=MANY_BYTES,
            ) | {"POLARS_MAX_THREADS": "1"}
            command = ["ingest", "--market", market, "--dataset", name, "--freq", freq, "--json"]
            command += ["--interval", interval] if interval else []
            code, said = run(*command, env=env, timeout_s=400)
    assert code == 0, said
    report = json.loads(said[said.index('{"') :].splitlines()[0])
    return {k: report[k] for k in (
        "bytes", "csv_bytes", "rows", "work_cpu_seconds", "work_seconds", "driver_rss_bytes_max"
    )}  # fmt: skip


def write_synthetic(root: Path, name: str, days: int, symbols: int, per_minute: int) -> None:
    market, interval, *_ = SHAPES[name]
    archive = SyntheticArchive(
        5, symbols, [market], START, START + timedelta(days=days), trades_per_minute=per_minute,
        level=6,
    )  # fmt: skip
    folder_of = "data/spot" if market == "spot" else f"data/futures/{market}"
    for instrument in archive.instruments:
        place = f"{folder_of}/daily/{name}/{instrument.symbol}/"
        write_archive(archive, root, f"{place}{interval}/" if interval else place)


def measure(name: str) -> dict[str, float]:
    _, _, days, symbols, _ = SHAPES[name]
    little = ingest(name, max(1, days // 6), symbols)
    much = ingest(name, days, symbols)
    more = much["bytes"] - little["bytes"]
    return {
        "bytes": much["bytes"],
        "cpu_s_per_mib": (much["work_cpu_seconds"] - little["work_cpu_seconds"]) / more * 2**20,
        "memory_per_byte": (much["driver_rss_bytes_max"] - little["driver_rss_bytes_max"]) / more,
        "csv_per_byte": much["csv_bytes"] / much["bytes"],
        "rows_per_mib": much["rows"] / much["bytes"] * 2**20,
        "rss_at_rest_mib": (little["driver_rss_bytes_max"]) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", action="append", choices=SHAPES)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    print("data set", "MiB", "CPU s/MiB", "memory/byte", "CSV/byte", "rows/MiB", sep="\t")
    for name in told.dataset or SHAPES:
        one = found[name] = measure(name)
        print(
            name, f"{one['bytes'] / 2**20:.1f}", f"{one['cpu_s_per_mib']:.4f}",
            f"{one['memory_per_byte']:.1f}", f"{one['csv_per_byte']:.1f}",
            f"{one['rows_per_mib']:,.0f}", sep="\t", flush=True,
        )  # fmt: skip
    if told.json:
        told.json.write_text(json.dumps({"cpus": os.cpu_count(), "costs": found}, indent=1))


if __name__ == "__main__":
    main()
