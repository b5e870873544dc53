"""What does assessing quality cost beside the checks themselves, and what memory does it take?

Unit of work: a row of 1m klines, on one core, in one process (`lakehouse quality`).

- Assessing symbol-years (reading, rules, days, gaps, anomalies, scores, writing) against the pure
  kernels of checks and quality on the same rows held in memory, and against these together with the
  statistics of anomalies, which take most of the time. Expected growth of all: linear.
- The same with an isolation forest over every bar, against without.
- A month of bars of which the lake has the monthly file and the daily ones too, so that both are read
  from bronze again, against the same rows from daily files alone.
- The most memory of the process for 1, 50 and 100 symbols of one month. Expected growth: none once a
  unit is full (2 million rows or a symbol), but for the driver's own list of days.

usage: python tests/benchmarks/bench_assessment.py [--years N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

# Figures are per core; Polars reads this when it is imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_build import on_one_core
from bench_quality import YEAR, checks_and_quality, symbol_year
from support.bars import BarLake
from support.commands import LAKEHOUSE, MANY_BYTES, environment

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.kernels.anomaly import find_anomalies
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.testing.exchange import ReplicaExchange, SyntheticArchive

MONTH = 30 * 1440


def stored(rows: pl.DataFrame, symbol: str) -> pl.DataFrame:
    named = rows.with_columns(
        market=pl.lit("spot"), symbol=pl.lit(symbol), interval=pl.lit("1m"),
        source=pl.lit("daily"), source_key=pl.lit(symbol), source_version=pl.lit("1"),
        flags=pl.lit(None, dtype=pl.String),
    )  # fmt: skip
    schema = frame_schema(KLINES.table("1m"))
    return named.select(schema.names()).cast(dict(schema))


def fill(home: Path, symbols: int, rows: int) -> BarLake:
    lake = BarLake(home)
    for number in range(symbols):
        lake.put(stored(symbol_year(number, rows, 0.0), f"S{number:03}USDT"))
    return lake


def assess(home: Path, *, forest: str = "off") -> dict[str, Any]:
    """The report of a run in a process of its own."""
    env = environment(HOME=home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES, QUALITY__FOREST=forest)
    env |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [LAKEHOUSE, "quality", "--again", "--threshold", "0", "--json"]
    run: dict[str, Any] = json.loads(on_one_core(command, env))["run"]
    assert run["failed"] == 0, run["examples"]
    return run


def kernels(symbols: int) -> tuple[float, float]:
    """Seconds of checks and quality, and of the statistics, on rows held in memory."""
    checks_s = anomalies_s = 0.0
    for number in range(symbols):
        frame = symbol_year(number, YEAR, 0.0)
        before_s = time.perf_counter()
        checks_and_quality(frame, f"S{number:03}USDT")
        between_s = time.perf_counter()
        find_anomalies(frame, "1m")
        checks_s += between_s - before_s
        anomalies_s += time.perf_counter() - between_s
    return checks_s, anomalies_s


def two_accounts(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs over a month from daily files, and with the monthly one beside them."""
    archive = SyntheticArchive(
        3, symbols=["BTCUSDT", "ETHUSDT"], markets=["um"],
        start=date(2024, 5, 1), end=date(2024, 5, 31),
    )  # fmt: skip
    with ReplicaExchange(archive) as exchange:
        settings = Settings(
            home=folder,
            binance={"archive_url": exchange.url},
            compute={"local_bytes_max": 1 << 40},
        )
        selection = Selection(KLINES, "um", "1m")
        ingest(Writer(settings), IngestRequest(selection, "daily"))
        alone = assess(folder)
        ingest(Writer(settings), IngestRequest(selection, "monthly"))
        return alone, assess(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--years", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root / "years", options.years, YEAR)
        pure_s, anomalies_s = kernels(options.years)
        plain = assess(root / "years")
        rows = plain["rows"]
        figures |= {
            "rows": rows,
            "rows_per_s": rows / plain["work_seconds"],
            "kernels_rows_per_s": rows / pure_s,
            "times_the_kernels": plain["work_seconds"] / pure_s,
            "times_with_statistics": plain["work_seconds"] / (pure_s + anomalies_s),
        }
        fill(root / "year", 1, YEAR)
        without, with_ = (assess(root / "year", forest=forest) for forest in ("off", "on"))
        figures["forest_times"] = with_["work_seconds"] / without["work_seconds"]
        figures["forest_us_per_row"] = (
            1e6 * (with_["work_seconds"] - without["work_seconds"]) / with_["rows"]
        )
        alone, beside = two_accounts(root / "accounts")
        assert alone["rows"] == beside["rows"]
        figures["two_accounts_times"] = beside["work_seconds"] / alone["work_seconds"]
        figures["two_accounts_us_per_row"] = (
            1e6 * (beside["work_seconds"] - alone["work_seconds"]) / beside["rows"]
        )
        for symbols in (1, 50, 100):
            fill(root / f"{symbols}", symbols, MONTH)
            run = assess(root / f"{symbols}")
            figures[f"rss_mib_{symbols}_symbols"] = run["worker_rss_bytes_max"] / (1 << 20)
        figures["rss_mib_1_symbol_year"] = without["worker_rss_bytes_max"] / (1 << 20)
        figures["rss_mib_1_symbol_year_forest"] = with_["worker_rss_bytes_max"] / (1 << 20)
    for name, figure in figures.items():
        print(f"{name:32} {figure:14,.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
