"""How long does an answer take: through the SDK, over HTTP on Ray Serve and under uvicorn alone?

Unit of work: 1,000 bars of 1m of one symbol, at a random time, in a lake of 20 symbols and a year
(10.5 million rows). Beside them, in the same run: DuckDB itself on the same Parquet files. The
service's memory of answers is off, so that each is worked for. Then a symbol's year, and all rows to
a Polars frame. Clients are aiohttp's, in this process; on two cores they share these with the
service. Expected growth: with rows of the answer, hardly with those of the lake.

usage: python tests/benchmarks/bench_serve.py [--json FILE] [--symbols N] [--requests N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import duckdb
import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.bars import BarLake
from support.commands import LAKEHOUSE, environment

import lakehouse_ray as lh
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.storage.frames import frame_schema

BEGIN = datetime(2023, 1, 1, tzinfo=UTC)
MINUTES = 365 * 1440
WINDOW = 1000
CLIENTS = (1, 8)


def month(symbols: list[str], first: datetime, end: datetime) -> pl.DataFrame:
    opens = pl.datetime_range(first, end, "1m", closed="left", time_unit="us", eager=True)
    rows = len(opens)
    rng = np.random.default_rng(first.toordinal())
    frames = []
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, rows)))
        volume = np.round(rng.random(rows) * 10, 5)
        columns = {
            "market": ["spot"] * rows, "symbol": [symbol] * rows, "interval": ["1m"] * rows,
            "open_time": opens, "open": np.round(close, 2), "high": np.round(close * 1.0001, 2),
            "low": np.round(close * 0.9999, 2), "close": np.round(close, 2), "volume": volume,
            "quote_volume": volume * close, "trades": rng.integers(1, 500, rows),
            "taker_buy_volume": volume / 2, "taker_buy_quote_volume": volume * close / 2,
            "close_time": opens + timedelta(microseconds=59_999_000), "source": ["monthly"] * rows,
            "source_key": [f"{symbol}-{first:%Y-%m}"] * rows, "source_version": ["1"] * rows,
        }  # fmt: skip
        schema = {n: t for n, t in frame_schema(KLINES.table("1m")).items() if n in columns}
        frames.append(pl.DataFrame(columns, schema_overrides=schema))
    whole = pl.concat(frames)
    missing = [n for n in frame_schema(KLINES.table("1m")) if n not in whole.columns]
    return whole.with_columns(pl.lit(None, pl.String).alias(name) for name in missing).cast(
        dict(frame_schema(KLINES.table("1m")))
    )


def build(home: Path, symbols: list[str]) -> None:
    lake = BarLake(home)
    for number in range(12):
        first = BEGIN.replace(month=number + 1)
        end = BEGIN.replace(year=2024) if number == 11 else BEGIN.replace(month=number + 2)
        lake.put(month(symbols, first, end))


def windows(symbols: list[str], count: int, seed: int) -> Iterator[tuple[str, datetime, datetime]]:
    rng = random.Random(seed)
    for _ in range(count):
        first = BEGIN + timedelta(minutes=rng.randrange(MINUTES - WINDOW))
        yield rng.choice(symbols), first, first + timedelta(minutes=WINDOW)


def quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 2),
    }


def timed(
    ask: Callable[[str, datetime, datetime], int], symbols: list[str], count: int
) -> dict[str, float]:
    seconds = []
    for window in [*windows(symbols, 5, 0), *windows(symbols, count, 1)]:
        began = time.perf_counter()
        rows = ask(*window)
        seconds.append(time.perf_counter() - began)
        assert rows == WINDOW
    return quantiles(seconds[5:])


async def load(
    url: str, form: str, clients: int, symbols: list[str], count: int
) -> dict[str, float]:
    seconds: list[float] = []
    waiting = list(windows(symbols, count + 5 * clients, clients))

    async def client(session: aiohttp.ClientSession, warm: int) -> None:
        number = 0
        while waiting:
            symbol, first, end = waiting.pop()
            query = {
                "symbol": symbol, "interval": "1m", "format": form,
                "start": f"{first:%Y-%m-%dT%H:%M}", "end": f"{end:%Y-%m-%dT%H:%M}",
            }  # fmt: skip
            began = time.perf_counter()
            async with session.get(f"{url}/v1/klines", params=query) as reply:
                body = await reply.read()
            assert reply.status == 200, body[:300]
            assert reply.headers["Lakehouse-Rows"] == str(WINDOW)
            number += 1
            if number > warm:
                seconds.append(time.perf_counter() - began)

    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session, 5) for _ in range(clients)))
        rate = (count + 5 * clients) / (time.perf_counter() - began)
    return {**quantiles(seconds), "per_s": round(rate, 1)}


@contextlib.contextmanager
def service(home: Path, *options: str) -> Iterator[str]:
    env = environment(HOME=home, SERVE__CACHE_BYTES=0, SERVE__REPLICAS_MAX=1)
    with subprocess.Popen(
        [LAKEHOUSE, "serve", "--port", "0", "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, cwd=home.parent,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--requests", type=int, default=300)
    args = parser.parse_args()
    symbols = [f"SYM{number:03}USDT" for number in range(args.symbols)]
    report: dict[str, object] = {"cpus": os.cpu_count(), "rows": MINUTES * len(symbols)}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        build(home, symbols)
        lake = lh.connect(home)
        files = [str(path) for path in (home / "data").rglob("*.parquet")]
        report["files"] = len(files)
        bare = duckdb.connect()
        bare.execute("SET TimeZone='UTC'")

        def by_duckdb(symbol: str, first: datetime, end: datetime) -> int:
            found = bare.sql(
                "SELECT * FROM read_parquet(?) WHERE symbol = ? AND open_time >= ? "
                "AND open_time < ? ORDER BY open_time",
                params=[files, symbol, first, end],
            )
            return int(found.to_arrow_table().num_rows)

        def by_sdk(symbol: str, first: datetime, end: datetime) -> int:
            return lake.klines(symbol, "1m", first, end).collect().height

        report["point, DuckDB"] = timed(by_duckdb, symbols, args.requests)
        report["point, SDK"] = timed(by_sdk, symbols, args.requests)
        print(report, file=sys.stderr)
        for name, options in (("uvicorn", ("--no-ray",)), ("Ray Serve", ())):
            with service(home, *options) as url:
                for form in ("arrow", "json"):
                    for clients in CLIENTS:
                        key = f"point, {name}, {form}, {clients} clients"
                        report[key] = asyncio.run(load(url, form, clients, symbols, args.requests))
                        print(key, report[key], file=sys.stderr)
        year = (symbols[0], BEGIN, BEGIN.replace(year=2024))
        for name, scan in (
            ("symbol-year, DuckDB", lambda: by_duckdb(*year)),
            ("symbol-year, SDK", lambda: by_sdk(*year)),
            (
                "all rows to Polars, SDK",
                lambda: lake.sql("SELECT * FROM silver.klines").pl().height,
            ),
        ):
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                scan()
                seconds.append(time.perf_counter() - began)
            report[name] = {"best_s": round(min(seconds), 3)}
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text)


if __name__ == "__main__":
    main()
