"""Captures of the replica's synthetic market, and what really happened in it, by plain csv."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from support.forked import popen
from support.streamed import asked, wait_for

from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.testing.exchange import (
    Faults,
    ReplayClock,
    ReplicaExchange,
    Rule,
    SyntheticArchive,
)
from lakehouse_ray.testing.exchange.streams import LIMITS, StreamLimits

SYMBOLS = ("BTCUSDT", "ETHUSDT")
DAY = date(2024, 5, 1)
# Futures tell old trades to who has a key: of the replica, any letters.
_KEY = "k" * 64
# By data set: the table, the number or time of a row in it, and the column of it in the archive.
NUMBERS = {
    "aggTrades": ("silver.agg_trades", "agg_trade_id", 0),
    "trades": ("silver.trades", "id", 0),
    "klines": ("silver.klines", "epoch_ms(open_time)", 0),
}


@dataclass
class Captured:
    """An exchange whose clock stands until somebody moves it. Its day is `DAY`, USD-M alone."""

    exchange: ReplicaExchange
    clock: ReplayClock
    archive: SyntheticArchive
    symbols: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self, home: Path) -> dict[str, str]:
        address = f"ws{self.exchange.url.removeprefix('http')}"
        return {
            **os.environ,
            "LAKEHOUSE_HOME": str(home),
            "LAKEHOUSE_BINANCE__UM_STREAM_URL": f"{address}/fapi",
            "LAKEHOUSE_BINANCE__UM_URL": self.exchange.url,
            "LAKEHOUSE_BINANCE__API_KEY": _KEY,
            "LAKEHOUSE_STREAM__COMMIT_INTERVAL_S": "0.3",
            "LAKEHOUSE_STREAM__CONNECT_SPACING_S": "0.1",
            "LAKEHOUSE_STREAM__FILL_AFTER_S": "0.3",
            **self.settings,
        }

    def start(self, home: Path, *streams: str) -> subprocess.Popen[str]:
        """`lakehouse stream` of all symbols; it is connected when this returns."""
        opened = self.exchange.streams.state()["opened"]
        process = self.run(
            home, "stream", "--market", "um", "--symbols", ",".join(self.symbols),
            "--streams", ",".join(streams),
        )  # fmt: skip
        try:
            wait_for(lambda: self.exchange.streams.state()["opened"] > opened, "a connection")
        except AssertionError:
            process.kill()
            raise
        return process

    def run(self, home: Path, *arguments: str) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = popen(
            *arguments, "--json", env=self.environment(home), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return process

    def play(self, seconds: float, speed: float) -> None:
        """Let so much of the exchange's time pass."""
        until_us = self.clock.now_us() + round(seconds * 1e6)
        self.clock.set_speed(speed)
        wait_for(lambda: self.clock.now_us() >= until_us, "the replay")
        self.clock.set_speed(0)
        # What is due is on its way a little later.
        sent = -1
        while sent != (sent := self.exchange.streams.state()["sent"]):
            time.sleep(0.3)

    def cut_all(self) -> None:
        """Cut every connection; return when they are up again."""
        opened, count = self.exchange.streams.state()["opened"], self.exchange.streams.cut()
        assert count
        wait_for(
            lambda: self.exchange.streams.state()["opened"] >= opened + count, "new connections"
        )

    def wait_for_last_trade(self, home: Path, timeout_s: float = 60) -> None:
        """Return when the last aggregate trade that was due is in the table, of the first symbol.

        What was sent is committed a little later, and until then nobody knows of its gaps: that no gap
        is open may be said of the commit before.
        """
        symbol, now_ms = self.symbols[0], self.clock.now_us() // 1000
        last = max(int(row[0]) for row in self.truth("aggTrades", symbol) if int(row[5]) <= now_ms)
        query = f"select max(agg_trade_id) as last from silver.agg_trades where symbol = '{symbol}'"
        wait_for(lambda: asked(home, query)[0]["last"] == last, f"trade {last}", timeout_s)

    def truth(self, dataset: str, symbol: str, days: int = 1) -> list[list[str]]:
        """The rows of the archive's files, as they are spelled there, of the days from `DAY` on."""
        folder = f"klines/{symbol}/1m" if dataset == "klines" else f"{dataset}/{symbol}"
        name = "1m" if dataset == "klines" else dataset
        rows: list[list[str]] = []
        for number in range(days):
            day = DAY + timedelta(days=number)
            key = f"data/futures/um/daily/{folder}/{symbol}-{name}-{day}.zip"
            blob = self.archive.read(key)
            assert blob is not None, key
            with zipfile.ZipFile(io.BytesIO(blob.body)) as packed:
                text = packed.read(packed.namelist()[0]).decode()
            rows += [row for row in csv.reader(io.StringIO(text)) if row[0].isdigit()]
        return rows


