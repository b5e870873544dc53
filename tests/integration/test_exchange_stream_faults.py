"""Every fault of the replica's streams is seen by a client, and noted as it was planted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.replica_streams import (
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
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lakehouse_ray.testing.exchange import Faults, ReplayClock, ReplicaExchange, Rule

pytestmark = pytest.mark.integration

BTC = trades("BTCUSDT", 100)
FRAMES = frames_of(BTC)
KEY = "ws/btcusdt@trade"
Planted = list[dict[str, Any]]


def ids(messages: list[Any]) -> list[int]:
    return [json.loads(message)["data"]["t"] for message in messages]


def heard(folder: Path, rule: Rule, count: int, seconds: float = 1000) -> tuple[list[Any], Planted]:
    """What a client of a combined stream gets under a rule, and what was planted."""

    async def listen() -> tuple[list[Any], Planted]:
        with replica(folder, BTC, rule) as (exchange, clock):
            async with client(exchange, "/stream?streams=btcusdt@trade") as socket:
                clock.advance(seconds)
                found = await texts(socket, count)
                assert await silent(socket, 0.05)
                return found, exchange.streams.planted()

    return within(listen())


def planted_ids(planted: Planted) -> list[int]:
    return [json.loads(one["body"])["t"] for one in planted]


def test_duplicates_come_twice(tmp_path: Path) -> None:
    found, planted = heard(tmp_path, Rule(KEY, "message_duplicated", times=3, probability=0.2), 103)
    twice = planted_ids(planted)
    assert len(twice) == 3
    assert ids(found) == sorted([*range(100), *twice])


def test_skipped_ids_are_gone(tmp_path: Path) -> None:
    rule = Rule(KEY, "messages_skipped", times=2, probability=0.1, params={"messages": 3})
    found, planted = heard(tmp_path, rule, 94)
    gone = planted_ids(planted)
    assert ids(found) == [number for number in range(100) if number not in gone]
    assert [b - a for a, b in pairwise(gone)].count(1) == 4
    assert {one["fault"] for one in planted} == {"messages_skipped"}
    assert {one["where"] for one in planted} == {KEY}


def test_two_messages_change_places(tmp_path: Path) -> None:
    found, planted = heard(tmp_path, Rule(KEY, "messages_swapped", times=1), 100)
    assert planted_ids(planted) == [0]
    assert ids(found) == [1, 0, *range(2, 100)]


def test_a_late_message_comes_later(tmp_path: Path) -> None:
    """By the exchange's clock: nothing of it before."""

    async def listen() -> None:
        rule = Rule(KEY, "message_late", times=1, params={"late_s": 5.0})
        with replica(tmp_path, BTC, rule) as (exchange, clock):
            async with client(exchange, "/ws/btcusdt@trade") as socket:
                numbers = []
                for _ in range(12):
                    clock.advance(1)
                    while not await silent(socket, 0.05):
                        pass
                    numbers.append(exchange.streams.state()["connections"][0]["sent"])
                # The first at 1 s is late by 5; ten come each second.
                assert numbers[0] == 0
                assert numbers[1] == 10
                assert numbers[4] == 40
                assert numbers[5] in (50, 51)
                assert numbers[6] == 61

    within(listen())


@pytest.mark.parametrize("form", ["truncated", "not_json", "empty", "untyped", "nested"])
def test_what_is_malformed_is_no_json(tmp_path: Path, form: str) -> None:
    rule = Rule(KEY, "message_malformed", times=1, params={"form": form})
    found, planted = heard(tmp_path, rule, 100)
    with pytest.raises((ValueError, RecursionError)):
        json.loads(found[0])
    assert found[1:] == FRAMES[1:]
    assert planted_ids(planted) == [0]


def test_malformed_messages_may_be_null_or_bytes(tmp_path: Path) -> None:
    for form, wanted in (("null", "null"), ("binary", bytes(range(256)))):
        rule = Rule(KEY, "message_malformed", times=1, params={"form": form})
        found, _ = heard(tmp_path, rule, 100)
        assert found == [wanted, *FRAMES[1:]]


def test_unknown_events_come_between(tmp_path: Path) -> None:
    found, planted = heard(tmp_path, Rule(KEY, "unknown_event", times=1), 101)
    told = json.loads(found[0])
    assert (told["stream"], told["data"]["e"]) == ("btcusdt@trade", "somethingNew")
    assert found[1:] == FRAMES
    assert len(planted) == 1


def test_a_symbol_stops_in_mid_stream(tmp_path: Path) -> None:
    found, planted = heard(tmp_path, Rule(KEY, "stream_stops", params={"after": 40}), 40)
    assert found == FRAMES[:40]
    assert planted_ids(planted) == [40]


def test_rules_of_other_streams_change_nothing(tmp_path: Path) -> None:
    found, planted = heard(tmp_path, Rule("fapi/ws/*", "messages_skipped"), 100)
    assert (found, planted) == (FRAMES, [])


def test_two_runs_see_the_same(tmp_path: Path) -> None:
    async def listen() -> tuple[list[Any], list[int]]:
        with replica(tmp_path, BTC, Rule(KEY, "messages_skipped", probability=0.1)) as (
            exchange, clock,
        ):  # fmt: skip
            async with client(exchange, "/ws/btcusdt@trade") as socket:
                clock.advance(1000)
                found = await texts(socket, 70)
                await until(lambda: exchange.streams.state()["sent"] == 100)
                await say(socket, "LIST_SUBSCRIPTIONS")
                return found, planted_ids(exchange.streams.planted())

    first, second = within(listen()), within(listen())
    assert first == second
    assert 3 < len(first[1]) < 30


