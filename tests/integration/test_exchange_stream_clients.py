"""ccxt and python-binance listen to the replica: what they understand is held against what it plays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import ccxt
import pytest
from binance import BinanceSocketManager
from support.exchange_clients import async_python_binance_at, ccxt_pro_at, loopback_alone
from support.replica_streams import replica, trades, within

from lakehouse_ray.testing.exchange import (
    Faults,
    History,
    Recording,
    ReplayClock,
    ReplicaExchange,
    Rule,
    Series,
    SyntheticArchive,
    made_of,
)

RECORDED = Path(__file__).parents[2].parent / "shared/data/recorded/ws/hftbacktest"
BARS_FROM = datetime(2024, 5, 1, 6, tzinfo=UTC)

pytestmark = pytest.mark.integration
real = pytest.mark.skipif(not RECORDED.is_dir(), reason="the real frames are not on this machine")


@pytest.fixture(autouse=True)
def nothing_leaves() -> Iterator[None]:
    with loopback_alone() as tried:
        yield
    assert tried == []


def market(day: date) -> SyntheticArchive:
    """Of which exchangeInfo is made; each market has one symbol that is recorded."""
    return SyntheticArchive(
        symbols=["BTCUSDT", "ETHUSDT", "BTCUSD_PERP"], start=day, end=date(2025, 1, 1)
    )


def ccxt_at(exchange: ReplicaExchange) -> Any:
    client = ccxt_pro_at(exchange.url, "")
    address = exchange.url.replace("http://", "ws://")
    # By "/stream" in an address ccxt tells spot from futures.
    client.urls["api"]["ws"] = {
        "spot": f"{address}/ws?as=/stream&streams=", "future": f"{address}/fapi/ws", "delivery": f"{address}/dapi/ws",
    }  # fmt: skip
    return client


async def moved(clock: ReplayClock, seconds: float, by_s: float) -> None:
    """Let time go by in steps, so that a client can keep up."""
    for _ in range(round(seconds / by_s)):
        clock.advance(by_s)
        await asyncio.sleep(0.01)


def test_ccxt_watches_trades(tmp_path: Path) -> None:
    # What came while nobody waited ccxt tells with the next one only: so there are more to come.
    lines = trades("BTCUSDT", 100)

    async def watch() -> list[Any]:
        with replica(tmp_path, lines) as (exchange, clock):
            client = ccxt_at(exchange)
            await client.load_markets()
            moving = asyncio.ensure_future(later(clock))
            found: list[Any] = []
            try:
                while len(found) < 60:
                    found += await asyncio.wait_for(client.watch_trades("BTC/USDT"), 20)
                return found
            finally:
                await moving
                await client.close()

    async def later(clock: ReplayClock) -> None:
        await asyncio.sleep(0.3)
        await moved(clock, 12, 0.5)

    found = within(watch())
    assert [trade["id"] for trade in found] == [str(number) for number in range(len(found))]
    assert {trade["price"] for trade in found} == {61837.63}


def test_python_binance_listens_to_rows_and_to_recordings(tmp_path: Path) -> None:
    archive = market(date(2024, 5, 1))
    rows = History(archive).rows(
        Series("um", "klines", "BTCUSDT", "1m"), int(BARS_FROM.timestamp()) * 1_000_000
    )
    wanted = [next(rows).cells for _ in range(30)]
    clock = ReplayClock(int(BARS_FROM.timestamp()) * 1_000_000 + 1, speed=0)

    async def listen(exchange: ReplicaExchange) -> list[Any]:
        client = await async_python_binance_at(exchange.url)
        manager = BinanceSocketManager(client)
        address = exchange.url.replace("http://", "ws://")
        manager.STREAM_URL, manager.FSTREAM_URL = f"{address}/", f"{address}/fapi/"
        found = []
        try:
            async with manager.futures_multiplex_socket(["btcusdt@kline_1m"]) as socket:
                socket.TIMEOUT = 0.5
                clock.advance(30 * 60)
                while len(found) < 30:
                    bar = (await asyncio.wait_for(socket.recv(), 20))["data"]["k"]
                    found += [bar] if bar["x"] else []
            async with manager.trade_socket("BTCUSDT") as socket:
                socket.TIMEOUT = 0.5
                clock.advance(600)
                trade = await asyncio.wait_for(socket.recv(), 20)
                assert (trade["e"], trade["s"]) == ("trade", "BTCUSDT")
            return found
        finally:
            await client.close_connection()

    rest = made_of(archive.instruments, date(2025, 1, 1))
    with ReplicaExchange(archive, clock=clock, rest=rest) as exchange:
        found = within(listen(exchange))
    assert [bar["t"] for bar in found] == [int(cells[0]) for cells in wanted]
    assert [bar["c"] for bar in found] == [cells[4] for cells in wanted]


def book_replica(file: str, *rules: Rule) -> tuple[ReplicaExchange, ReplayClock, Recording]:
    recording = Recording([RECORDED / file])
    clock = ReplayClock(recording.span_us[0] - 1_000_000, speed=0)
    archive = market(date(2024, 8, 1))
    rest = made_of(archive.instruments, date(2025, 1, 1))
    faults = Faults(rules)
    exchange = ReplicaExchange(archive, faults, recording=recording, clock=clock, rest=rest)
    return exchange, clock, recording


BOOKS = [
    ("spot_btcusdt_20240808.gz", "spot", "BTCUSDT", "BTC/USDT"),
    ("usdm_ethusdt_20240808.gz", "um", "ETHUSDT", "ETH/USDT:USDT"),
    ("cm_btcusd_perp_20240808.gz", "cm", "BTCUSD_PERP", "BTC/USD:BTC"),
]


@real
@pytest.mark.parametrize(("file", "at", "symbol", "name"), BOOKS)
def test_ccxts_order_book_is_the_replicas(file: str, at: str, symbol: str, name: str) -> None:
    """From the recorded snapshot and changes; ccxt keeps its book by code of its own."""
    exchange, clock, _ = book_replica(file)

    async def watch() -> None:
        client = ccxt_at(exchange)
        try:
            await client.load_markets()
            watching = asyncio.ensure_future(client.watch_order_book(name))
            await asyncio.sleep(0.3)
            while not watching.done():
                await moved(clock, 0.5, 0.1)
            for _ in range(5):
                await watching
                watching = asyncio.ensure_future(client.watch_order_book(name))
                await moved(clock, 2, 0.1)
            told = json.loads(exchange.streams.depth(at, symbol, 1000) or b"")
            book = client.orderbooks[name]
            async with asyncio.timeout(20):
                while book["nonce"] != told["lastUpdateId"]:  # noqa: ASYNC110 - ccxt's own state
                    await asyncio.sleep(0.01)
            watching.cancel()
            for side in ("bids", "asks"):
                kept = [[price, size] for price, size, *_ in book[side][:100]]
                wanted = [[float(price), float(size)] for price, size in told[side][:100]]
                assert kept == wanted
        finally:
            await client.close()

    with exchange:
        within(watch())


async def for_ever(client: Any) -> None:
    while True:
        await asyncio.wait_for(client.watch_order_book("BTC/USDT"), 20)


@real
def test_ccxt_sees_a_hole_in_the_changes(tmp_path: Path) -> None:
    rule = Rule("ws/btcusdt@depth@100ms", "messages_skipped", times=1, probability=0.05)
    exchange, clock, _ = book_replica(BOOKS[0][0], rule)

    async def watch() -> None:
        client = ccxt_at(exchange)
        try:
            await client.load_markets()
            moving = asyncio.ensure_future(moved(clock, 20, 0.1))
            with pytest.raises(ccxt.ChecksumError):
                await for_ever(client)
            await moving
        finally:
            await client.close()

    with exchange:
        within(watch())
        assert [p["fault"] for p in exchange.streams.planted()] == ["messages_skipped"]
