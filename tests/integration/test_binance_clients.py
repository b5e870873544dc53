"""ccxt and python-binance read history from the lake: what they get is held against the zips.

The zips are read by pandas, every cell as the text that the exchange wrote.
"""

from __future__ import annotations

import asyncio
import functools
import json
import zipfile
from collections.abc import Coroutine, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import ccxt
import ccxt.async_support
import pandas as pd
import pytest
import websockets
from binance import BinanceSocketManager
from binance.enums import HistoricalKlinesType
from binance.exceptions import BinanceAPIException
from support.exchange_clients import (
    async_python_binance_at,
    ccxt_at,
    ccxt_pro_at,
    loopback_alone,
    point_ccxt,
    python_binance_at,
)
from support.exchange_texts import assert_same_texts
from support.served import Served, serving

from lakehouse_ray.access.keys import KeyFile, KeyRing
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.instruments import ingest_instruments
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange, recorded

T = TypeVar("T")

SHARED = Path(__file__).parents[2].parent / "shared/data"
ARCHIVE = SHARED / "archive"
REST = SHARED / "recorded/rest_json"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not ARCHIVE.is_dir(), reason="the real files are not on this machine"),
]

INGESTED: list[tuple[Market, str, str | None, str]] = [
    ("spot", "klines", "15m", "BTCUSDT"),
    ("spot", "klines", "1h", "BTCUSDT"),
    ("spot", "klines", "1d", "ETHUSDT"),
    ("um", "klines", "1m", "BTCUSDT"),
    ("um", "aggTrades", None, "BSVUSDT"),
    ("cm", "aggTrades", None, "BTCUSD_PERP"),
    ("um", "fundingRate", None, "BTCUSDT"),
]
BARS = [
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
]  # fmt: skip
FOLDERS = {"spot": "spot", "um": "futures/um", "cm": "futures/cm"}


def fill(home: Path, root: Path, wanted: list[tuple[Market, str, str | None, str]]) -> Settings:
    with ReplicaExchange(FolderArchive(root)) as exchange:
        settings = Settings(
            home=home, binance={"archive_url": exchange.url}, compute={"local_bytes_max": 1 << 40}
        )
        writer = Writer(settings)
        for market, dataset, interval, symbol in wanted:
            chosen = Selection(DATASETS[dataset], market, interval, symbols=(symbol,))
            report = ingest(writer, IngestRequest(chosen))
            assert report.rows > 0, (market, dataset, interval, symbol)
    return settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("clients") / "home"
    fill(home, ARCHIVE, INGESTED)
    return home


@pytest.fixture(autouse=True)
def nothing_leaves() -> Iterator[None]:
    with loopback_alone() as tried:
        yield
    assert tried == []


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home) as served:
        yield served


@functools.cache
def read(market: str, dataset: str, symbol: str, interval: str | None) -> list[list[str]]:
    """The lines of all files, without headers, in the order of their first cells."""
    lines: dict[int, list[str]] = {}
    folder = "/".join(filter(None, (dataset, symbol, interval)))
    # A daily file wins over a monthly one.
    for freq in ("monthly", "daily"):
        place = ARCHIVE / "data" / FOLDERS[market] / freq / folder
        for path in sorted(place.glob("*.zip")):
            with zipfile.ZipFile(path) as archive:
                (name,) = [n for n in archive.namelist() if not n.startswith("__MACOSX/")]
                with archive.open(name) as file:
                    frame = pd.read_csv(file, header=None, dtype=str, keep_default_na=False)
            for cells in frame.to_numpy().tolist():
                if cells[0].isdigit():
                    lines[int(cells[0])] = cells
    assert lines
    return [lines[key] for key in sorted(lines)]


def milliseconds(cell: str) -> int:
    return int(cell) // 1000 if len(cell) > 13 else int(cell)


def bars(market: str, symbol: str, interval: str) -> list[list[Any]]:
    """As the exchange's REST writes them."""
    found = []
    for cells in read(market, "klines", symbol, interval):
        row: list[Any] = list(cells)
        row[0], row[6], row[8], row[11] = (
            milliseconds(row[0]),
            milliseconds(row[6]),
            int(row[8]),
            "0",
        )
        found.append(row)
    # A month's file in microseconds sorts after all in milliseconds, whatever its time.
    return sorted(found, key=lambda row: row[0])


