"""The websocket over a real lake: what `websockets`, a client nobody here wrote, gets of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import polars as pl
import pytest
from support.bars import BarLake, bars
from support.served import Served, running, serving, source_at
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_here
from websockets.typing import Origin, Subprotocol

from lakehouse_ray.access.keys import KeyFile, KeyRing
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.pipeline.maintenance import MaintenanceRequest, maintain
from lakehouse_ray.serve.app import create_app
from lakehouse_ray.serve.streams import feed as feed_module
from lakehouse_ray.serve.streams.hub import StreamLimits
from lakehouse_ray.serve.streams.tokens import Token
from lakehouse_ray.settings import load_settings

pytestmark = pytest.mark.integration

COARSE = "silver.klines_coarse"
FAST = StreamLimits(poll_s=0.05)
CLOSED = {"end": "2024-02", "after": "close"}
TWO = "btcusdt@kline_1h/ethusdt@kline_1h"
Message = dict[str, Any]


@pytest.fixture
def lake(tmp_path: Path) -> BarLake:
    made = BarLake(tmp_path / "home")
    made.put(bars("BTCUSDT", "2024-01-01", 3), bars("ETHUSDT", "2024-01-01", 3))
    made.put(bars("BTCUSDT", "2024-01-01", 0.2, interval="1m"))
    return made


@pytest.fixture
def served(lake: BarLake) -> Iterator[Served]:
    with serving(lake.home, streams=FAST) as served:
        yield served


def address(served: Served, path: str, **query: object) -> str:
    found = served.url.replace("http://", "ws://") + path
    return found + (f"?{urlencode(query, safe='/@')}" if query else "")


def told(work: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(30):
            return await work()

    return asyncio.run(within())


async def messages(client: ClientConnection) -> list[Message]:
    """All there is until the server closes."""
    found = []
    try:
        while True:
            found.append(json.loads(await client.recv()))
    except ConnectionClosed:
        return found


async def heard(served: Served, path: str, **query: object) -> tuple[list[Message], int | None]:
    async with connect(address(served, path, **query), max_size=None) as client:
        return await messages(client), client.close_code


async def ask(client: ClientConnection, method: str, params: list[Any], number: int = 1) -> Any:
    await client.send(json.dumps({"method": method, "params": params, "id": number}))
    return json.loads(await client.recv())


def expected(lake: BarLake, streams: dict[tuple[str, str], str]) -> list[tuple[str, int, float]]:
    """Stream, open time (ms) and close of stored bars in the order in which they closed."""
    table = pl.concat([lake.rows(name) for name in (COARSE, "silver.klines_fine")])
    rows = [
        (row["close_time"], streams[row["symbol"], row["interval"]], row["open_time"], row["close"])
        for row in table.iter_rows(named=True)
        if (row["symbol"], row["interval"]) in streams
    ]
    return [(name, round(t.timestamp() * 1000), close) for _, name, t, close in sorted(rows)]


def bars_of(found: list[Message]) -> list[tuple[str, int, float]]:
    return [
        (one["stream"], one["data"]["k"]["t"], float(one["data"]["k"]["c"]))
        for one in found
        if one["data"]["e"] == "kline"
    ]


NAMED = {("BTCUSDT", "1h"): "btcusdt@kline_1h", ("ETHUSDT", "1h"): "ethusdt@kline_1h",
         ("BTCUSDT", "1m"): "btcusdt@kline_1m"}  # fmt: skip


def test_a_replay_is_what_is_stored_in_the_order_of_time(lake: BarLake, served: Served) -> None:
    streams = "/".join(NAMED.values())
    found, code = told(lambda: heard(served, "/stream", streams=streams, **CLOSED))
    assert code == 1000
    assert all(set(one) == {"stream", "data"} for one in found)
    assert bars_of(found) == expected(lake, NAMED)
    times = [one["data"]["E"] for one in found]
    assert times == sorted(times)
    raw, _ = told(lambda: heard(served, "/ws/btcusdt@kline_1m", **CLOSED))
    mine = [one["data"] for one in found if one["stream"] == "btcusdt@kline_1m"]
    assert raw == mine
    assert all(one["k"]["x"] for one in mine)


def test_a_range_takes_bars_by_when_they_open(lake: BarLake, served: Served) -> None:
    span = {"start": "2024-01-02", "end": "2024-01-02T06:00", "after": "close"}
    found, _ = told(lambda: heard(served, "/stream", streams=TWO, **span))
    first = 1704153600000
    wanted = [one for one in expected(lake, NAMED)
              if one[0] in TWO.split("/") and first <= one[1] < first + 6 * 3_600_000]  # fmt: skip
    assert bars_of(found) == wanted


def test_a_replay_that_is_over_stays_open_and_tells_nothing_twice(
    lake: BarLake, served: Served
) -> None:
    """As clients of the exchange need it: they connect again when they are closed."""
    stored = expected(lake, NAMED)

    async def talk() -> tuple[list[Message], list[Message]]:
        url = address(served, "/stream", streams="btcusdt@kline_1h", end="2024-02")
        async with connect(url) as client:

            async def hear(name: str) -> list[Message]:
                count = sum(one[0] == name for one in stored)
                return [json.loads(await client.recv()) for _ in range(count)]

            first = await hear("btcusdt@kline_1h")
            await asyncio.to_thread(lake.put, bars("BTCUSDT", "2024-01-05", 0.5))
            await (await client.ping())
            subscribed = await ask(client, "SUBSCRIBE", ["ethusdt@kline_1h"])
            assert subscribed == {"result": None, "id": 1}
            second = await hear("ethusdt@kline_1h")
            for number, method in enumerate(("UNSUBSCRIBE", "SUBSCRIBE", "GET_PROPERTY"), 2):
                what = ["combined"] if method == "GET_PROPERTY" else ["btcusdt@kline_1h"]
                assert (await ask(client, method, what, number))["id"] == number
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recv(), 0.2)
            return first, second

    for found, name in zip(told(talk), TWO.split("/"), strict=True):
        assert bars_of(found) == [one for one in stored if one[0] == name]


def test_gaps_stand_where_bars_are_missing(lake: BarLake, served: Served) -> None:
    """Held against the grid: every hour of both symbols is a bar or in a gap, in its place."""
    found, _ = told(
        lambda: heard(
            served, "/stream", streams=TWO, start="2024-01-01", end="2024-01-04", events="true"
        )
    )
    assert [one["data"]["e"] for one in found][-1] == "endOfReplay"
    assert [one["seq"] for one in found[:-1]] == list(range(1, len(found)))
    hour, day = 3_600_000, 1704067200000
    for name in TWO.split("/"):
        at = day
        for one in found:
            data = one["data"]
            if one["stream"] != name:
                continue
            if data["e"] == "gap":
                assert data["start"] == at
                assert data["missing"] == (data["end"] - at) // hour
                assert data["cause"] == "unknown"
                at = data["end"]
            else:
                assert data["k"]["t"] == at
                at += hour
        assert at == day + 72 * hour

    # What was found once is not told of another version.
    lake.put(bars("BTCUSDT", "2024-01-01", 3, holes=0))
    filled, _ = told(
        lambda: heard(
            served, "/stream", streams=TWO, start="2024-01-01", end="2024-01-04", events="true"
        )
    )

    def gaps(found: list[Message]) -> list[Message]:
        return [one["data"] for one in found if one["data"]["e"] == "gap"]

    assert {gap["s"] for gap in gaps(found)} == {"BTCUSDT", "ETHUSDT"}
    assert gaps(filled) == [gap for gap in gaps(found) if gap["s"] == "ETHUSDT"]


def test_wherever_a_replay_is_cut_it_goes_on_with_the_next_event(
    lake: BarLake, served: Served
) -> None:
    """Also when rows were added, corrected and files written anew in between."""
    query = {"streams": TWO, "start": "2024-01-01", "end": "2024-01-10", "events": "true"}
    whole, _ = told(lambda: heard(served, "/stream", **query))
    lake.put(bars("BTCUSDT", "2024-01-05", 1))
    lake.rewrite(COARSE, lambda rows: rows.with_columns(close=pl.col("close") * 2))

    async def resumed(cut: int) -> list[Message]:
        found, _ = await heard(served, "/stream", **query, resume=whole[cut]["resume"])
        return found

    def same(found: list[Message]) -> list[Any]:
        # The end says when it was told.
        return [(one["stream"], one["seq"], one["data"] | {"E": 0}) for one in found]

    for cut in (0, 1, *random.Random(7).sample(range(2, len(whole)), 2)):
        assert same(told(lambda cut=cut: resumed(cut))) == same(whole[cut + 1 :]), cut


def test_history_goes_over_into_what_is_committed(lake: BarLake, served: Served) -> None:
    """Without an end nothing is lost or told twice between what was stored and what comes."""

    async def follow() -> list[Message]:
        query = {"streams": TWO, "start": "2024-01-03", "events": "true"}
        async with connect(address(served, "/stream", **query)) as client:
            found = []
            while not found or found[-1]["data"]["e"] != "live":
                found.append(json.loads(await client.recv()))
            await asyncio.to_thread(lake.put, bars("BTCUSDT", "2024-01-04", 0.5))
            await asyncio.to_thread(lake.put, bars("ETHUSDT", "2024-01-04", 0.5, holes=0))
            while found[-1]["data"].get("k", {}).get("t") != 1704366000000 or (
                found[-1]["stream"] != "ethusdt@kline_1h"
            ):
                found.append(json.loads(await client.recv()))
            return found

    found = told(follow)
    since = [one for one in expected(lake, NAMED) if one[1] >= 1704240000000]
    for name in TWO.split("/"):
        assert [one for one in bars_of(found) if one[0] == name] == [
            one for one in since if one[0] == name
        ]
    assert not [one for one in found if one["data"]["e"] == "correction"]


def test_what_is_new_is_told_from_what_was_corrected(lake: BarLake, served: Served) -> None:
    def change(rows: pl.DataFrame) -> pl.DataFrame:
        # One bar is another, one is gone, the rest is only written anew.
        rows = rows.filter(~((pl.col("symbol") == "BTCUSDT") & (pl.col("open_time") == gone)))
        changed = (pl.col("symbol") == "BTCUSDT") & (pl.col("open_time") == other)
        return rows.with_columns(close=pl.when(changed).then(1.5).otherwise("close"))

    def compact() -> None:
        # Files written together are no news.
        small = {"small_files_min": 2}
        writer = Writer(load_settings({"home": lake.home, "maintain": small}).resolved())
        written.append(
            maintain(writer, MaintenanceRequest((COARSE,), ("compact",))).total("written")
        )

    written: list[int] = []
    times = lake.rows(COARSE).filter(symbol="BTCUSDT")["open_time"].sort()
    gone, other = times[3], times[8]

    async def follow() -> tuple[list[Message], list[Message]]:
        plain = address(served, "/ws/btcusdt@kline_1h")
        full = address(served, "/ws/btcusdt@kline_1h", events="true")
        async with connect(full) as client, connect(plain) as exchange:
            found = [json.loads(await client.recv())]
            await ask(exchange, "LIST_SUBSCRIPTIONS", [])
            # Seen one by one: what follows waits for what is told of each, or long enough to see nothing.
            for write, count in (
                (lambda: lake.rewrite(COARSE, lambda rows: rows), 0),
                (lambda: lake.rewrite(COARSE, change), 2),
                (lambda: lake.put(bars("BTCUSDT", "2023-12-31", 0.1, holes=0)), 2),
                (compact, 0),
                (lambda: lake.put(bars("BTCUSDT", "2024-01-06", 0.1, holes=0)), 2),
                (compact, 0),
            ):
                await asyncio.to_thread(write)
                found += [json.loads(await client.recv()) for _ in range(count)]
                if not count:
                    await asyncio.sleep(0.4)
            return found, [json.loads(await exchange.recv()) for _ in range(2)]

    found, plain = told(follow)
    assert sum(written) > 0
    kinds = [(one["data"]["e"], one["data"].get("cause")) for one in found]
    assert kinds == [
        ("live", None),
        ("correction", "removed"), ("correction", "changed"),
        ("correction", "late"), ("correction", "late"),
        ("kline", None), ("kline", None),
    ]  # fmt: skip
    assert [one["seq"] for one in found] == [0, 1, 2, 3, 4, 5, 6]
    removed, changed = found[1]["data"], found[2]["data"]
    assert (removed["was"]["k"]["t"], removed["now"]) == (round(gone.timestamp() * 1000), None)
    assert (changed["now"]["k"]["t"], changed["now"]["k"]["c"]) == (
        round(other.timestamp() * 1000), "1.50000000",
    )  # fmt: skip
    # A client of the exchange hears of new bars alone, in time's order.
    assert plain == [found[5]["data"], found[6]["data"]]

    async def resumed(cut: int) -> list[Message]:
        query = {"events": "true", "resume": found[cut]["resume"]}
        async with connect(address(served, "/ws/btcusdt@kline_1h", **query)) as client:
            assert json.loads(await client.recv())["data"]["e"] == "live"
            return [json.loads(await client.recv()) for _ in range(len(found) - cut - 1)]

    # What was told in steps is told at once, each row with what it was before the cut.
    assert {one["data"]["e"] for one in told(lambda: resumed(0))} == {"correction", "kline"}
    inside = told(lambda: resumed(5))
    assert [(one["seq"], one["data"]) for one in inside] == [(6, found[6]["data"])]


def test_who_comes_back_to_a_stream_begins_with_what_is_then(lake: BarLake, served: Served) -> None:
    async def talk() -> list[int]:
        async with connect(address(served, "/ws")) as client:
            for method in ("SUBSCRIBE", "UNSUBSCRIBE"):
                await ask(client, method, ["btcusdt@kline_1h"])
            await asyncio.to_thread(lake.put, bars("BTCUSDT", "2024-01-04", 0.1, holes=0))
            await asyncio.sleep(0.3)
            await ask(client, "SUBSCRIBE", ["btcusdt@kline_1h"])
            await asyncio.to_thread(lake.put, bars("BTCUSDT", "2024-01-05", 0.1, holes=0))
            return [json.loads(await client.recv())["k"]["t"] for _ in range(2)]

    assert told(talk) == [1704412800000, 1704416400000]


def test_a_version_that_is_gone_is_said_to_be(served: Served) -> None:
    token = Token(True, 9, {COARSE: 12345}).spell()

    async def resumed() -> tuple[list[Message], int | None]:
        return await heard(served, "/ws/btcusdt@kline_1h", resume=token)

    found, code = told(resumed)
    assert (found[-1]["error"]["code"], code) == (-1, 4010)
    replayed = Token(False, 9, {COARSE: 12345}, end_us=10**15).spell()
    found, code = told(lambda: heard(served, "/ws/btcusdt@kline_1h", resume=replayed))
    assert (found[-1]["error"]["code"], code) == (-1, 4010)


def test_a_conversation_as_at_the_exchange(served: Served) -> None:
    async def talk() -> None:
        async with connect(address(served, "/ws")) as client:
            assert await ask(client, "SUBSCRIBE", ["btcusdt@kline_1h"]) == {"result": None, "id": 1}
            assert await ask(client, "SUBSCRIBE", ["ethusdt@kline_1h"], 2) == {
                "result": None,
                "id": 2,
            }
            both = {"result": TWO.split("/"), "id": 3}
            assert await ask(client, "LIST_SUBSCRIPTIONS", [], 3) == both
            unknown = await ask(client, "SUBSCRIBE", ["ethusdt@kline_1h", "dogeusdt@kline_1h"], 4)
            assert (unknown["error"]["code"], unknown["id"]) == (-1121, 4)
            assert unknown["error"]["msg"].startswith("Invalid symbol.")
            no_stream = await ask(client, "SUBSCRIBE", ["ethusdt@ticker"], 5)
            assert no_stream["error"]["msg"].startswith("Invalid request: invalid stream")
            assert await ask(client, "UNSUBSCRIBE", ["btcusdt@kline_1h"], 6) == {
                "result": None, "id": 6,
            }  # fmt: skip
            left = await ask(client, "LIST_SUBSCRIPTIONS", [], 7)
            assert left["result"] == ["ethusdt@kline_1h"]
            assert (await ask(client, "GET_PROPERTY", ["combined"], 8))["result"] is False
            assert (await client.ping(b"still there?")) is not None

    told(talk)


def test_properties_and_streams_change_while_a_replay_runs(lake: BarLake, served: Served) -> None:
    async def talk() -> tuple[list[Message], list[Message]]:
        query = {"start": "2024-01-01", "end": "2024-01-03", "speed": 72_000, "after": "close"}
        async with connect(address(served, "/ws", **query)) as client:
            first: list[Message] = []
            await ask(client, "SUBSCRIBE", ["btcusdt@kline_1h"])
            while len(first) < 5:
                first.append(json.loads(await client.recv()))
            await client.send(
                json.dumps({"method": "SET_PROPERTY", "params": ["combined", True], "id": 2})
            )
            await client.send(
                json.dumps({"method": "SUBSCRIBE", "params": ["ethusdt@kline_1h"], "id": 3})
            )
            return first, await messages(client)

    first, rest = told(talk)
    answers = [one for one in rest if "result" in one]
    assert [one["id"] for one in answers] == [2, 3]
    events = [*({"stream": "btcusdt@kline_1h", "data": one} for one in first if "k" in one),
              *({"stream": f"{one['s'].lower()}@kline_1h", "data": one} for one in rest if "k" in one),
              *(one for one in rest if "stream" in one)]  # fmt: skip
    times = [one["data"]["E"] for one in events]
    assert times == sorted(times)
    stored = [one for one in expected(lake, NAMED) if one[1] < 1704240000000]
    assert [one for one in bars_of(events) if one[0] == "btcusdt@kline_1h"] == [
        one for one in stored if one[0] == "btcusdt@kline_1h"
    ]
    later = [one for one in bars_of(events) if one[0] == "ethusdt@kline_1h"]
    assert later
    assert later == [one for one in stored if one[0] == "ethusdt@kline_1h"][-len(later) :]


def test_time_passes_as_fast_as_was_asked(served: Served) -> None:
    """Never faster; how much slower is the machine's business."""
    query = {"start": "2024-01-01", "end": "2024-01-01T12:00", "speed": 36_000, "after": "close"}

    async def timed() -> float:
        async with connect(address(served, "/ws/btcusdt@kline_1h", **query)) as client:
            began = time.monotonic()
            hours = [json.loads(one)["E"] / 3_600_000 async for one in client]
            return time.monotonic() - began - (hours[-1] - hours[0]) * 0.1

    assert told(timed) > -0.02


