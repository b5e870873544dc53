"""A replica exchange that plays a small recording, and clients of its websockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect

from lakehouse_ray.testing.exchange import (
    Faults,
    Recording,
    ReplayClock,
    ReplicaExchange,
    Rule,
    SyntheticArchive,
)

T = TypeVar("T")
START_S = 1_714_564_800  # 2024-05-01T12:00Z
START_US = START_S * 1_000_000
MARKET = SyntheticArchive(
    symbols=["BTCUSDT", "币安人生USDT", "BTCUSD_PERP"],
    start=date(2024, 5, 1),
    end=date(2024, 5, 3),
)
WAIT_S = 20.0


def trades(symbol: str, count: int, *, first: int = 0, every_s: float = 0.1) -> list[str]:
    """Lines of trades with consecutive ids, from the first second on."""
    return [
        f"{START_S + number * every_s:.6f}: "
        f'{{"stream":"{symbol.lower()}@trade","data":{{"e":"trade",'
        f'"E":{START_S * 1000 + round(number * every_s * 1000)},"s":"{symbol}","t":{first + number},'
        f'"p":"61837.63000000","q":"0.02000000","T":{START_S * 1000},"m":true,"M":true}}}}'
        for number in range(count)
    ]


def frames_of(lines: list[str]) -> list[str]:
    return [line.partition(": ")[2] for line in lines]


@contextlib.contextmanager
def replica(
    folder: Path, lines: list[str], *rules: Rule, **how: Any
) -> Iterator[tuple[ReplicaExchange, ReplayClock]]:
    """One that plays these lines; its clock stands still a second before them."""
    path = folder / "recorded.txt"
    path.write_text("\n".join(lines))
    clock = ReplayClock(START_US - 1_000_000, speed=0)
    recording = Recording([path])
    faults = Faults(tuple(rules), seed=1)
    with ReplicaExchange(MARKET, faults, recording=recording, clock=clock, **how) as exchange:
        yield exchange, clock


@contextlib.asynccontextmanager
async def client(
    exchange: ReplicaExchange, path: str, **how: Any
) -> AsyncIterator[ClientConnection]:
    """A client nobody here wrote; of a queue that cannot be full, or closing waits for its reader."""
    url = exchange.url.replace("http://", "ws://") + path
    how = {"max_queue": None, "ping_interval": None, "close_timeout": 2, **how}
    async with connect(url, **how) as socket:
        yield socket


async def say(socket: ClientConnection, method: str, *params: Any, id: Any = 1) -> Any:
    """Send a command and give the next message."""
    await socket.send(json.dumps({"method": method, "params": list(params), "id": id}))
    return json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))


async def texts(socket: ClientConnection, count: int) -> list[Any]:
    """The next messages, as they came."""
    return [await asyncio.wait_for(socket.recv(), WAIT_S) for _ in range(count)]


async def silent(socket: ClientConnection, seconds: float = 0.15) -> bool:
    """Whether nothing comes for a while."""
    try:
        await asyncio.wait_for(socket.recv(), seconds)
    except TimeoutError:
        return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - a state in another thread
            await asyncio.sleep(0.005)


def within(work: Awaitable[T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(bounded())
