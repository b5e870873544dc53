"""How many planted anomalies are found, and how many findings are none? A measurement, not a test.

Five kinds are planted at seeded places, never nearer than 150 bars to each other, in the real bars of
../shared/data/archive (where it is there) and in the synthetic market:

- spike: one close 1 to 8 % off, and back
- volume burst: one volume 20 to 300 times what it was
- stale run: 30 to 90 bars with volume at the close before them
- shifted level: 20 to 120 bars at prices 3 to 15 % off
- swapped high/low: one bar with its high and low exchanged

A planted anomaly is found by a method if it has a finding in its bars or the one after them (where a
price comes back). Recall is the share found. Precision is the share of findings that lie at a planted
one; real bars hold anomalies of their own, so beside it stands the precision without those findings
that the untouched bars have too (same bar, same method). Unit of work: a bar. OHLC is no anomaly
method but the rule of that name, for what rules find surely.

usage: python tests/benchmarks/bench_anomalies.py [--archive DIR] [--seed N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from lakehouse_ray.kernels.anomaly import find_anomalies
from lakehouse_ray.kernels.anomaly_forest import fit_forest, forest_findings
from lakehouse_ray.kernels.check import flag_rows
from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.decode import BinanceDecoder
from lakehouse_ray.sources.source import CsvFile
from lakehouse_ray.testing.exchange import SyntheticArchive

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
ALL_TIME = TimeRange(parse_time("2010"), parse_time("2100"))
DECODER = BinanceDecoder(inflated_bytes_max=1 << 30, inflate_ratio_max=1000)

# Bars before the first plant (baselines need them), and between two.
QUIET = 300
APART = 150
METHODS = (
    "return_z", "hampel", "return_jump", "volume_z", "volume_jump", "stale_price",
    "isolation_forest", "OHLC",
)  # fmt: skip

Columns = dict[str, np.ndarray]


def spike(columns: Columns, at: int, rng: np.random.Generator) -> int:
    factor = 1 + rng.choice([-1, 1]) * rng.uniform(0.01, 0.08)
    columns["close"][at] *= factor
    columns["high"][at] = max(columns["high"][at], columns["close"][at])
    columns["low"][at] = min(columns["low"][at], columns["close"][at])
    return 1


def volume_burst(columns: Columns, at: int, rng: np.random.Generator) -> int:
    factor = rng.uniform(20, 300)
    for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"):
        columns[name][at] *= factor
    return 1


def stale_run(columns: Columns, at: int, rng: np.random.Generator) -> int:
    length = int(rng.integers(30, 91))
    run = slice(at, at + length)
    for name in ("open", "high", "low", "close"):
        columns[name][run] = columns["close"][at - 1]
    volume = columns["volume"][run]
    volume[volume == 0] = np.median(columns["volume"][at - 100 : at])
    return length


def shifted_level(columns: Columns, at: int, rng: np.random.Generator) -> int:
    length = int(rng.integers(20, 121))
    factor = 1 + rng.choice([-1, 1]) * rng.uniform(0.03, 0.15)
    for name in ("open", "high", "low", "close"):
        columns[name][at : at + length] *= factor
    return length


def swapped(columns: Columns, at: int, rng: np.random.Generator) -> int:
    high, low = columns["high"], columns["low"]
    high[at], low[at] = low[at], high[at]
    return 1


PLANTS: dict[str, Callable[[Columns, int, np.random.Generator], int]] = {
    "spike": spike,
    "volume burst": volume_burst,
    "stale run": stale_run,
    "shifted level": shifted_level,
    "swapped high/low": swapped,
}


@dataclass(frozen=True)
class Plant:
    """Rows `[start, end)` that were changed."""

    kind: str
    start: int
    end: int


def plant(bars: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, list[Plant]]:
    columns = {
        name: bars[name].to_numpy().copy()
        for name in bars.columns
        if bars[name].dtype == pl.Float64
    }
    plants = []
    row = QUIET
    while row < bars.height - QUIET:
        kind = list(PLANTS)[len(plants) % len(PLANTS)]
        start = row
        # A burst needs volume to multiply, a swap a bar that moved.
        while columns["volume"][start] == 0 or columns["high"][start] == columns["low"][start]:
            start += 1
            if start >= bars.height - QUIET:
                break
        else:
            length = PLANTS[kind](columns, start, rng)
            plants.append(Plant(kind, start, start + length))
            row = start + length
        row = max(row, start) + APART + int(rng.integers(0, 300))
    return bars.with_columns(pl.Series(name, values) for name, values in columns.items()), plants


def real_series(archive: Path) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Name, interval and bars of each series of klines with enough of them."""
    folders: dict[tuple[Market, str, str], list[CsvFile]] = {}
    for path in sorted(archive.rglob("*/klines/*/*/*.zip")):
        key = path.relative_to(archive).as_posix()
        market: Market = "spot" if "/spot/" in f"/{key}" else "um" if "/um/" in key else "cm"
        symbol, interval = path.parts[-3:-1]
        data = DECODER.unpack(key, path.read_bytes(), sys.maxsize) or b""
        folders.setdefault((market, symbol, interval), []).append(
            CsvFile(key, symbol, ALL_TIME, data)
        )
    for (market, symbol, interval), files in folders.items():
        parts = [part.frame for part in DECODER.decode(KLINES, market, files)]
        bars = pl.concat(parts).unique("open_time", keep="last").sort("open_time")
        if bars.height >= 2000:
            yield f"{market} {symbol} {interval}", interval, bars