def test_who_reads_slowly_stops_the_reading(lake: BarLake) -> None:
    """A replay waits for its client, so that no memory fills up, and gives up one that is stuck."""
    lake.put(bars("SOLUSDT", "2024-01-01", 40, interval="1m"))
    limits = StreamLimits(send_timeout_s=1.0)
    with serving(lake.home, streams=limits) as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect((host, int(port)))
            stuck.sendall(
                b"GET /ws/solusdt@kline_1m?end=2025 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert b" 101 " in stuck.recv(100)
            counted = {}
            for _ in range(100):
                counted = measures(served)
                if counted.get('connections_closed_total{code="4008"}'):
                    break
                time.sleep(0.1)
        assert counted['connections_closed_total{code="4008"}'] == 1
        # 54,000 bars of 350 bytes are far more than sockets hold.
        assert 0 < counted['events_total{stream="kline"}'] < 40_000
        assert counted["connections"] == 0


def test_who_keeps_a_commit_waiting_is_told_and_loses_nothing(
    lake: BarLake, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_SLOW_S", 0.3)
    lake.put(bars("SOLUSDT", "2024-01-01", 0.01, interval="1m"))
    many = bars("SOLUSDT", "2024-02-01", 20, interval="1m")

    async def follow() -> list[Message]:
        query = {"streams": "solusdt@kline_1m", "events": "true"}
        # Beyond one message the client leaves all in its socket.
        async with connect(address(served, "/stream", **query), max_queue=1) as client:
            first = json.loads(await client.recv())
            assert first["data"]["e"] == "live", first
            await asyncio.to_thread(lake.put, many)
            found = [json.loads(await client.recv())]
            await asyncio.to_thread(lake.put, bars("SOLUSDT", "2024-04-01", 0.01, interval="1m"))
            await asyncio.sleep(1.5)
            while found[-1]["data"]["e"] != "slowConsumer":
                found.append(json.loads(await client.recv()))
            return found

    *told_of, notice = told(follow)
    times = many["open_time"].dt.epoch("ms").to_list()
    assert [one["data"]["k"]["t"] for one in told_of] == times
    assert [one["seq"] for one in told_of] == list(range(1, 1 + len(times)))
    assert notice["data"]["waitedMs"] > 300
    assert notice["data"]["commitsBehind"] == 1


def measures(served: Served) -> dict[str, float]:
    prefix = "lakehouse_stream_"
    lines = served.get("/metrics").body.decode().splitlines()
    parts = (line.removeprefix(prefix).rsplit(" ", 1) for line in lines if line.startswith(prefix))
    return {name: float(value) for name, value in parts}


def test_a_table_is_watched_once_and_only_while_somebody_listens(served: Served) -> None:
    async def listen() -> list[float]:
        seen = [measures(served)["tables_watched"]]
        async with (
            connect(address(served, "/ws/btcusdt@kline_1h")) as one,
            connect(address(served, "/ws/ethusdt@kline_1h")) as two,
        ):
            for client in (one, two):
                await ask(client, "LIST_SUBSCRIPTIONS", [])
            for _ in range(50):  # streams of the address are opened beside the conversation
                watched = (await asyncio.to_thread(measures, served))["tables_watched"]
                if watched > 1:
                    break
                await asyncio.sleep(0.05)
            seen.append(watched)
        for _ in range(50):
            if not (await asyncio.to_thread(measures, served))["connections"]:
                break
            await asyncio.sleep(0.05)
        return [*seen, (await asyncio.to_thread(measures, served))["tables_watched"]]

    assert told(listen) == [0, 4, 0], "two main tables, that of live rows, the log of gaps"


def test_limits_are_those_of_the_exchange(lake: BarLake) -> None:
    limits = StreamLimits(connections_max=1, streams_max=2, messages_per_s=5)

    async def talk(served: Served) -> None:
        async with connect(address(served, "/ws")) as client:
            three = ["btcusdt@kline_1h", "ethusdt@kline_1h", "btcusdt@kline_1m"]
            refused = await ask(client, "SUBSCRIBE", three)
            assert "too many streams" in refused["error"]["msg"]
            with pytest.raises(InvalidStatus) as caught:
                await connect(address(served, "/ws"))
            assert caught.value.response.status_code == 503
            assert json.loads(caught.value.response.body or b"")["code"] == -1008
            for _ in range(5):
                await client.send("x")
            await messages(client)
            assert (client.close_code, client.close_reason) == (1008, "Too many requests")
        async with connect(address(served, "/ws")) as client:
            await client.send("x" * (65 << 10))
            await messages(client)
            assert client.close_code == 1009

    with serving(lake.home, streams=limits) as served:
        told(lambda: talk(served))


def test_what_cannot_be_meant_ends_with_the_exchanges_error(served: Served) -> None:
    for path, query in (
        ("/ws/btcusdt@depth", {}),
        ("/stream", {"streams": "btcusdt@kline_1h", "start": "soon"}),
        ("/ws/btcusdt@kline_1h", {"start": "2024", "as_of": "77777777"}),
        ("/ws/btcusdt@kline_1h", {"resume": "AAAA"}),
        ("/ws/btcusdt@kline_1h", {"start": "2024", "after": "wait"}),
        ("/ws/btcusdt@kline_1h", {"end": "2025", "after": "wait", "events": "true"}),
        ("/fapi/ws/btcusdt@kline_1h", {}),
    ):
        found, code = told(lambda path=path, query=query: heard(served, path, **query))
        assert code == 1008
        assert set(found[-1]) == {"error", "id"}
        assert "Traceback" not in found[-1]["error"]["msg"]


def test_who_may_connect(lake: BarLake) -> None:
    clock = SystemClock()
    file = KeyFile(lake.home / "keys.json", clock)
    made, key = file.create("someone", None)
    keys = KeyRing(lake.home / "keys.json", clock)

    async def talk(served: Served) -> None:
        url = address(served, "/ws")
        for headers in ({}, {"Authorization": "Bearer lk_no"}):
            with pytest.raises(InvalidStatus) as caught:
                await connect(url, additional_headers=headers)
            assert caught.value.response.status_code == 401
            assert json.loads(caught.value.response.body or b"")["code"] == -2015
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-MBX-APIKEY": key}):
            async with connect(url, additional_headers=headers) as client:
                assert (await ask(client, "LIST_SUBSCRIPTIONS", []))["result"] == []
        # As a browser has to do it: the key is not said back.
        offered = [Subprotocol("lakehouse"), Subprotocol(f"key.{key}")]
        async with connect(url, subprotocols=offered) as client:
            assert client.subprotocol == "lakehouse"
            file.revoke(made.id)
            await messages(client)
            assert (client.close_code, client.close_reason) == (1008, "the API key holds no more")

    with serving(lake.home, keys=keys) as served:
        told(lambda: talk(served))


def test_a_page_of_another_place_does_not_get_in(lake: BarLake) -> None:
    async def status(served: Served, origin: str | None, **headers: str) -> int:
        try:
            async with connect(
                address(served, "/ws"), additional_headers=headers,
                origin=Origin(origin) if origin is not None else None,
            ):  # fmt: skip
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    options = {"hosts": ("127.0.0.1",), "origins": ("https://charts.example",)}
    with serving(lake.home, **options) as served:
        asked = {
            None: 101, served.url: 101, "https://charts.example": 101, "https://evil.example": 403,
            "null": 403, "http://127.0.0.1:1": 403, "http://[": 403,
        }  # fmt: skip
        for origin, wanted in asked.items():
            assert told(lambda origin=origin: status(served, origin)) == wanted, origin
        port = served.url.rpartition(":")[2]

        async def by_another_name() -> int:
            url = f"ws://evil.example:{port}/ws"
            with socket.create_connection(("127.0.0.1", int(port))) as found:
                found.setblocking(False)
                try:
                    async with connect(url, sock=found):
                        return 101
                except InvalidStatus as error:
                    return error.response.status_code

        assert told(by_another_name) == 421


def test_a_server_that_stops_says_so(lake: BarLake) -> None:
    with contextlib.ExitStack() as server, contextlib.ExitStack() as clients:
        served = server.enter_context(running(create_app(source_at(lake.home))))
        url = address(served, "/ws/btcusdt@kline_1h")
        client = clients.enter_context(connect_here(url))
        client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 1}))
        client.recv()
        server.close()
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=5)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1001, "the server stops")
