"""Are 12 offsets in one pass as fast as a plain lazy Polars script that makes 12 passes?

Unit of work: one symbol-year of 1m bars with 40 holes (about 519,000 rows) to 1h bars at 0m, 5m …
55m (about 104,000 rows). The script groups dynamically once per offset, all in one lazy query; it
gives the same bars (checked here, to 1e-12), without completeness, policies and checks of order. Both
run in turn in one process, once with one thread for Polars and once with all; ours uses one anyway.
Memory is the peak of a process of its own that does nothing else, above what it had with the rows
loaded. Expected growth: linear in rows, and for the script in offsets too.

usage: python tests/benchmarks/bench_resample.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from lakehouse_ray.kernels.grid import TIME, offsets_by
from lakehouse_ray.kernels.resample import Resampling, resample

ROWS = 365 * 1440
ROUNDS = 11
MINUTE_US = 60_000_000
START_US = 1_640_995_200_000_000  # 2022
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume", "trades")
PLAN = Resampling("1m", "1h", offsets_by("1h", "5m"))


def symbol_year(quiet: float) -> pl.DataFrame:
    rng = np.random.default_rng(7)
    opens = START_US + np.arange(ROWS) * MINUTE_US
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, ROWS)))
    open_ = np.append(close[:1], close[:-1])
    volume = np.where(rng.random(ROWS) < quiet, 0.0, np.round(rng.random(ROWS) * 10 + 1e-3, 5))
    keep = np.ones(ROWS, np.bool_)
    for hole in rng.integers(0, ROWS, 40):
        keep[hole : hole + rng.integers(1, 300)] = False
    bars = pl.DataFrame(
        {
            "open_time": pl.Series(opens, dtype=pl.Int64).cast(TIME),
            "open": open_,
            "high": np.maximum(open_, close) * 1.0001,
            "low": np.minimum(open_, close) * 0.9999,
            "close": close,
            "volume": volume,
            "quote_volume": volume * close,
            "trades": rng.integers(1, 100, ROWS),
            "taker_buy_volume": volume / 2,
            "taker_buy_quote_volume": volume * close / 2,
            "close_time": pl.Series(opens + MINUTE_US - 1000, dtype=pl.Int64).cast(TIME),
        }
    )
    return bars.filter(pl.Series(keep))


def ours(bars: pl.DataFrame) -> pl.DataFrame:
    return resample(bars, PLAN)


def script(bars: pl.DataFrame) -> pl.DataFrame:
    lazy = bars.lazy()
    passes = [
        lazy.group_by_dynamic("open_time", every="1h", offset=f"{minutes}m")
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col(SUMS).sum(),
            pl.len().cast(pl.Int32).alias("bars"),
        )
        .with_columns(offset=pl.lit(f"{minutes}m"))
        for minutes in range(0, 60, 5)
    ]
    return pl.concat(passes).collect()


CONTENDERS: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {"ours": ours, "script": script}


def timed(file: Path) -> dict[str, float]:
    bars = pl.read_parquet(file)
    quiet = (bars["volume"] == 0).any()
    made, truth = ours(bars), script(bars)
    # Where minutes have no trade the script takes their prices too: not the same, but as much work.
    prices = ("open", "high", "low", "close") if quiet else ()
    names = [name for name in truth.columns if name not in prices]
    assert_frame_equal(made.select(names), truth.select(names), check_exact=False, rel_tol=1e-12)
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, work in CONTENDERS.items():
            begun = time.perf_counter()
            work(bars)
            seconds[name].append(time.perf_counter() - begun)
    medians = {f"{name}_s": statistics.median(runs) for name, runs in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["script"], strict=True)]
    return {**medians, "ratio": statistics.median(ratios), "rows": float(bars.height)}


def peak(file: Path, name: str) -> float:
    """MiB above the loaded rows."""
    bars = pl.read_parquet(file)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    before = memory_kib("VmRSS")
    CONTENDERS[name](bars)
    return (memory_kib("VmHWM") - before) / 1024


def memory_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def child(file: Path, what: str, threads: int) -> object:
    command = [sys.executable, __file__, "--child", what, str(file)]
    environment = {**os.environ, "POLARS_MAX_THREADS": str(threads)}
    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, file = args.child
        found = timed(Path(file)) if what == "time" else peak(Path(file), what)
        print(json.dumps(found))
        return
    report: dict[str, object] = {"cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        for kind, quiet in (("traded", 0.0), ("a fifth of the minutes quiet", 0.2)):
            file = Path(folder) / "bars.parquet"
            symbol_year(quiet).write_parquet(file)
            for threads in sorted({1, os.cpu_count() or 1}):
                report[f"{kind}, {threads} threads"] = child(file, "time", threads)
            if not quiet:
                peaks = {f"{name}_mib": child(file, name, 1) for name in CONTENDERS}
                report["peak above the rows"] = peaks
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text)


if __name__ == "__main__":
    main()
