"""How many rows a second do checks and quality take on one core, and what is that next to reading?

Unit of work: a row of 1m klines. Ten million rows of 19 symbols (a year each) are held against all
rules of klines, row by row and in sequence, counted by day, and the days are scored. Measured beside
it: the sum of all columns of the same rows, the least that any pass over them costs. Three kinds of
rows: all fine (the common case), one in a thousand broken, and all broken. Expected growth: linear
in rows; `clean` far above `broken`, since codes are made for broken rows alone.

usage: POLARS_MAX_THREADS=1 python tests/benchmarks/bench_quality.py [--rows N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

# Figures are per core, so Polars gets one thread; it reads this when it is imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from lakehouse_ray.kernels.check import flag_rows, flag_sequence, join_flags
from lakehouse_ray.kernels.day_counts import day_counts
from lakehouse_ray.kernels.quality import score_days
from lakehouse_ray.model.checks.registry import free_names, rules_of, sequence_rules_of

MINUTE_US = 60_000_000
YEAR = 525_600
_TIME = pl.Datetime("us", "UTC")


def symbol_year(seed: int, rows: int, broken_share: float) -> pl.DataFrame:
    """1m bars of a random walk; a share of them with a high below the low."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, rows)))
    opened = np.concatenate([[100.0], close[:-1]])
    high, low = np.maximum(opened, close) * 1.0001, np.minimum(opened, close) * 0.9999
    broken = rng.random(rows) < broken_share
    high, low = np.where(broken, low, high), np.where(broken, high, low)
    volume = rng.exponential(10, rows)
    start = 1_577_836_800_000_000 + np.arange(rows, dtype=np.int64) * MINUTE_US
    return pl.DataFrame(
        {
            "open_time": pl.Series(start).cast(_TIME),
            "open": opened,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
            "quote_volume": volume * (high + low) / 2,
            "trades": rng.integers(1, 500, rows),
            "taker_buy_volume": volume * 0.4,
            "taker_buy_quote_volume": volume * 0.4 * low,
            "close_time": pl.Series(start + MINUTE_US - 1000).cast(_TIME),
        }
    )


def checks_and_quality(frame: pl.DataFrame, symbol: str) -> tuple[pl.DataFrame, dict[str, float]]:
    started = time.perf_counter()
    flags = flag_rows(rules_of("klines", "spot", "1m"), frame)
    rows_s = time.perf_counter() - started
    marks, _ = flag_sequence(sequence_rules_of("klines", "spot"), frame)
    sequence_s = time.perf_counter() - started - rows_s
    counts = day_counts(frame["open_time"], join_flags(flags, marks), free_names())
    counts = counts.with_columns(
        market=pl.lit("spot"),
        dataset=pl.lit("klines"),
        symbol=pl.lit(symbol),
        interval=pl.lit("1m"),
        rows_expected=pl.lit(1440),
    )
    counts_s = time.perf_counter() - started - rows_s - sequence_s
    scores = score_days(counts)
    total_s = time.perf_counter() - started
    return scores, {
        "rows_s": rows_s,
        "sequence_s": sequence_s,
        "counts_s": counts_s,
        "score_s": total_s - rows_s - sequence_s - counts_s,
        "total_s": total_s,
    }


def floor(frame: pl.DataFrame) -> float:
    """One pass over all columns, in pieces, with nothing but a sum each."""
    started = time.perf_counter()
    for piece in frame.iter_slices(65_536):
        piece.select(pl.all().exclude("open_time", "close_time").sum())
    return time.perf_counter() - started


def measure(rows: int, broken_share: float) -> dict[str, float]:
    spent: dict[str, float] = {}
    done = symbol = 0
    while done < rows:
        frame = symbol_year(symbol, min(YEAR, rows - done), broken_share)
        scores, parts = checks_and_quality(frame, f"S{symbol}USDT")
        assert scores.height == -(-frame.height // 1440)
        for name, seconds in parts.items():
            spent[name] = spent.get(name, 0.0) + seconds
        spent["floor_s"] = spent.get("floor_s", 0.0) + floor(frame)
        done, symbol = done + frame.height, symbol + 1
    return {
        "rows": rows,
        "broken_share": broken_share,
        "rows_per_s": rows / spent["total_s"],
        "times_a_plain_pass": spent["total_s"] / spent["floor_s"],
        **spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    show: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
    results = []
    for share in (0.0, 0.001, 1.0):
        result = measure(options.rows, share)
        results.append(result)
        show(
            f"{share:6.1%} broken: {result['rows_per_s'] / 1e6:6.1f} million rows/s "
            f"({result['times_a_plain_pass']:.1f} x a plain pass); rules "
            f"{result['rows_s']:.2f} s, sequence {result['sequence_s']:.2f} s, days "
            f"{result['counts_s']:.2f} s, scores {result['score_s']:.2f} s"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"polars_threads": pl.thread_pool_size(), "runs": results}, indent=1)
        )


if __name__ == "__main__":
    main()
