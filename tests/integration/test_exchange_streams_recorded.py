"""The real recordings, played: every byte as it was, in its order, and the books behind them whole."""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support.replica_streams import MARKET, client, texts, within

from lakehouse_ray.testing.exchange import Recording, ReplayClock, ReplicaExchange

RECORDED = Path(__file__).parents[2].parent / "shared/data/recorded"
PREFIX = {"spot": "", "um": "/fapi", "cm": "/dapi"}
# Frames that are asked for; the rest of a file is more of the same.
FRAMES_MAX = 12_000

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not RECORDED.is_dir(), reason="the real frames are not on this machine"),
]
FILES = [
    ("ws/cryptofeed/BINANCE.ws.1.0", "spot"),
    ("ws/cryptofeed/BINANCE_FUTURES.ws.1.0", "um"),
    ("ws/hftbacktest/spot_btcusdt_20240808.gz", "spot"),
    ("ws/hftbacktest/usdm_ethusdt_20240808.gz", "um"),
    ("ws/hftbacktest/cm_btcusd_perp_20240808.gz", "cm"),
    ("ws/gocryptotrader/wsHandleData.json", "spot"),
]


def lines_of(path: Path) -> list[str]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [line[line.index("{") :] for line in text.splitlines() if '{"stream":' in line]


@pytest.mark.parametrize(("name", "market"), FILES)
def test_a_recording_comes_out_byte_for_byte(name: str, market: str) -> None:
    path = RECORDED / name
    recording = Recording([path])
    wanted = lines_of(path)[:FRAMES_MAX]
    assert {at for at, _ in recording.streams} == {market}
    assert sum(len(recording.all_of(*stream)) for stream in recording.streams) == len(
        lines_of(path)
    )
    clock = ReplayClock(recording.span_us[0] - 1, speed=0)
    # Some were recorded with capitals, which no address has.
    streams = "/".join(stream for _, stream in recording.streams)

    async def watch(exchange: ReplicaExchange) -> list[Any]:
        address = f"{PREFIX[market]}/stream?streams={streams}"
        async with client(exchange, address, max_size=None) as socket:
            clock.advance(3600 * 24 * 400 if "gocrypto" in name else 3600)
            return await texts(socket, len(wanted))

    with ReplicaExchange(MARKET, recording=recording, clock=clock) as exchange:
        assert within(watch(exchange)) == wanted


def test_books_of_the_recording_are_served_and_followed() -> None:
    """A book kept by the exchange's own rules from what is served is the book that is served later."""
    recording = Recording([RECORDED / "ws/hftbacktest/spot_btcusdt_20240808.gz"])
    clock = ReplayClock(recording.span_us[0] - 1, speed=0)

    def depth(exchange: ReplicaExchange) -> Any:
        url = f"{exchange.url}/api/v3/depth?symbol=BTCUSDT&limit=1000"
        with urllib.request.urlopen(url, timeout=20) as reply:
            return json.loads(reply.read())

    async def keep(exchange: ReplicaExchange) -> None:
        async with client(exchange, "/ws/btcusdt@depth@100ms") as socket:
            clock.advance(30)
            told = await asyncio.to_thread(depth, exchange)
            sides = {side: dict(told[f"{side}s"]) for side in ("bid", "ask")}
            last, first = told["lastUpdateId"], True
            clock.advance(20)
            later = await asyncio.to_thread(depth, exchange)
            while last < later["lastUpdateId"]:
                (text,) = await texts(socket, 1)
                change = json.loads(text)
                if change["u"] <= last:
                    continue
                assert change["U"] <= last + 1 if first else change["U"] == last + 1
                last, first = change["u"], False
                for side, levels in (("bid", change["b"]), ("ask", change["a"])):
                    for price, size in levels:
                        sides[side][price] = size
                        if not float(size):
                            del sides[side][price]
            assert last == later["lastUpdateId"]
            for side, best in (("bid", max), ("ask", min)):
                assert best(sides[side], key=float) == later[f"{side}s"][0][0]
                # Deep levels are unknown to both; near the top they must agree.
                for price, size in later[f"{side}s"][:200]:
                    assert sides[side][price] == size

    with ReplicaExchange(MARKET, recording=recording, clock=clock) as exchange:
        within(keep(exchange))


def test_snapshots_are_served_as_they_were() -> None:
    recording = Recording([RECORDED / "ws/cryptofeed", RECORDED / "rest_json/cryptofeed"])
    assert len(recording.snapshots) == 8
    clock = ReplayClock(recording.span_us[0] - 1, speed=0)
    with ReplicaExchange(MARKET, recording=recording, clock=clock) as exchange:
        for snapshot in recording.snapshots:
            prefix = {"spot": "api/v3", "um": "fapi/v1"}[snapshot.market]
            url = f"{exchange.url}/{prefix}/depth?symbol={snapshot.symbol}&limit=1000"
            with urllib.request.urlopen(url, timeout=20) as reply:
                assert reply.read() == snapshot.body
