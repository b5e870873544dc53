"""How long does an answer take: through the SDK, over HTTP on Ray Serve and under uvicorn alone?

Unit of work: 1,000 bars of 1m of one symbol, at a random time, in a lake of 20 symbols and a year
(10.5 million rows). Beside them, in the same run: DuckDB itself on the same Parquet files. The
service's memory of answers is off, so that each is worked for. Then a mixed load, a symbol's year, all
rows to a Polars frame, and `lakehouse --help`. Clients are aiohttp's, in this process; on two cores
they share these with the service. Expected growth: with rows of the answer, hardly with those of the
lake. At the end, what of it is a goal, and whether it is met.

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
from concurrent.futures import ThreadPoolExecutor
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
MIXED_CLIENTS = (1, 4)


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
    ask: Callable[[str, datetime, datetime], int], symbols: list[str], count: int, clients: int
) -> dict[str, float]:
    """By so many threads."""

    def once(window: tuple[str, datetime, datetime]) -> float:
        began = time.perf_counter()
        rows = ask(*window)
        taken = time.perf_counter() - began
        assert rows == WINDOW
        return taken

    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(once, windows(symbols, 5 * clients, 0)))
        began = time.perf_counter()
        seconds = list(threads.map(once, windows(symbols, count, 1)))
        rate = count / (time.perf_counter() - began)
    return {**quantiles(seconds), "per_s": round(rate, 1)}


def best(work: Callable[[], object], attempts: int = 3) -> dict[str, float]:
    seconds = []
    for _ in range(attempts):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return {"best_s": round(min(seconds), 3)}


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


async def mixed(url: str, clients: int, symbols: list[str], count: int) -> dict[str, float]:
    """What a day of questions may be: mostly bars, some of them computed, some facts, some SQL."""
    rng = random.Random(7)
    day = "%Y-%m-%d"

    def question() -> tuple[str, str, dict[str, str]]:
        symbol, first, end = next(windows(symbols, 1, rng.randrange(1 << 30)))
        bars = {"symbol": symbol, "interval": "1m", "start": f"{first:%Y-%m-%dT%H:%M}"}
        span = {"start": f"{first:{day}}", "end": f"{first + timedelta(days=30):{day}}"}
        few = {**bars, "end": f"{end:%Y-%m-%dT%H:%M}"}
        kinds: list[tuple[int, str, str, dict[str, str]]] = [
            (60, "bars", "klines", few),
            (10, "indicators", "klines", {**few, "indicators": "sma_20,rsi_14"}),
            (10, "resampled", "klines", {**bars, **span, "interval": "1h", "from": "1m"}),
            (8, "month", "klines", {**bars, **span, "format": "arrow"}),
            (6, "coverage", "coverage",
             {"symbols": symbol, "market": "spot", "interval": "1m", **span}),
            (4, "sql", "sql", {
                "query": "select date_trunc('day', open_time) as day, max(high) as high "
                f"from silver.klines where symbol = '{symbol}' group by day order by day"}),
            (2, "datasets", "datasets", {}),
        ]  # fmt: skip
        _, kind, path, query = rng.choices(kinds, [weight for weight, *_ in kinds])[0]
        return kind, path, query

    waiting = [question() for _ in range(count)]
    seconds: list[tuple[str, float]] = []

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            kind, path, query = waiting.pop()
            began = time.perf_counter()
            async with session.get(f"{url}/v1/{path}", params=query) as reply:
                body = await reply.read()
            assert reply.status == 200, (path, query, body[:300])
            seconds.append((kind, time.perf_counter() - began))

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    every = [taken for _, taken in seconds]
    means = {"mean_ms": _mean_ms(every)}
    for kind in sorted({kind for kind, _ in seconds}):
        means[f"{kind}_mean_ms"] = _mean_ms([taken for one, taken in seconds if one == kind])
    return {**quantiles(every), **means}


def _mean_ms(seconds: list[float]) -> float:
    return round(sum(seconds) / len(seconds) * 1000, 2)


def goals(report: dict[str, dict[str, float]]) -> dict[str, dict[str, object]]:
    """What is measured, beside what it should be at most (`<=`) or at least."""

    def share(one: str, other: str, name: str) -> float:
        return round(report[one][name] / report[other][name], 2)

    serve, alone = "point, Ray Serve, arrow, 8 clients", "point, uvicorn, arrow, 8 clients"
    found = [
        (
            "SDK p50 / DuckDB",
            share("point, SDK, 1 clients", "point, DuckDB, 1 clients", "p50_ms"),
            1.5,
        ),
        ("Arrow, 1 client, p50 ms", report["point, Ray Serve, arrow, 1 clients"]["p50_ms"], 15),
        ("Arrow, 8 clients, a second: uvicorn / Ray Serve", share(alone, serve, "per_s"), 1 / 0.6),
        ("symbol-year / DuckDB", share("symbol-year, SDK", "symbol-year, DuckDB", "best_s"), 1.2),
        ("all rows to Polars, s", report["all rows to Polars, SDK"]["best_s"], 2.0),
        *(
            (
                f"mixed load, {n} clients, mean ms",
                report[f"mixed load, Ray Serve, {n} clients"]["mean_ms"],
                300,
            )
            for n in MIXED_CLIENTS
        ),
        ("lakehouse --help, s", report["lakehouse --help"]["best_s"], 0.25),
    ]
    return {
        name: {"measured": value, "at_most": round(bound, 2), "met": value <= bound}
        for name, value, bound in found
    }


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
    report: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        build(home, symbols)
        lake = lh.connect(home)
        files = [str(path) for path in (home / "data").rglob("*.parquet")]
        report["lake"] = {
            "cpus": os.cpu_count() or 0, "rows": MINUTES * len(symbols), "files": len(files)
        }  # fmt: skip
        bare = duckdb.connect()
        bare.execute("SET TimeZone='UTC'")

        def note(name: str, found: dict[str, float]) -> None:
            report[name] = found
            print(name, found, file=sys.stderr)

        def by_duckdb(symbol: str, first: datetime, end: datetime) -> int:
            found = bare.cursor().sql(
                "SELECT * FROM read_parquet(?) WHERE symbol = ? AND open_time >= ? "
                "AND open_time < ? ORDER BY open_time",
                params=[files, symbol, first, end],
            )
            return int(found.to_arrow_table().num_rows)

        def by_sdk(symbol: str, first: datetime, end: datetime) -> int:
            return lake.klines(symbol, "1m", first, end).collect().height

        for clients in CLIENTS:
            for name, ask in (("DuckDB", by_duckdb), ("SDK", by_sdk)):
                found = timed(ask, symbols, args.requests, clients)
                note(f"point, {name}, {clients} clients", found)
        for name, options in (("uvicorn", ("--no-ray",)), ("Ray Serve", ())):
            with service(home, *options) as url:
                for form in ("arrow", "json"):
                    for clients in CLIENTS:
                        found = asyncio.run(load(url, form, clients, symbols, args.requests))
                        note(f"point, {name}, {form}, {clients} clients", found)
                for clients in MIXED_CLIENTS:
                    found = asyncio.run(mixed(url, clients, symbols, args.requests))
                    note(f"mixed load, {name}, {clients} clients", found)
        year = (symbols[0], BEGIN, BEGIN.replace(year=2024))
        note("symbol-year, DuckDB", best(lambda: by_duckdb(*year)))
        note("symbol-year, SDK", best(lambda: by_sdk(*year)))
        everything = "SELECT * FROM silver.klines"
        note("all rows to Polars, SDK", best(lambda: lake.sql(everything).pl()))
        bare_all = f"SELECT * FROM read_parquet({files})"
        note("all rows to Polars, DuckDB", best(lambda: bare.sql(bare_all).pl()))
        command = [LAKEHOUSE, "--help"]
        note(
            "lakehouse --help",
            best(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True), 5),
        )
    text = json.dumps({**report, "goals": goals(report)}, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text)


if __name__ == "__main__":
    main()
