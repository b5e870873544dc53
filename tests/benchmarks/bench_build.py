"""What does building derived tables cost beside the work itself, and what memory does it take?

Unit of work: a symbol with a year of 1m bars, made into `gold.daily` in one process on one core.

- Against a plain script that reads the same files symbol by symbol, calls the same kernel and writes
  one Parquet file. Expected growth of both: linear in symbols.
- Once more with nothing changed, after one day of one symbol changed, and after all files were
  merely written anew: as shares of the first build. Expected growth of the first two with symbols:
  none, but for planning.
- The most memory of the process for 1, 10 and 50 symbols of two months. Expected growth:
  once all threads have a task, what a plan keeps of a unit (0.2 MiB for each symbol here).

usage: python tests/benchmarks/bench_build.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.bars import BarLake
from support.commands import LAKEHOUSE, MANY_BYTES, environment

from lakehouse_ray.kernels.daily import daily_bars
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.storage.frames import frame_schema

SYMBOLS = 8
FINE = KLINES.table("1m").name
MINUTE_US = 60_000_000
CORE = min(os.sched_getaffinity(0))


def minutes(symbol: str, months: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = months * 30 * 1440
    start = datetime(2024, 1, 1, tzinfo=UTC)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.0005, rows))), 2)
    volume = np.round(rng.exponential(10, rows), 3)
    time_us = int(start.timestamp()) * 1_000_000 + MINUTE_US * np.arange(rows)
    return pl.DataFrame(
        {
            "market": "spot", "symbol": symbol, "interval": "1m", "open_time": time_us,
            "open": np.roll(close, 1), "high": close * 1.001, "low": close * 0.999,
            "close": close, "volume": volume, "quote_volume": volume * close,
            "trades": (volume * 10).astype(np.int64), "taker_buy_volume": volume / 2,
            "taker_buy_quote_volume": volume * close / 2,
            "close_time": time_us + MINUTE_US - 1,
            "source": "daily", "source_key": symbol, "source_version": "1", "flags": None,
        },
    ).cast(dict(frame_schema(KLINES.table("1m"))))  # fmt: skip


def fill(home: Path, symbols: int, months: int) -> BarLake:
    lake = BarLake(home)
    for number in range(symbols):
        lake.put(minutes(f"S{number:03}USDT", months, number))
    return lake


def build(lake: BarLake) -> dict[str, Any]:
    env = environment(HOME=lake.home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES)
    env["POLARS_MAX_THREADS"] = "1"
    found: dict[str, Any] = json.loads(on_one_core([LAKEHOUSE, "build", "daily", "--json"], env))
    return found


def on_one_core(command: list[str], env: dict[str, str]) -> bytes:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CORE})  # children inherit it
    try:
        return subprocess.run(command, env=env, capture_output=True, check=True).stdout
    finally:
        os.sched_setaffinity(0, mine)


def plain(lake: BarLake) -> float:
    """Seconds of the plain script, in a process of its own."""
    env = environment() | {"POLARS_MAX_THREADS": "1"}
    paths = list(lake.files(FINE))
    command = [sys.executable, __file__, "--plain", str(lake.home / "plain.parquet"), *paths]
    return float(on_one_core(command, env))


def run_plain(target: str, paths: list[str]) -> float:
    started_s = time.perf_counter()
    columns = ["open_time", "open", "high", "low", "close", "volume", "quote_volume", "trades",
               "taker_buy_volume", "taker_buy_quote_volume"]  # fmt: skip
    files = pl.scan_parquet(paths)
    symbols = files.select(pl.col("symbol").unique().sort()).collect()["symbol"].to_list()
    days = [
        daily_bars(
            files.filter(pl.col("symbol") == symbol).select(columns).sort("open_time").collect(),
            MINUTE_US,
            volume_is_base=True,
        ).with_columns(symbol=pl.lit(symbol))
        for symbol in symbols
    ]
    pl.concat(days).write_parquet(target)
    return time.perf_counter() - started_s


def changed(lake: BarLake) -> None:
    """One day of one symbol, in place."""
    where = (pl.col("symbol") == "S003USDT") & (pl.col("open_time").dt.strftime("%m-%d") == "03-07")
    lake.rewrite(
        FINE,
        lambda rows: rows.with_columns(
            volume=pl.when(where).then(pl.col("volume") + 1).otherwise(pl.col("volume"))
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", nargs="+")
    options = parser.parse_args()
    if options.plain:
        print(run_plain(options.plain[0], options.plain[1:]))
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        lake = fill(Path(folder) / "year", SYMBOLS, 12)
        rows = lake.rows(FINE).height
        simple_s = plain(lake)
        first = build(lake)
        again = build(lake)
        lake.rewrite(FINE, lambda frame: frame)
        rewritten = build(lake)
        changed(lake)
        one = build(lake)
        counts: Callable[[dict[str, Any]], tuple[int, int]] = lambda r: (r["built"], r["unchanged"])  # noqa: E731
        assert counts(first) == (12 * SYMBOLS, 0), first
        assert counts(again) == (0, 0), again
        assert counts(rewritten) == (0, 12 * SYMBOLS), rewritten
        assert counts(one)[0] == 1, one
        figures["rows"] = rows
        figures["rows_per_second"] = rows / first["work_seconds"]
        figures["build_to_plain_script"] = first["work_seconds"] / simple_s
        figures["nothing_changed_to_first"] = again["seconds"] / first["seconds"]
        figures["files_written_anew_to_first"] = rewritten["seconds"] / first["seconds"]
        figures["one_day_and_all_files_to_first"] = one["seconds"] / first["seconds"]
        for count in (1, 10, 50):
            small = fill(Path(folder) / f"months-{count}", count, 2)
            figures[f"rss_mib_{count}_symbols"] = build(small)["driver_rss_bytes_max"] / (1 << 20)
    for name, value in figures.items():
        print(f"{name:35} {value:,.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