Scene = Callable[[ReplicaExchange, ReplayClock, ClientConnection], Awaitable[None]]


def play(folder: Path, rule: Rule, scene: Scene, path: str = "/ws/btcusdt@trade") -> Planted:
    async def act() -> Planted:
        with replica(folder, BTC, rule) as (exchange, clock):
            async with client(exchange, path) as socket:
                await scene(exchange, clock, socket)
            return exchange.streams.planted()

    return within(act())


def test_a_connection_stalls_but_answers_pings(tmp_path: Path) -> None:
    async def scene(
        exchange: ReplicaExchange, clock: ReplayClock, socket: ClientConnection
    ) -> None:
        clock.advance(3.05)
        assert len(await texts(socket, 11)) == 11
        clock.advance(4)
        assert await silent(socket)
        await asyncio.wait_for(await socket.ping(), 10)
        assert (await say(socket, "LIST_SUBSCRIPTIONS"))["result"] == ["btcusdt@trade"]
        clock.advance(100)
        (text,) = await texts(socket, 1)
        assert json.loads(text)["t"] > 41

    params = {"after_s": 2.05, "for_s": 4.0}
    planted = play(tmp_path, Rule("ws", "connection_stalls", params=params), scene)
    assert [one["fault"] for one in planted] == ["connection_stalls", "connection_stalls_over"]


def test_a_half_open_connection_says_and_hears_nothing(tmp_path: Path) -> None:
    async def scene(
        exchange: ReplicaExchange, clock: ReplayClock, socket: ClientConnection
    ) -> None:
        clock.advance(2.05)
        assert len(await texts(socket, 11)) == 11
        clock.advance(100_000)
        assert await silent(socket)
        pong = await socket.ping()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pong, 0.2)
        await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        assert await silent(socket)
        assert len(exchange.streams.state()["connections"]) == 1
        began_s = time.monotonic()
        await socket.close()
        # Its closing was not answered: the client had to give up.
        assert time.monotonic() - began_s > 1.5
        await until(lambda: not exchange.streams.state()["connections"])

    planted = play(tmp_path, Rule("ws", "half_open", params={"after_s": 2.05}), scene)
    assert [one["fault"] for one in planted] == ["half_open"]


@pytest.mark.parametrize(("how", "code"), [("abort", 1006), ("close", 1001)])
def test_a_connection_is_cut(tmp_path: Path, how: str, code: int) -> None:
    async def scene(
        exchange: ReplicaExchange, clock: ReplayClock, socket: ClientConnection
    ) -> None:
        clock.advance(2.05)
        await texts(socket, 11)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
        assert socket.close_code == code
        # Of each path the first one alone.
        async with client(exchange, "/ws/btcusdt@trade") as again:
            clock.advance(100)
            assert len(await texts(again, 89)) == 89

    rule = Rule("ws", "connection_cut", times=1, params={"after_s": 2.05, "how": how})
    assert len(play(tmp_path, rule, scene)) == 1


def test_a_start_may_be_slow(tmp_path: Path) -> None:
    async def act() -> None:
        rule = Rule("ws", "slow_start", params={"handshake_s": 3.0, "first_s": 2.0})
        with replica(tmp_path, BTC, rule) as (exchange, clock):
            opened = asyncio.Event()

            async def hear() -> Any:
                async with client(exchange, "/ws/btcusdt@trade") as socket:
                    opened.set()
                    return (await texts(socket, 1))[0]

            hearing = asyncio.ensure_future(hear())
            await asyncio.sleep(0.1)
            assert not opened.is_set()
            clock.advance(3)
            await asyncio.wait_for(opened.wait(), 10)
            clock.advance(1.9)
            await asyncio.sleep(0.1)
            assert not hearing.done()
            clock.advance(100)
            assert json.loads(await hearing)["t"] >= 40

    within(act())


def test_a_handshake_may_be_refused_as_any_answer(tmp_path: Path) -> None:
    async def act() -> None:
        rule = Rule("ws*", "throttled", times=1, params={"retry_after_s": 7})
        with replica(tmp_path, BTC, rule) as (exchange, _):
            with pytest.raises(InvalidStatus) as refused:
                async with client(exchange, "/ws"):
                    pass
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["Retry-After"] == "7"
            async with client(exchange, "/ws"):
                pass
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{exchange.url}/ws") as plain,
            ):
                assert plain.status == 400

    within(act())


def test_rules_change_while_connections_are_open(tmp_path: Path) -> None:
    async def act() -> None:
        with replica(tmp_path, BTC) as (exchange, clock):
            async with client(exchange, "/ws/btcusdt@trade") as socket:
                clock.advance(2.05)
                assert len(await texts(socket, 11)) == 11
                exchange.set_faults(Faults((Rule(KEY, "messages_skipped", times=2),)))
                clock.advance(1)
                assert [json.loads(text)["t"] for text in await texts(socket, 8)] == [
                    *range(13, 21)
                ]
                exchange.set_faults(Faults())
                clock.advance(1)
                assert len(await texts(socket, 10)) == 10

    within(act())
