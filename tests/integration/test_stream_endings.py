"""How connections to the websocket end, and what is left of them: pings, servers that go, streams that
are given up on the way."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars
from support.served import Served, running, source_at
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from lakehouse_ray.serve.app import create_app
from lakehouse_ray.serve.streams.hub import StreamLimits

pytestmark = pytest.mark.integration

TWO = "btcusdt@kline_1h/ethusdt@kline_1h"
CLOSE, PING, PONG = 8, 9, 10
Message = dict[str, Any]


@pytest.fixture
def lake(tmp_path: Path) -> BarLake:
    made = BarLake(tmp_path / "home")
    made.put(bars("BTCUSDT", "2024-01-01", 3), bars("ETHUSDT", "2024-01-01", 3))
    return made


def serve(stack: ExitStack, lake: BarLake, **limits: Any) -> tuple[ExitStack, Served]:
    """A server of its own, which ends with what is returned first."""
    own = stack.enter_context(ExitStack())
    app = create_app(source_at(lake.home), streams=StreamLimits(poll_s=0.05, **limits))
    return own, own.enter_context(running(app))


def address(served: Served, path: str) -> str:
    return served.url.replace("http://", "ws://") + path


def told(work: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(30):
            return await work()

    return asyncio.run(within())


def opened(served: Served) -> socket.socket:
    """A websocket by hand: it answers nothing by itself."""
    host, port = served.url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)), timeout=20)
    key = base64.b64encode(os.urandom(16)).decode()
    made.sendall(
        f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += made.recv(1)
    assert b" 101 " in answer
    return made


def frame(made: socket.socket) -> tuple[int, bytes]:
    """The next short frame: its kind and what is in it."""
    head = made.recv(2, socket.MSG_WAITALL)
    size = head[1] & 0x7F
    return head[0] & 0x0F, made.recv(size, socket.MSG_WAITALL) if size else b""


def test_who_answers_no_ping_is_closed_and_who_does_is_not(lake: BarLake) -> None:
    with ExitStack() as stack:
        _, served = serve(stack, lake, ping_every_s=0.2, pong_within_s=0.6)
        with opened(served) as silent, opened(served) as awake:
            kind, _ = frame(silent)
            assert kind == PING
            pinged_s = time.monotonic()
            ended: tuple[int, bytes] | None = None
            while ended is None or time.monotonic() < pinged_s + 2:
                kind, said = frame(awake)
                assert kind == PING
                mask = os.urandom(4)
                spelled = bytes(b ^ mask[i % 4] for i, b in enumerate(said))
                awake.sendall(bytes([0x80 | PONG, 0x80 | len(said)]) + mask + spelled)
                if ended is None:
                    silent.settimeout(0.01)
                    try:
                        found = frame(silent)
                    except TimeoutError:
                        continue
                    ended = found if found[0] == CLOSE else None
        assert ended is not None
        assert struct.unpack(">H", ended[1][:2])[0] == 1011


async def rest(client: ClientConnection) -> list[Message]:
    found = []
    try:
        while True:
            found.append(json.loads(await client.recv()))
    except ConnectionClosed:
        return found


def test_a_stream_that_is_left_in_a_replay_is_told_no_more_and_the_others_all_the_same(
    lake: BarLake,
) -> None:
    async def talk(served: Served) -> tuple[list[Message], list[Message]]:
        url = address(served, f"/stream?streams={TWO}&start=2024-01-01&end=2024-01-03")
        async with connect(url + "&after=close") as client:
            everything = await rest(client)
        async with connect(url + "&speed=36000&after=close") as client:
            found = [json.loads(await client.recv()) for _ in range(6)]
            leave = {"method": "UNSUBSCRIBE", "params": ["ethusdt@kline_1h"], "id": 7}
            await client.send(json.dumps(leave))
            return everything, found + await rest(client)

    with ExitStack() as stack:
        _, served = serve(stack, lake)
        everything, found = told(lambda: talk(served))
    answer = next(place for place, one in enumerate(found) if "result" in one)
    assert found[answer] == {"result": None, "id": 7}
    before, after = found[:answer], found[answer + 1 :]
    # Up to there all, from there on all of the other one.
    assert before == everything[: len(before)]
    left = [one for one in everything[len(before) :] if one["stream"] == "btcusdt@kline_1h"]
    assert left
    assert after == left


def test_another_server_goes_on_with_the_next_event_of_one_that_stopped(lake: BarLake) -> None:
    """In a replay, and among rows as they are committed."""

    def same(found: list[Message]) -> list[Any]:
        # Notices say when they were told.
        return [(one["stream"], one["seq"], one["data"] | {"E": 0}) for one in found]

    async def until_stopped(
        url: str, count: int, stop: Callable[[], None], commit: Callable[[], None] | None = None
    ) -> Any:
        """commit: Once the first of so many messages is there."""
        async with connect(url) as client:
            found = [json.loads(await client.recv())]
            if commit is not None:
                await asyncio.to_thread(commit)
            found += [json.loads(await client.recv()) for _ in range(count - 1)]
            await asyncio.to_thread(stop)
            found += await rest(client)
            return found, client.close_code

    async def replay(url: str) -> list[Message]:
        async with connect(url) as client:
            return await rest(client)

    async def follow(url: str, count: int) -> list[Message]:
        async with connect(url) as client:
            return [json.loads(await client.recv()) for _ in range(count)]

    query = f"/stream?streams={TWO}&events=true"
    with ExitStack() as stack:
        first, going = serve(stack, lake)
        second, staying = serve(stack, lake)
        replayed = query + "&start=2024-01-01&end=2024-01-04"
        everything = told(lambda: replay(address(staying, replayed)))
        slow = address(going, replayed + "&speed=36000")
        found, code = told(lambda: until_stopped(slow, 5, first.close))
        assert code == 1001
        resumed = address(staying, f"{replayed}&resume={found[-1]['resume']}")
        assert same(found + told(lambda: replay(resumed))) == same(everything)

        def commit() -> None:
            lake.put(bars("BTCUSDT", "2024-01-05", 0.2, holes=0))

        url = address(staying, query)
        found, code = told(lambda: until_stopped(url, 6, second.close, commit))
        assert code == 1001
        assert [one["data"]["e"] for one in found] == ["live", *["kline"] * 5]
        lake.put(bars("ETHUSDT", "2024-01-05", 0.1, holes=0))
        _, third = serve(stack, lake)
        again = address(third, f"{query}&resume={found[3]['resume']}")
        later = told(lambda: follow(again, 5))
    assert [one["data"]["e"] for one in later] == ["live", *["kline"] * 4]
    assert same(later)[1:3] == same(found)[4:]
    assert [one["seq"] for one in later[1:]] == [4, 5, 6, 7]
    assert {one["data"]["s"] for one in later[3:]} == {"ETHUSDT"}
