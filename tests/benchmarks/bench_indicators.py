"""How long do indicators take beside TA-Lib, and how does that grow?

Unit of work: one symbol-year of 1m bars (525,600 rows, less those in gaps). TA-Lib computes its
functions one after the other on numpy arrays of the unbroken year, and knows no gaps; ours computes
the same from a frame with 20 outages (and once with 5,000), each segment by itself, into nullable
columns. Both in turns in one process; the ratio is that of the best of each, and the median of the
pairs. Goal: 12 indicators within 3 x TA-Lib. Expected growth: linear in rows, whatever the number
of segments.

usage: python tests/benchmarks/bench_indicators.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.talib_bars import REFERENCES, walk

from lakehouse_ray.kernels.indicators.compute import compute

YEAR = 365 * 24 * 60
TWELVE = [
    "sma_20", "ema_20", "wma_20", "rsi_14", "macd_12_26_9", "bbands_20_2", "atr_14", "adx_14",
    "stoch_14_3_3", "cci_20", "mfi_14", "obv",
]  # fmt: skip
NAMED = [*TWELVE, "kama_30", "willr_14", "roc_10", "vwap"]


def with_gaps(frame: pl.DataFrame, count: int, rows_max: int) -> pl.DataFrame:
    chance = np.random.default_rng(7)
    kept = np.ones(frame.height, dtype=np.bool_)
    for start in chance.integers(1, frame.height - rows_max, count):
        kept[start : start + chance.integers(1, rows_max + 1)] = False
    return frame.filter(pl.Series(kept))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compared(frame: pl.DataFrame, year: pl.DataFrame, names: list[str], rounds: int) -> dict:
    arrays = [year[n].to_numpy().copy() for n in ("open", "high", "low", "close", "volume")]
    pairs = []
    for _ in range(rounds):
        theirs = seconds(lambda: [REFERENCES[name](*arrays) for name in names])
        ours = seconds(lambda: compute(frame, names, "1m"))
        pairs.append((ours, theirs))
    best_ours, best_theirs = (min(column) for column in zip(*pairs, strict=True))
    return {
        "indicators": len(names),
        "rows": frame.height,
        "ours_s": round(best_ours, 4),
        "talib_s": round(best_theirs, 4),
        "ratio_of_best": round(best_ours / best_theirs, 2),
        "ratio_median": round(statistics.median(o / t for o, t in pairs), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    year = walk(YEAR, 1, price=30_000, volatility=5e-4)
    few, many = with_gaps(year, 20, 300), with_gaps(year, 5_000, 3)
    half = year.head(YEAR // 2)
    found = {
        "twelve, 20 gaps": compared(few, year, TWELVE, options.rounds),
        "twelve, 5,000 gaps": compared(many, year, TWELVE, options.rounds),
        "sixteen, 20 gaps": compared(few, year, NAMED, options.rounds),
        "all, 20 gaps": compared(few, year, list(REFERENCES), max(options.rounds // 5, 1)),
        "twelve, half a year without a gap": compared(half, half, TWELVE, options.rounds),
    }
    for name, figures in found.items():
        print(f"{name:36}", figures)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