def numbers(rows: list[list[Any]]) -> list[list[Any]]:
    """What the texts say, whatever their zeros."""
    return [[Decimal(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]


def ohlcv(rows: list[list[Any]]) -> list[list[Any]]:
    """As ccxt gives them."""
    return [[row[0], *(float(cell) for cell in row[1:6])] for row in rows]


def paged(exchange: Any, symbol: str, timeframe: str, since: int, limit: int) -> list[list[Any]]:
    """How users of ccxt read history."""
    found: list[list[Any]] = []
    while page := exchange.fetch_ohlcv(symbol, timeframe, since, limit):
        found += page
        since = page[-1][0] + 1
    return found


def test_ccxt_pages_through_bars_of_spot_and_futures(served: Served) -> None:
    exchange = ccxt_at(served.url)
    markets = exchange.load_markets()
    assert {"BTC/USDT", "ETH/USDT", "BTC/USDT:USDT", "BSV/USDT:USDT", "BTC/USD:BTC"} == set(markets)
    assert markets["BTC/USDT:USDT"]["swap"]
    assert markets["BTC/USD:BTC"]["contractSize"] == 100
    assert paged(exchange, "BTC/USDT", "15m", 0, 1000) == ohlcv(bars("spot", "BTCUSDT", "15m"))
    assert paged(exchange, "BTC/USDT", "1h", 0, 337) == ohlcv(bars("spot", "BTCUSDT", "1h"))
    wanted = ohlcv(bars("um", "BTCUSDT", "1m"))
    assert len(wanted) > 10_000
    assert paged(exchange, "BTC/USDT:USDT", "1m", wanted[0][0], 1000) == wanted


def test_ccxt_pages_through_trades_and_funding(served: Served) -> None:
    exchange = ccxt_at(served.url)
    wanted = read("um", "aggTrades", "BSVUSDT", None)[:5000]
    found: list[Any] = []
    parameters: dict[str, Any] = {"fromId": int(wanted[0][0])}
    while len(found) < len(wanted):
        page = exchange.fetch_trades("BSV/USDT:USDT", limit=1000, params=parameters)
        found += page
        parameters = {"fromId": int(page[-1]["id"]) + 1}
    assert [
        [t["id"], t["price"], t["amount"], t["timestamp"], t["side"]] for t in found[: len(wanted)]
    ] == [
        [c[0], float(c[1]), float(c[2]), int(c[5]), "sell" if c[6].lower() == "true" else "buy"]
        for c in wanted
    ]

    by_time = exchange.fetch_trades("BSV/USDT:USDT", since=int(wanted[0][5]), limit=1000)
    assert [t["id"] for t in by_time] == [
        c[0] for c in wanted if int(c[5]) <= int(wanted[0][5]) + 3_600_000
    ][:1000]

    funding = exchange.fetch_funding_rate_history("BTC/USDT:USDT", since=1, limit=1000)
    assert [[f["timestamp"], f["fundingRate"]] for f in funding] == [
        [int(cells[0]), float(cells[2])] for cells in read("um", "fundingRate", "BTCUSDT", None)
    ]


def test_ccxt_async_and_sync_agree(served: Served) -> None:
    async def ask() -> Any:
        exchange = point_ccxt(ccxt.async_support.binance({"enableRateLimit": False}), served.url)
        try:
            spot, futures = await asyncio.gather(
                exchange.fetch_ohlcv("ETH/USDT", "1d", 0, 1000),
                exchange.fetch_ohlcv("BTC/USDT:USDT", "1m"),
            )
            with pytest.raises(ccxt.BadSymbol):
                await exchange.public_get_klines({"symbol": "NOPEUSDT", "interval": "1d"})
            return spot, futures
        finally:
            await exchange.close()

    spot, futures = asyncio.run(ask())
    assert spot == ohlcv(bars("spot", "ETHUSDT", "1d"))
    # Without a range: the last ones that are stored.
    assert futures == ohlcv(bars("um", "BTCUSDT", "1m"))[-500:]
    assert ccxt_at(served.url).fetch_ohlcv("ETH/USDT", "1d", 0, 1000) == spot


def test_python_binance_reads_all_history(served: Served) -> None:
    client = python_binance_at(served.url)
    wanted = bars("spot", "BTCUSDT", "1h")
    # Cell for cell, as the exchange wrote them in its files.
    assert_same_texts(client.get_historical_klines("BTCUSDT", "1h", 0), wanted)
    part = client.get_historical_klines("BTCUSDT", "1h", wanted[700][0], wanted[2100][0])
    assert_same_texts(part, wanted[700:2101])

    # A year is missing before the last day: the last bars are those on both sides of it.
    assert wanted[-1][0] - wanted[-1000][0] > 300 * 86_400_000
    last = client.get_klines(symbol="BTCUSDT", interval="1h", endTime=wanted[-1][0], limit=1000)
    assert_same_texts(last, wanted[-1000:])

    futures = client.get_historical_klines(
        "BTCUSDT", "1m", 0, klines_type=HistoricalKlinesType.FUTURES
    )
    assert numbers(futures) == numbers(bars("um", "BTCUSDT", "1m"))

    assert client.get_server_time()["serverTime"] > 1_700_000_000_000
    assert client.futures_time()["serverTime"] > 1_700_000_000_000
    info = client.get_exchange_info()
    assert [one["symbol"] for one in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    assert client.get_symbol_info("ETHUSDT")["baseAsset"] == "ETH"
    assert [
        f["fundingRate"] for f in client.futures_funding_rate(symbol="BTCUSDT", startTime=0)
    ] == [cells[2] for cells in read("um", "fundingRate", "BTCUSDT", None)]


def test_python_binance_async(served: Served) -> None:
    async def ask() -> Any:
        client = await async_python_binance_at(served.url)
        try:
            return [
                row
                async for row in await client.get_historical_klines_generator("ETHUSDT", "1d", 0)
            ]
        finally:
            await client.close_connection()

    assert_same_texts(asyncio.run(ask()), bars("spot", "ETHUSDT", "1d"))


def test_ccxt_watches_a_replay(served: Served) -> None:
    wanted = ohlcv(bars("um", "BTCUSDT", "1m"))[:120]

    async def watch() -> list[Any]:
        exchange = ccxt_pro_at(served.url, span(wanted, 60_000))
        found: list[Any] = []
        try:
            while len(found) < len(wanted):
                found += await exchange.watch_ohlcv("BTC/USDT:USDT", "1m")
            # Neither an error nor a bar that there was.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(exchange.watch_ohlcv("BTC/USDT:USDT", "1m"), 0.5)
            return found
        finally:
            await exchange.close()

    assert within(watch()) == wanted


def test_python_binance_listens_to_a_replay(served: Served) -> None:
    wanted = bars("spot", "BTCUSDT", "1h")[:80]

    async def listen() -> list[Any]:
        client = await async_python_binance_at(served.url)
        manager = BinanceSocketManager(client)
        manager.STREAM_URL = served.url.replace("http://", "ws://") + "/"
        try:
            streams = [f"btcusdt@kline_1h&{span(wanted, 3_600_000)}"]
            async with manager.multiplex_socket(streams) as socket:
                # So long it waits for a message before it looks whether it is to end.
                socket.TIMEOUT = 0.5
                found = [(await socket.recv())["data"]["k"] for _ in wanted]
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(socket.recv(), 0.5)
                return found
        finally:
            await client.close_connection()

    found = [[*(k[name] for name in "tohlcvTqnVQ"), "0"] for k in within(listen())]
    assert_same_texts(found, wanted)


def span(rows: list[list[Any]], length_ms: int) -> str:
    """Parameters of a replay of these bars."""
    first, end = (format_time(ms * 1000) for ms in (rows[0][0], rows[-1][0] + length_ms))
    return f"start={first}&end={end}"


def test_real_trades_are_replayed_in_order(served: Served) -> None:
    """Of both futures markets, merged by time, for a client that knows nothing of exchanges."""

    async def watch(prefix: str, name: str) -> list[Any]:
        url = f"{served.url.replace('http://', 'ws://')}{prefix}/ws/{name}?end=2030"
        # With a queue that can be full this client, closing, waits 10 s for an answer behind it.
        async with websockets.connect(url, max_size=None, max_queue=None) as client:
            return [json.loads(await client.recv()) for _ in range(2_000)]

    for market, symbol in (("um", "BSVUSDT"), ("cm", "BTCUSD_PERP")):
        prefix = {"um": "/fapi", "cm": "/dapi"}[market]
        lines = sorted(
            read(market, "aggTrades", symbol, None),
            key=lambda cells: (int(cells[5]), int(cells[0])),
        )
        found = within(watch(prefix, f"{symbol.lower()}@aggTrade"))
        assert [
            (e["a"], float(e["p"]), float(e["q"]), e["f"], e["l"], e["T"], e["m"]) for e in found
        ] == [
            (int(c[0]), float(c[1]), float(c[2]), int(c[3]), int(c[4]), int(c[5]), c[6] == "true")
            for c in lines[: len(found)]
        ]


def within(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(bounded())


def test_python_binance_pages_trades_by_id(served: Served) -> None:
    client = python_binance_at(served.url)
    wanted = read("cm", "aggTrades", "BTCUSD_PERP", None)
    found: list[Any] = []
    start = int(wanted[0][0])
    while len(found) < 3000:
        page = client.futures_coin_aggregate_trades(symbol="BTCUSD_PERP", fromId=start, limit=1000)
        found += page
        start = page[-1]["a"] + 1
    assert [
        [t["a"], Decimal(t["p"]), Decimal(t["q"]), t["f"], t["l"], t["T"], t["m"]] for t in found
    ] == [
        [int(c[0]), Decimal(c[1]), Decimal(c[2]), int(c[3]), int(c[4]), int(c[5]), c[6] == "true"]
        for c in wanted[:3000]
    ]
    assert [t["q"] for t in found] == [str(int(Decimal(c[2]))) for c in wanted[:3000]]


def test_errors_are_those_that_clients_know(served: Served) -> None:
    client = python_binance_at(served.url)
    for code, parameters in (
        (-1121, {"symbol": "NOPEUSDT", "interval": "1h"}),
        (-1120, {"symbol": "BTCUSDT", "interval": "7h"}),
        (-1102, {"symbol": "BTCUSDT"}),
        (-1100, {"symbol": "btcusdt", "interval": "1h"}),
        (-1100, {"symbol": "BTCUSDT", "interval": "1h", "startTime": "2024-01-01"}),
        (-1104, {"symbol": "BTCUSDT", "interval": "1h", "startTme": "0"}),
    ):
        with pytest.raises(BinanceAPIException) as caught:
            client.get_klines(**parameters)
        assert (caught.value.code, caught.value.status_code) == (code, 400)
    exchange = ccxt_at(served.url)
    with pytest.raises(ccxt.BadSymbol):
        exchange.fapiPublicGetKlines({"symbol": "NOPEUSDT", "interval": "1m"})
    with pytest.raises(ccxt.BadRequest):
        exchange.fapiPublicGetKlines({"symbol": "BTCUSDT", "interval": "1m", "limit": 1501})


def test_a_key_of_the_lake_is_sent_as_the_exchanges(home: Path, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys", SystemClock())
    _, key = file.create("bot", None)
    with serving(home, keys=KeyRing(tmp_path / "keys", SystemClock())) as served:
        assert python_binance_at(served.url, api_key=key).get_klines(
            symbol="BTCUSDT", interval="1h"
        )
        with pytest.raises(BinanceAPIException) as caught:
            python_binance_at(served.url, api_key="lk_wrong")
        assert (caught.value.code, caught.value.status_code) == (-2015, 401)
        with pytest.raises(ccxt.AuthenticationError):
            ccxt_at(served.url).publicGetKlines({"symbol": "BTCUSDT", "interval": "1h"})


def test_futures_have_the_decimals_that_exchange_info_says(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # The home's other tests want a lake without instruments.
    own = tmp_path_factory.mktemp("decimals") / "home"
    wanted: list[tuple[Market, str, str | None, str]] = [("um", "klines", "1m", "BTCUSDT")]
    with ReplicaExchange(
        FolderArchive(ARCHIVE), rest=recorded(REST / "gocryptotrader")
    ) as exchange:
        url = exchange.url
        settings = Settings(home=own, binance={"archive_url": url, "um_url": url})
        ingest_instruments(Writer(settings), "um")
    fill(own, ARCHIVE, wanted)
    with serving(own) as served:
        client = python_binance_at(served.url)
        found = client.futures_klines(symbol="BTCUSDT", interval="1m", startTime=0, limit=1500)
        # Cell for cell as in the files, trailing zeros too.
        assert found == bars("um", "BTCUSDT", "1m")[:1500]
        assert (
            client.futures_continuous_klines(
                pair="BTCUSDT", contractType="PERPETUAL", interval="1m", startTime=0, limit=10
            )
            == found[:10]
        )
        exchange_ = ccxt_at(served.url)
        exchange_.load_markets()
        assert exchange_.market("BTC/USDT:USDT")["precision"]["price"] == 0.1
