"""How long does an update plan, and does a fill use what the exchange allows, and no more?

- The plan of `lakehouse update` for a lake of 2,000 symbols of 1m bars, each with a gap and a tail:
  seconds, the exchange's clock included. Unit of work: a symbol. Expected growth: with the rows whose
  times are read for gaps, and with symbols.
- A fill of more than the allowed weight of several minutes from the replica exchange, at a limit made
  small: the weight that the exchange counted in each of its minutes, beside four fifths of its limit.
  Expected: full minutes between the first and the last, none above, no request refused. With --nodes
  by workers on so many nodes of a Ray cluster, who share one account; with --weight 2400 at the limit
  that the exchange has.

usage: python tests/benchmarks/bench_update.py [--symbols 2000] [--weight 100] [--minutes 3] [--nodes 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
from ray.cluster_utils import Cluster

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import MINUTE_US, TimeRange, parse_time
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.realtime_plan import UpdateRequest
from lakehouse_ray.pipeline.realtime_update import dry_run, update
from lakehouse_ray.pipeline.row_merging import RowMerger, tables_of
from lakehouse_ray.query.asked import ask_for
from lakehouse_ray.settings import Settings
from lakehouse_ray.silver.rows_work import rows_schema
from lakehouse_ray.testing.exchange import RateLimits, ReplicaExchange, SyntheticArchive

START = "2026-04-01"
ROWS_A_SYMBOL = 300
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
BARS_A_PAGE, WEIGHT_A_PAGE = 497, 2


class Then(SystemClock):
    """The exchange's clock: some weeks after the first of the bars."""

    def __init__(self, days: int) -> None:
        start_us = parse_time(START) + days * 24 * 60 * MINUTE_US
        self._ahead_us = start_us - super().now_us()

    def now_us(self) -> int:
        return super().now_us() + self._ahead_us


def lake_at(
    url: str, home: Path, weight_max: int = 2400, cluster: str = "", nodes: int = 0
) -> Writer:
    urls = dict.fromkeys(("archive_url", "spot_url", "um_url", "cm_url"), url)
    here = {"local_bytes_max": 1 << 40}
    there = {"local_bytes_max": 0, "actors": nodes, "profile": "small"}
    return Writer(
        Settings(
            home=home,
            binance=urls,
            compute=there if nodes else here,
            ray={"address": cluster},
            update={"um_weight_max": weight_max},
        ).resolved()
    )


def bars(symbols: int) -> pl.DataFrame:
    """Bars of many symbols, two of each missing."""
    start_us = parse_time(START)
    opens = [start_us + n * MINUTE_US for n in range(ROWS_A_SYMBOL) if n not in (100, 101)]
    base = pl.DataFrame({"open_time": opens}).with_columns(
        *(pl.lit(1.0).alias(name) for name in ("open", "high", "low", "close")),
        *(pl.lit(1.0).alias(name) for name in ("volume", "quote_volume")),
        *(pl.lit(0.5).alias(name) for name in ("taker_buy_volume", "taker_buy_quote_volume")),
        trades=pl.lit(1),
        close_time=pl.col("open_time") + MINUTE_US - 1000,
        market=pl.lit("um"),
        interval=pl.lit("1m"),
        source=pl.lit("daily"),
        source_version=pl.lit("2026-04-02T00:00:00Z 0"),
    )
    schema = rows_schema(KLINES)
    frames = [
        base.with_columns(symbol=pl.lit(f"S{n}USDT"), source_key=pl.lit(f"data/S{n}USDT")).select(
            pl.col(name).cast(kind) for name, kind in schema.items()
        )
        for n in range(symbols)
    ]
    return pl.concat(frames)


def planning(symbols: int, home: Path) -> dict[str, Any]:
    archive = SyntheticArchive(1, symbols=list(SYMBOLS), markets=["um"])
    with ReplicaExchange(archive, clock=Then(2)) as exchange:
        lake = lake_at(exchange.url, home)
        with open_committers(lake, tables_of(KLINES), "bench", local=True) as committers:
            RowMerger(lake, committers, "bench").merge(KLINES, bars(symbols))
        started = time.perf_counter()
        plan = dry_run(lake, UpdateRequest(ask_for()))
        seconds = time.perf_counter() - started
    return {
        "symbols": symbols,
        "seconds": round(seconds, 2),
        "fills": len(plan.planned),
        "requests": plan.requests,
        "weight": plan.costs()["um"]["weight"],
    }


@contextmanager
def cluster_of(nodes: int) -> Iterator[str]:
    """The address of a Ray of so many nodes; empty for none."""
    if not nodes:
        yield ""
        return
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**node)
        yield cluster.address
    finally:
        cluster.shutdown()


def filling(weight_max: int, minutes: int, home: Path, nodes: int) -> dict[str, Any]:
    pages = weight_max * 0.8 * minutes / WEIGHT_A_PAGE / len(SYMBOLS)
    length_us = int(pages * BARS_A_PAGE) * MINUTE_US
    days = length_us // (24 * 60 * MINUTE_US) + 2
    archive = SyntheticArchive(
        1, symbols=list(SYMBOLS), markets=["um"], start=date(2026, 4, 1), end=date(2026, 12, 31)
    )
    limits = RateLimits(weight_per_minute={"spot": 6000, "um": weight_max, "cm": 2400})
    with (
        ReplicaExchange(archive, clock=Then(days), limits=limits) as exchange,
        cluster_of(nodes) as cluster,
    ):
        lake = lake_at(exchange.url, home, weight_max, cluster, nodes)
        span = TimeRange(parse_time(START), parse_time(START) + length_us)
        asked = ask_for("um", "klines", "1m", SYMBOLS, span.start_us, span.end_us)
        report = update(lake, UpdateRequest(asked, build=False))
        told = exchange.told_limits()["um"]
    windows = [weight for _, weight in sorted(told["windows"].items())]
    allowed = int(weight_max * 0.8)
    assert not report.partial, report.reasons
    assert max(windows) <= allowed, windows
    return {
        "workers": f"{report.actors} {report.executor}",
        "weight_max": weight_max,
        "allowed": allowed,
        "weight_by_minute": windows,
        "refused": told["refused"],
        "rows": report.rows,
        "seconds": round(report.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, default=2000)
    parser.add_argument("--weight", type=int, default=100)
    parser.add_argument("--minutes", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if given.symbols:
            found["planning"] = planning(given.symbols, Path(folder) / "plan")
            print(found["planning"], flush=True)
        fill = Path(folder) / "fill"
        found["filling"] = filling(given.weight, given.minutes, fill, given.nodes)
        print(found["filling"], flush=True)
    if given.json:
        given.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
