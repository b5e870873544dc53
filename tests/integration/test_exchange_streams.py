"""The replica's websocket, spoken to by `websockets` and `aiohttp`: protocol, limits, rows."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import urllib.request
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from support.replica_streams import (
    MARKET,
    START_US,
    client,
    frames_of,
    replica,
    say,
    silent,
    texts,
    trades,
    until,
    within,
)
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lakehouse_ray.testing.exchange import LIMITS, ReplayClock, ReplicaExchange

pytestmark = pytest.mark.integration

BTC, ETH = trades("BTCUSDT", 30), trades("ETHUSDT", 30, first=1000)
BOTH = [line for pair in zip(BTC, ETH, strict=True) for line in pair]
FUTURES = '0.5: {"stream":"btcusdt@depth","data":{"e":"depthUpdate","pu":1}}'


def data_of(line: str) -> str:
    return line.partition('"data":')[2][:-1]


def test_recorded_messages_come_byte_for_byte_at_every_kind_of_address(tmp_path: Path) -> None:
    async def watch() -> None:
        with replica(tmp_path, BOTH) as (exchange, clock):
            async with (
                client(exchange, "/stream?streams=btcusdt@trade/ethusdt@trade") as combined,
                client(exchange, "/ws/ethusdt@trade") as single,
                client(exchange, "/ws/btcusdt@trade/ethusdt@trade") as several,
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{exchange.url}/stream?streams=btcusdt@trade") as foreign,
            ):
                clock.advance(1.5)
                assert await texts(combined, 12) == frames_of(BOTH)[:12]
                clock.advance(100)
                assert await texts(combined, 48) == frames_of(BOTH)[12:]
                assert await texts(single, 30) == [data_of(line) for line in ETH]
                assert await texts(several, 60) == [data_of(line) for line in BOTH]
                found = [(await foreign.receive()).data for _ in range(30)]
                assert found == frames_of(BTC)
                assert await silent(combined)

    within(watch())


def test_streams_are_added_listed_and_left(tmp_path: Path) -> None:
    async def watch() -> None:
        with replica(tmp_path, BOTH) as (exchange, clock):
            async with client(exchange, "/ws") as socket:
                done = {"result": None, "id": 7}
                names = ["btcusdt@trade", "ethusdt@trade"]
                assert await say(socket, "SUBSCRIBE", *names, id=7) == done
                clock.advance(1)
                assert await texts(socket, 2) == [data_of(line) for line in BOTH[:2]]
                assert (await say(socket, "LIST_SUBSCRIPTIONS", id="x"))["result"] == names
                assert await say(socket, "UNSUBSCRIBE", "btcusdt@trade", id=7) == done
                assert await say(socket, "SET_PROPERTY", "combined", True, id=7) == done
                clock.advance(0.1)
                assert await texts(socket, 1) == frames_of(ETH[1:2])
                assert (await say(socket, "GET_PROPERTY", "combined"))["result"] is True
                clock.advance(10)
                assert await texts(socket, 28) == frames_of(ETH[2:])

    within(watch())


def test_a_second_listener_gets_what_comes_from_then_on(tmp_path: Path) -> None:
    async def watch() -> None:
        with replica(tmp_path, BTC) as (exchange, clock):
            async with client(exchange, "/ws/btcusdt@trade") as first:
                clock.advance(2.05)
                assert len(await texts(first, 11)) == 11
                async with client(exchange, "/ws/btcusdt@trade") as second:
                    clock.advance(100)
                    assert await texts(second, 19) == await texts(first, 19)

    within(watch())


def test_mistakes_are_answered_and_the_connection_goes_on(tmp_path: Path) -> None:
    async def watch() -> None:
        with replica(tmp_path, [FUTURES]) as (exchange, _):
            async with client(exchange, "/fapi/ws") as socket:
                assert await say(socket, "SUBSCRIBE", "nonsense", id=3) == {
                    "error": {"code": 2, "msg": "Invalid request: invalid stream"}, "id": 3,
                }  # fmt: skip
                await socket.send("{")
                (answer,) = await texts(socket, 1)
                assert json.loads(answer)["error"]["code"] == 3
                many = [f"s{number}usdt@trade" for number in range(1025)]
                assert await say(socket, "SUBSCRIBE", *many) == {
                    "error": {"code": 4, "msg": "Too many subscriptions"}, "id": 1,
                }  # fmt: skip
                assert await say(socket, "SUBSCRIBE", *many[:1024]) == {"result": None, "id": 1}
                assert "error" in await say(socket, "SUBSCRIBE", many[1024])
                assert len((await say(socket, "LIST_SUBSCRIPTIONS"))["result"]) == 1024
            async with client(exchange, "/ws/nonsense") as socket:
                (answer,) = await texts(socket, 1)
                assert json.loads(answer)["error"]["code"] == 2
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
                assert socket.close_code == 1008
            with pytest.raises(InvalidStatus) as refused:
                async with client(exchange, "/nothing"):
                    pass
            assert refused.value.response.status_code == 404

    within(watch())


@pytest.mark.parametrize(("path", "most"), [("/ws", 5), ("/fapi/ws", 10), ("/dapi/ws", 10)])
def test_one_message_too_many_in_a_second_ends_it(tmp_path: Path, path: str, most: int) -> None:
    async def watch() -> None:
        with replica(tmp_path, BTC) as (exchange, clock):
            async with client(exchange, path) as socket:
                for _ in range(2):
                    for _ in range(most):
                        assert (await say(socket, "LIST_SUBSCRIPTIONS"))["result"] == []
                    clock.advance(1)
                for _ in range(most + 1):
                    await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
                await texts(socket, most)
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(socket.recv(), 10)
                assert (socket.close_code, socket.close_reason) == (1008, "Too many requests")

    within(watch())


def test_too_many_connections_in_five_minutes_are_refused(tmp_path: Path) -> None:
    assert {(one.connects_max, one.connects_window_s) for one in LIMITS.values()} == {(300, 300)}
    few = {market: replace(one, connects_max=3) for market, one in LIMITS.items()}

    async def connects(exchange: ReplicaExchange) -> int | None:
        try:
            async with client(exchange, "/ws"):
                return None
        except InvalidStatus as error:
            return error.response.status_code

    async def watch() -> None:
        with replica(tmp_path, BTC, stream_limits=few) as (exchange, clock):
            assert [await connects(exchange) for _ in range(4)] == [None, None, None, 429]
            clock.advance(299)
            assert await connects(exchange) == 429
            # Refusals count: who goes on asking stays out.
            clock.advance(2)
            assert [await connects(exchange) for _ in range(2)] == [None, None]

    within(watch())


def test_pings_want_their_own_payload_back(tmp_path: Path) -> None:
    async def watch() -> None:
        with replica(tmp_path, BTC) as (exchange, clock):
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{exchange.url}/ws", autoping=False) as socket,
            ):
                for _ in range(3):
                    clock.advance(20)
                    ping = await socket.receive()
                    assert ping.type is aiohttp.WSMsgType.PING
                    assert bytes(ping.data) == str(clock.now_us() // 1000).encode()
                    await socket.pong(bytes(ping.data))
                    await until_answered(exchange)
                clock.advance(20)
                assert (await socket.receive()).type is aiohttp.WSMsgType.PING
                # Not what was asked for.
                await socket.pong(b"")
                clock.advance(60)
                received = await socket.receive()
                while received.type is aiohttp.WSMsgType.PING:
                    received = await socket.receive()
                assert (socket.close_code, received.extra) == (1008, "Pong timeout")

    async def until_answered(exchange: ReplicaExchange) -> None:
        connection = next(iter(exchange.streams._connections.values()))
        await until(lambda: connection._ping is None)

    within(watch())


def test_a_client_that_answers_pings_stays_a_day(tmp_path: Path) -> None:
    """And is told ten minutes before it must go; a client of futures is not."""

    async def watch() -> None:
        with replica(tmp_path, BTC) as (exchange, clock):
            async with (
                client(exchange, "/ws") as spot,
                client(exchange, "/fapi/stream") as futures,
            ):
                for _ in range(5):
                    clock.advance(60)
                    await asyncio.sleep(0.02)
                clock.advance(86_400 - 600 - 300)
                (told,) = await texts(spot, 1)
                assert json.loads(told) == {"e": "serverShutdown", "E": clock.now_us() // 1000}
                clock.advance(600)
                for socket in (spot, futures):
                    with pytest.raises(ConnectionClosed):
                        await asyncio.wait_for(socket.recv(), 10)
                    assert socket.close_code == 1001

    within(watch())


def test_all_connections_end_at_once(tmp_path: Path) -> None:
    async def watch() -> None:
        with replica(tmp_path, BTC) as (exchange, clock):
            async with (
                client(exchange, "/ws/btcusdt@trade") as one,
                client(exchange, "/stream?streams=btcusdt@trade") as two,
                client(exchange, "/fapi/ws") as other,
            ):
                assert exchange.streams.shut_down("ws", in_s=60) == 1
                assert json.loads((await texts(one, 1))[0])["e"] == "serverShutdown"
                assert exchange.streams.cut("stream") == 1
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(two.recv(), 10)
                assert two.close_code == 1006  # without a handshake
                assert exchange.streams.cut("fapi/*", "close") == 1
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(other.recv(), 10)
                assert other.close_code == 1001
                clock.advance(60)
                assert len(await texts(one, 30)) == 30
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(one.recv(), 10)

    within(watch())


def test_a_client_that_does_not_read_holds_the_others_up_and_then_is_gone(tmp_path: Path) -> None:
    lines = [line.replace('"M":true', f'"M":"{"x" * 4000}"') for line in trades("BTCUSDT", 5000)]
    hasty = {market: replace(one, slow_real_s=0.2) for market, one in LIMITS.items()}

    async def watch() -> None:
        with replica(tmp_path, lines, stream_limits=hasty) as (exchange, clock):
            async with (
                client(exchange, "/ws/btcusdt@trade") as reads,
                client(exchange, "/ws/btcusdt@trade", max_queue=1),
            ):
                clock.advance(1000)
                assert await texts(reads, 5000) == [data_of(line) for line in lines]
                await until(lambda: len(exchange.streams.state()["connections"]) == 1)
            assert [p["fault"] for p in exchange.streams.planted()] == ["slow_consumer"]

    within(watch())


def get(exchange: ReplicaExchange, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"{exchange.url}/{path}", data, timeout=20) as reply:
        return json.loads(reply.read())


def test_another_process_moves_the_clock_and_ends_connections(tmp_path: Path) -> None:
    async def watch() -> None:
        with replica(tmp_path, BTC) as (exchange, clock):
            async with client(exchange, "/ws/btcusdt@trade") as socket:
                asked = asyncio.to_thread
                told = await asked(get, exchange, "_control/clock", {"advance_s": 1})
                assert told == {"now_us": START_US, "speed": 0}
                assert len(await texts(socket, 1)) == 1
                await asked(get, exchange, "_control/clock", {"speed": 1000})
                assert len(await texts(socket, 29)) == 29
                assert (await asked(get, exchange, "_control/clock"))["now_us"] > START_US
                (one,) = (await asked(get, exchange, "_control/streams"))["connections"]
                assert (one["path"], one["streams"], one["sent"] >= 30) == (
                    "ws", ["btcusdt@trade"], True,
                )  # fmt: skip
                cut = {"do": "cut", "match": "ws"}
                assert (await asked(get, exchange, "_control/streams", cut))["connections"] == 1
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(socket.recv(), 10)
                planted = (await asked(get, exchange, "_control/planted"))["planted"]
                assert [(p["fault"], p["where"]) for p in planted] == [("connection_cut", "ws")]
                for wrong in (
                    ("clock", {"speed": -1}), ("clock", {}), ("clock", {"hour": 3}),
                    ("clock", {"now_us": 1}), ("streams", {"do": "sing"}),
                    ("streams", {"do": "cut", "how": "gently"}),
                ):  # fmt: skip
                    with pytest.raises(urllib.error.HTTPError) as refused:
                        await asked(get, exchange, f"_control/{wrong[0]}", wrong[1])
                    assert refused.value.code == 400
                    refused.value.close()
                assert clock.speed == 1000

    within(watch())


def rows(key: str) -> list[list[str]]:
    blob = MARKET.read(key)
    assert blob is not None
    with zipfile.ZipFile(io.BytesIO(blob.bytes())) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    return [cells for cells in csv.reader(text.splitlines()) if cells[0].isdigit()]


def test_rows_of_the_archive_are_streamed_as_they_happen() -> None:
    """Trades and closed bars of an hour are those of the zips; no bar closes before it is over."""
    start = datetime(2024, 5, 1, 6, tzinfo=UTC)
    start_ms = int(start.timestamp()) * 1000
    name = quote("币安人生usdt")
    clock = ReplayClock(start_ms * 1000, speed=0)

    async def watch(exchange: ReplicaExchange) -> list[tuple[int, Any]]:
        streams = f"{name}@aggTrade/{name}@kline_1m/{name}@kline_1h"
        found: list[tuple[int, Any]] = []
        async with client(exchange, f"/fapi/stream?streams={streams}") as socket:
            for _ in range(60):
                clock.advance(60)
                now_ms = clock.now_us() // 1000
                # The bar of this minute ends what it has sent.
                while not (found and found[-1][0] == now_ms and closes(found[-1][1], now_ms)):
                    (text,) = await texts(socket, 1)
                    found.append((now_ms, json.loads(text)["data"]))
            (text,) = await texts(socket, 1)  # the hour's
            return [*found, (now_ms, json.loads(text)["data"])]

    def closes(data: Any, now_ms: int) -> bool:
        return bool(data["e"] == "kline" and data["k"]["i"] == "1m" and data["E"] == now_ms)

    with ReplicaExchange(MARKET, clock=clock) as exchange:
        found = within(watch(exchange))
    assert all(data["E"] <= now_ms for now_ms, data in found)
    end_ms = start_ms + 3_600_000
    key = "data/futures/um/daily/{0}/币安人生USDT/{1}币安人生USDT-{2}-2024-05-01.zip"
    wanted = [
        cells for cells in rows(key.format("aggTrades", "", "aggTrades"))
        if start_ms <= int(cells[5]) < end_ms
    ]  # fmt: skip
    trades_ = [data for _, data in found if data["e"] == "aggTrade"]
    assert [str(one["a"]) for one in trades_] == [cells[0] for cells in wanted]
    assert [float(one["q"]) for one in trades_] == [float(cells[2]) for cells in wanted]
    for interval, count in (("1m", 60), ("1h", 1)):
        bars = [
            data["k"] for _, data in found
            if data["e"] == "kline" and data["k"]["t"] >= start_ms
        ]  # fmt: skip
        closed = [bar for bar in bars if bar["x"] and bar["i"] == interval]
        wanted = [
            cells for cells in rows(key.format("klines", f"{interval}/", interval))
            if start_ms <= int(cells[0]) < end_ms
        ]  # fmt: skip
        assert len(wanted) == count
        for bar, cells in zip(closed, wanted, strict=True):
            assert [bar[name] for name in "tTochln"] == [
                int(cells[0]), int(cells[6]), cells[1], cells[4], cells[2], cells[3],
                int(cells[8]),
            ]  # fmt: skip
            assert [float(bar[name]) for name in "vqVQ"] == [
                float(cells[at]) for at in (5, 7, 9, 10)
            ]
        assert any(not bar["x"] and bar["i"] == interval for bar in bars)


class BrokenDisk:
    """An archive whose files cannot be read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(MARKET, name)

    def read(self, key: str) -> Any:
        raise OSError("the disk is gone")


def test_an_archive_that_fails_ends_the_replay_loudly() -> None:
    clock = ReplayClock(START_US, speed=0)

    async def watch(exchange: ReplicaExchange) -> None:
        async with client(exchange, "/ws/btcusdt@aggTrade") as socket:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), 10)
            assert socket.close_code == 1011

    exchange = ReplicaExchange(BrokenDisk(), clock=clock).start()
    within(watch(exchange))
    with pytest.raises(OSError, match="the disk is gone"):
        exchange.stop()
