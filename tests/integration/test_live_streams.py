"""Live rows reach who listens once, whatever becomes of them in the tables."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.live_lake import LiveLake
from support.live_rows import live_rows, version
from support.served import Served, serving
from websockets.asyncio.client import ClientConnection, connect

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import MINUTE_US, parse_time
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.serve.streams.hub import StreamLimits

pytestmark = pytest.mark.integration

KLINES, AGG_TRADES = DATASETS["klines"], DATASETS["aggTrades"]
START_US = parse_time("2024-05-31T23:50")
STREAMS = "btcusdt@kline_1m/btcusdt@aggTrade"


@pytest.fixture
def lake(tmp_path: Path) -> LiveLake:
    made = LiveLake(tmp_path)
    put(made, made.merge, 0, 5)
    return made


@pytest.fixture
def served(lake: LiveLake) -> Iterator[Served]:
    with serving(lake.home, streams=StreamLimits(poll_s=0.05)) as served:
        yield served


def put(
    lake: LiveLake,
    into: Callable[..., Any],
    first: int,
    last: int,
    value: float = 1,
    second: int = 1,
) -> None:
    rows = [(START_US + n * MINUTE_US, value, version(second)) for n in range(first, last)]
    for dataset, interval in ((KLINES, "1m"), (AGG_TRADES, None)):
        frame = live_rows(dataset, rows, source="stream", market="spot", interval=interval)
        into(dataset, frame)


async def hear(client: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        return [json.loads(await client.recv()) for _ in range(count)]


async def silence(client: ClientConnection) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            pytest.fail(f"told {await client.recv()!r}")


def minutes(found: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """What each event is of, and the minute."""
    told = []
    for one in found:
        data = one["data"]
        time_ms = data["k"]["t"] if data["e"] == "kline" else data["T"]
        told.append((data["e"], (time_ms - START_US // 1000) // 60_000))
    return sorted(told)


def both(first: int, last: int) -> list[tuple[str, int]]:
    return sorted((kind, n) for kind in ("kline", "aggTrade") for n in range(first, last))


def test_who_follows_hears_of_each_row_once_and_of_no_folding(
    lake: LiveLake, served: Served
) -> None:
    async def follow() -> None:
        url = served.url.replace("http://", "ws://") + f"/stream?streams={STREAMS}&events=true"
        async with connect(url) as client:
            (notice,) = await hear(client, 1)
            assert notice["data"]["e"] == "live"
            await asyncio.to_thread(put, lake, lake.append, 5, 8)
            assert minutes(await hear(client, 6)) == both(5, 8)
            await asyncio.to_thread(put, lake, lake.append, 5, 8)
            await silence(client)
            await asyncio.to_thread(fold, lake.writer())
            await silence(client)
            await asyncio.to_thread(put, lake, lake.append, 8, 9)
            last = await hear(client, 2)
            assert minutes(last) == both(8, 9)
        resumed = f"{url}&resume={last[0]['resume']}"
        async with connect(resumed) as client:
            again = await hear(client, 2)
            assert again[0]["data"]["e"] == "live"
            assert again[1]["data"] == last[1]["data"]
            await asyncio.to_thread(put, lake, lake.merge, 8, 9, 2, 5)
            found = await hear(client, 2)
            assert {one["data"]["cause"] for one in found} == {"changed"}

    asyncio.run(follow())


def test_a_replay_has_live_rows_in_their_place(lake: LiveLake, served: Served) -> None:
    async def replay(**more: str) -> list[dict[str, Any]]:
        asked = "".join(f"&{name}={value}" for name, value in more.items())
        url = served.url.replace("http://", "ws://") + f"/stream?streams={STREAMS}{asked}"
        async with connect(f"{url}&end=2024-06-02&after=close") as client:
            return [json.loads(message) async for message in client]

    put(lake, lake.append, 3, 12)
    found = asyncio.run(replay())
    assert minutes(found) == both(0, 12)
    fold(lake.writer())
    assert [one["data"] for one in asyncio.run(replay())] == [one["data"] for one in found]