def synthetic_series(days: int) -> Iterator[tuple[str, str, pl.DataFrame]]:
    archive = SyntheticArchive(
        seed=5, symbols=4, markets=("spot",), start=date(2024, 1, 1), end=date(2024, 4, 1),
        trades_per_minute=12,
    )  # fmt: skip
    for instrument in archive.instruments:
        folder = f"data/spot/daily/klines/{instrument.symbol}/1m/"
        keys = [name for name in archive.children(folder) if name.endswith(".zip")][:days]
        files = []
        for name in keys:
            blob = archive.read(folder + name)
            assert blob is not None
            files.append(
                CsvFile(
                    name,
                    instrument.symbol,
                    ALL_TIME,
                    DECODER.unpack(folder + name, blob.body, sys.maxsize) or b"",
                )
            )
        frame = pl.concat([part.frame for part in DECODER.decode(KLINES, "spot", files)])
        yield f"synthetic {instrument.symbol} 1m", "1m", frame.sort("open_time")


def findings_of(bars: pl.DataFrame, interval: str) -> set[tuple[str, int]]:
    """(method, row) of every finding."""
    found, _ = find_anomalies(bars, interval)
    parts = [found]
    forest = fit_forest(bars, interval)
    if forest is not None:
        parts.append(forest_findings(forest, bars)[0])
    rows = bars.select(time="open_time", row=pl.int_range(pl.len()))
    joined = pl.concat(parts).join(rows, on="time")
    pairs = set(joined.select("method", "row").rows())
    flags = flag_rows(ohlc(interval), bars)
    if flags is not None:
        pairs |= {("OHLC", row) for row in flags.is_not_null().arg_true()}
    return pairs


def ohlc(interval: str) -> list[Rule]:
    return [rule for rule in rules_of("klines", "spot", interval) if rule.name == "OHLC"]


@dataclass
class Tally:
    planted: Counter[str]
    found: Counter[tuple[str, str]]
    at_plants: Counter[str]
    findings: Counter[str]
    natural: Counter[str]
    bars: int = 0
    seconds: float = 0.0


def measure(series: Iterator[tuple[str, str, pl.DataFrame]], seed: int) -> Tally:
    tally = Tally(Counter(), Counter(), Counter(), Counter(), Counter())
    for number, (_, interval, bars) in enumerate(series):
        before = findings_of(bars, interval)
        planted, plants = plant(bars, np.random.default_rng([seed, number]))
        started = time.perf_counter()
        found = findings_of(planted, interval)
        tally.seconds += time.perf_counter() - started
        tally.bars += bars.height
        owner = np.full(bars.height + 1, -1)
        for i, one in enumerate(plants):
            tally.planted[one.kind] += 1
            owner[one.start : one.end + 1] = i
        hit: set[tuple[str, int]] = set()
        for method, row in found:
            tally.findings[method] += 1
            if owner[row] >= 0:
                tally.at_plants[method] += 1
                hit |= {(method, int(owner[row])), ("all", int(owner[row]))}
            elif (method, row) in before:
                tally.natural[method] += 1
        for method, i in hit:
            tally.found[method, plants[i].kind] += 1
    return tally


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def table(tally: Tally) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for method in (*METHODS, "all"):
        chosen = METHODS if method == "all" else (method,)
        findings = sum(tally.findings[name] for name in chosen)
        natural = sum(tally.natural[name] for name in chosen)
        right = sum(tally.at_plants[name] for name in chosen)
        rows.append(
            {
                "method": method,
                **{kind: ratio(tally.found[method, kind], tally.planted[kind]) for kind in PLANTS},
                "recall": ratio(
                    sum(tally.found[method, kind] for kind in PLANTS), tally.planted.total()
                ),
                "precision": ratio(right, findings),
                "precision without what untouched bars have": ratio(right, findings - natural),
                "findings": findings,
            }
        )
    return rows


def show(title: str, tally: Tally) -> None:
    planted = ", ".join(f"{n} x {kind}" for kind, n in tally.planted.items())
    print(f"\n{title}: {tally.bars:,} bars; planted {planted}")
    print(f"{tally.bars / tally.seconds:,.0f} bars/s for all methods, forest fitted and asked\n")
    rows = table(tally)
    print("| " + " | ".join(rows[0]) + " |")
    print("| --- |" + " ---: |" * (len(rows[0]) - 1))
    for row in rows:
        cells = [
            "" if value is None else f"{value:.2f}" if isinstance(value, float) else f"{value}"
            for value in row.values()
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--archive", type=Path, default=ARCHIVE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = {"synthetic": measure(synthetic_series(14), options.seed)}
    if options.archive.exists():
        runs = {"real": measure(real_series(options.archive), options.seed), **runs}
    for title, tally in runs.items():
        show(title, tally)
    if options.json:
        result = {
            title: {"bars": tally.bars, "planted": dict(tally.planted), "methods": table(tally)}
            for title, tally in runs.items()
        }
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