@contextmanager
def captured(
    rules: Sequence[Rule] = (),
    *,
    at: str = "2024-05-01T10:00",
    trades_per_minute: int = 60,
    symbols: tuple[str, ...] = SYMBOLS,
    stream_limits: Mapping[str, StreamLimits] = LIMITS,
    **settings: str,
) -> Iterator[Captured]:
    archive = SyntheticArchive(
        symbols=symbols, markets=("um",), start=DAY, end=DAY + timedelta(days=2),
        trades_per_minute=trades_per_minute,
    )  # fmt: skip
    clock = ReplayClock(parse_time(at), speed=0)
    faults = Faults(tuple(rules), seed=1)
    with ReplicaExchange(archive, faults, clock=clock, stream_limits=stream_limits) as exchange:
        yield Captured(exchange, clock, archive, symbols, settings)


def gaps(home: Path) -> list[dict[str, Any]]:
    """All gaps of streams and what became of them."""
    return asked(
        home,
        "select dataset, symbol, first_id, last_id, epoch_ms(start_time) as start_ms, "
        "epoch_ms(end_time) as end_ms, missing, state, missing_left, detail "
        "from silver.stream_gaps order by all",
    )


def numbers_of(gap: dict[str, Any]) -> list[int]:
    """The numbers, or times of opening in ms, that a gap says are missing."""
    if gap["first_id"] is None:
        return list(range(gap["start_ms"], gap["end_ms"], 60_000))
    return list(range(gap["first_id"], gap["last_id"] + 1))


def assert_whole(home: Path, exchange: Captured, datasets: Sequence[str]) -> int:
    """Every row between the first and the last is there once, as the archive has it; how many."""
    counted = 0
    for dataset in datasets:
        view, number, column = NUMBERS[dataset]
        for symbol in exchange.symbols:
            found = asked(
                home,
                f"select {number} as number, * from {view} where market = 'um' "
                f"and symbol = '{symbol}' order by 1",
            )
            numbers = [row["number"] for row in found]
            assert len(numbers) == len(set(numbers)), (dataset, symbol)
            true = {int(row[column]): row for row in exchange.truth(dataset, symbol)}
            wanted = [n for n in sorted(true) if numbers[0] <= n <= numbers[-1]]
            assert numbers == wanted, (dataset, symbol, sorted(set(wanted) ^ set(numbers))[:10])
            for row in found:
                assert_same(dataset, row, true[row["number"]])
            counted += len(found)
    return counted


def assert_same(dataset: str, row: dict[str, Any], true: list[str]) -> None:
    """A stored row says what the archive's file does."""
    if dataset == "klines":
        names = ("open", "high", "low", "close", "volume")
        assert [row[name] for name in names] == [float(text) for text in true[1:6]], row
        assert row["trades"] == int(true[8])
        return
    price, quantity = ("price", "qty") if dataset == "trades" else ("price", "quantity")
    assert (row[price], row[quantity]) == (float(true[1]), float(true[2])), row
    assert row["is_buyer_maker"] == (true[-1].lower() == "true"), row
