"""What connections hand over: every frame, in the order in which all of them came, between its marks."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from pathlib import Path

import pytest
from aiohttp import web

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.settings import Settings
from lakehouse_ray.silver.stream_segment import streams_of
from lakehouse_ray.sources.binance.streams.connections import Connections
from lakehouse_ray.sources.binance.streams.session import ConnectPace, SessionRules
from lakehouse_ray.sources.turns import Turns

pytestmark = pytest.mark.integration
FRAMES = 40


class Kept:
    """A sink that keeps what it was given, in the order in which it was."""

    def __init__(self) -> None:
        self.said: list[tuple[int, int, str]] = []

    def frames(self, received_us: list[int], connections: list[int], data: list[bytes]) -> None:
        for us, connection, frame in zip(received_us, connections, data, strict=True):
            self.said.append((us, connection, json.loads(frame)["data"]))

    def mark(self, received_us: int, connection: int, what: str) -> None:
        self.said.append((received_us, connection, what.partition(" ")[0]))

    def unheard(self, received_us: int, connection: int, since_us: int, names: list[str]) -> None:
        """Said beside `opened`."""

    def tick(self) -> None: ...


async def hear(home: Path) -> list[tuple[int, int, str]]:
    """Two connections to a server that says something on both in turn, and closes one of them."""
    sockets: dict[str, web.WebSocketResponse] = {}
    heard, over = asyncio.Event(), asyncio.Event()

    async def listened(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sockets[request.query["streams"]] = socket
        if len(sockets) == 2:
            heard.set()
        await over.wait()
        return socket

    app = web.Application()
    app.router.add_get("/stream", listened)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    streams = streams_of("um", ["ausdt@trade", "busdt@trade"])
    kept, stop, rng = Kept(), asyncio.Event(), random.Random(1)
    account = Writer(Settings(home=home)).budget()
    connections = Connections(
        address, "um", streams, kept, per_connection_max=1, rules=SessionRules(),
        pace=ConnectPace(0.0), turns=Turns(account, rng), clock=SystemClock(), rng=rng,
    )  # fmt: skip
    running = asyncio.create_task(connections.run(stop))
    await heard.wait()
    for number in range(FRAMES):
        for name, socket in sockets.items():
            await socket.send_json({"stream": name, "data": f"{name[0]}{number}"})
        await asyncio.sleep(0.004)
    await sockets["ausdt@trade"].close()
    stop.set()
    await running
    over.set()
    await asyncio.to_thread(account.close)
    await runner.cleanup()
    assert connections.tally.frames == 2 * FRAMES
    return kept.said


def test_frames_of_all_connections_come_in_their_order_and_between_their_marks(
    tmp_path: Path,
) -> None:
    said = asyncio.run(hear(tmp_path))
    assert [us for us, _, _ in said] == sorted(us for us, _, _ in said)
    for connection, letter in enumerate("ab"):
        frames = [f"{letter}{number}" for number in range(FRAMES)]
        assert [what for _, of, what in said if of == connection] == ["opened", *frames, "ended"]
    # Not one connection's behind the other's.
    letters = [what[0] for _, _, what in said if what[1:].isdigit()]
    assert sum(one != other for one, other in itertools.pairwise(letters)) > FRAMES
