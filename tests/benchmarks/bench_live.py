"""How long is it from a commit to whoever follows, and how does it grow with who listens?

    python tests/benchmarks/bench_live.py [latency|frames|load|replay …] [--json FILE]

latency: A live row of each of 100 symbols is appended once a second; a follower of the lake itself and one of
    the service are told. Unit: an event, from when the append returned.
frames: A server sends trades at a given rate to `lakehouse stream`; from a frame to a follower.
load: So many websockets with 20 streams each, of 100 symbols, one row of each symbol a second. What it
    costs should grow with the events that are sent, and not with connections times commits.
replay: Events a second of a replay as fast as it is read.

The service is a process of its own, and in `load` so are its clients with the writer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import polars as pl
import psutil

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.hot_rows import HotWriter, hot_tables_of
from lakehouse_ray.settings import load_settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.live_rows import live_rows

TRADES = DATASETS["aggTrades"]
STREAMS = 20
SYMBOLS = [f"S{number:03d}USDT" for number in range(100)]
VERSION = "2024-06-01T00:00:00Z 0000000000000000"
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Appending:
    """Appends a row of each symbol every so often. Its quantity is the number of the commit."""

    def __init__(self, home: Path, symbols: Sequence[str]) -> None:
        self._writer = Writer(load_settings({"home": str(home)}).resolved())
        self._named = pl.DataFrame({"symbol": symbols})
        self.committed_s: dict[int, float] = {}

    def run(self, commits: int, every_s: float, first: int = 1) -> None:
        tables = hot_tables_of([TRADES])
        with open_committers(self._writer, tables, f"bench-{first}", local=True) as committers:
            hot = HotWriter(self._writer, committers, f"bench-{first}")
            began_s = time.monotonic()
            for number in range(first, first + commits):
                # One made by hand, and the same for each symbol.
                now_us = time.time_ns() // 1000
                one = live_rows(TRADES, [(now_us, number, VERSION)], source="stream")
                one = one.with_columns(agg_trade_id=pl.lit(number, pl.Int64))
                frame = one.drop("symbol").join(self._named, how="cross").select(one.columns)
                hot.append({TRADES.name: frame}, f"rows-{number}")
                # Visible by now at the latest.
                self.committed_s[number] = time.time()
                left_s = began_s + (number - first + 1) * every_s - time.monotonic()
                time.sleep(max(left_s, 0.0))


@contextmanager
def served(home: Path, **settings: str) -> Iterator[tuple[str, psutil.Process]]:
    environment = {**os.environ, "LAKEHOUSE_HOME": str(home), "LAKEHOUSE_LOG__LEVEL": "error",
                   "LAKEHOUSE_SERVE__STREAM_CONNECTIONS_MAX": "1000", **settings}  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "lakehouse_ray.cli",
        "serve",
        "--no-ray",
        "--port",
        "0",
        "--json",
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def spread(waits: Sequence[float]) -> dict[str, float]:
    found = sorted(waits)
    return {
        "events": len(found),
        "p50_s": round(found[len(found) // 2], 3),
        "p99_s": round(found[len(found) * 99 // 100], 3),
        "max_s": round(found[-1], 3),
    }


def latency(home: Path, commits: int = 40) -> dict[str, Any]:
    appending = Appending(home, SYMBOLS)
    appending.run(3, 0.1)
    heard: dict[str, list[tuple[int, float]]] = {"local": [], "remote": []}

    def follow(name: str, lake: Any) -> None:
        with lake.live("aggTrades", market="um", timeout_s=commits + 8) as live:
            for batch in live.batches():
                now_s = time.time()
                heard[name] += [(int(n), now_s) for n in batch.pl()["quantity"]]
                if heard[name][-1][0] >= commits + 100:
                    return

    with served(home) as (url, _):
        threads = [
            threading.Thread(target=follow, args=("remote", lh.connect(url))),
            threading.Thread(target=follow, args=("local", lh.connect(home))),
        ]
        for thread in threads:
            thread.start()
        time.sleep(3)
        appending.run(commits, 1.0, first=101)
        for thread in threads:
            thread.join()
    found: dict[str, Any] = {}
    for name, events in heard.items():
        # The first commits pay for what is loaded once.
        waits = [max(at - appending.committed_s[n], 0.0) for n, at in events if n > 108]
        found[name] = spread(waits)
    return found


def frames(home: Path, per_s: int = 1000, seconds: int = 30) -> dict[str, Any]:
    """From a frame, whose trade has the time of its sending, to a follower."""
    port, stop = start_sending(per_s)
    environment = {
        **os.environ, "LAKEHOUSE_HOME": str(home), "LAKEHOUSE_LOG__LEVEL": "error",
        "LAKEHOUSE_BINANCE__UM_STREAM_URL": f"ws://127.0.0.1:{port}",
    }  # fmt: skip
    command = [sys.executable, "-m", "lakehouse_ray.cli", "stream", "--market", "um", "--symbols",
               "BTCUSDT", "--streams", "trade", "--duration", f"{seconds}s", "--quiet"]  # fmt: skip
    waits: list[tuple[float, float]] = []
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        with served(home) as (url, _), lh.connect(url) as lake:
            live = lake.live("trades", "BTCUSDT", market="um", timeout_s=seconds + 120)

            def close() -> None:
                process.wait()
                time.sleep(3)
                live.close()

            threading.Thread(target=close).start()
            for batch in live.batches():
                now_s = time.time()
                waits += [(t.timestamp(), now_s - t.timestamp()) for t in batch.pl()["time"]]
    finally:
        process.terminate()
        process.wait()
        stop.set()
    # The first segments pay for what is loaded once.
    first_s = waits[0][0]
    return {"per_s": per_s, **spread([wait for at, wait in waits if at > first_s + 5])}


def start_sending(per_s: int) -> tuple[int, threading.Event]:
    """A websocket that sends trades of now, evenly."""
    stop, ready = threading.Event(), threading.Event()
    ports: list[int] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        key = next(one.split(":")[1].strip() for one in request if "websocket-key" in one.lower())
        accept = base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        began_s, number = time.monotonic(), 0
        try:
            while not stop.is_set():
                while number < (time.monotonic() - began_s) * per_s:
                    number += 1
                    now_ms = time.time_ns() // 1_000_000
                    body = json.dumps({"stream": "btcusdt@trade", "data": {
                        "e": "trade", "E": now_ms, "T": now_ms, "s": "BTCUSDT", "t": number,
                        "p": "61837.6", "q": "0.02", "X": "MARKET", "m": True,
                    }}).encode()  # fmt: skip
                    writer.write(b"\x81\x7e" + len(body).to_bytes(2, "big") + body)
                await writer.drain()
                await asyncio.sleep(0.005)
        except ConnectionError:
            pass
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await asyncio.to_thread(stop.wait)

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    ready.wait()
    return ports[0], stop


def load(home: Path, counts: Sequence[int] = (1, 8, 50, 200), commits: int = 12) -> list[Any]:
    """One row of each symbol a second, to connections with 20 streams each."""
    Appending(home, SYMBOLS).run(3, 0.1)
    found = []
    for kind in ("stream", "live"):
        for count in counts:
            with served(home) as (url, process):
                told = subprocess.run(
                    [sys.executable, __file__, "clients", url, kind, str(count), str(commits), str(home)],
                    check=True, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                times = process.cpu_times()
                found.append(
                    {
                        "kind": kind,
                        "connections": count,
                        **json.loads(told.stdout),
                        "server_cpu_s": round(times.user + times.system, 1),
                        "server_rss_mb": round(process.memory_info().rss / 1e6),
                    }
                )
                print(json.dumps(found[-1]), flush=True)
    return found


async def clients(url: str, kind: str, count: int, commits: int, home: Path) -> dict[str, Any]:
    first = time.time_ns() // 1_000_000_000
    appending = Appending(home, SYMBOLS)
    heard: list[tuple[int, float]] = []
    last = first + commits - 1
    connected = 0

    async def client(number: int, session: aiohttp.ClientSession) -> None:
        nonlocal connected
        own = [SYMBOLS[(number * 7 + n) % len(SYMBOLS)] for n in range(STREAMS)]
        if kind == "stream":
            names = "/".join(f"{symbol.lower()}@aggTrade" for symbol in own)
            path = f"{url}/fapi/stream?streams={names}"
        else:
            path = f"{url}/v1/live?dataset=aggTrades&market=um&symbols={','.join(own)}"
        async with session.ws_connect(path, max_msg_size=0) as socket:
            if kind == "stream":
                # Answered when the streams are being told of.
                await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
            await socket.receive()
            connected += 1
            left = STREAMS
            while left:
                message = json.loads((await socket.receive()).data)
                now_s = time.time()
                events = message["events"] if kind == "live" else [message]
                for event in events:
                    n = event["row"]["quantity"] if kind == "live" else event["data"]["q"]
                    heard.append((int(float(n)), now_s))
                    left -= int(float(n)) == last

    began_s = time.monotonic()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        tasks = [asyncio.ensure_future(client(number, session)) for number in range(count)]
        while connected < count:
            await asyncio.sleep(0.05)
            for task in tasks:
                if task.done():
                    task.result()
        connect_s = time.monotonic() - began_s
        await asyncio.sleep(1)
        sent_s = time.monotonic()
        await asyncio.to_thread(appending.run, commits, 1.0, first)
        await asyncio.wait_for(asyncio.gather(*tasks), 120)
        seconds = time.monotonic() - sent_s
    assert len(heard) == count * STREAMS * commits, (len(heard), count * STREAMS * commits)
    waits = [max(at - appending.committed_s[n], 0.0) for n, at in heard if n > first + 2]
    return {
        "connect_s": round(connect_s, 1),
        "messages_per_s": round(len(heard) / seconds),
        **spread(waits),
    }


def replay(home: Path, rows: int = 50_000) -> list[Any]:
    """History of one symbol, to 1 and to 8 connections."""
    writer = Writer(load_settings({"home": str(home)}).resolved())
    now_us = time.time_ns() // 1000 - rows * 1_000_000
    frame = live_rows(
        TRADES, [(now_us + n * 1_000_000, 1, VERSION) for n in range(rows)], source="stream"
    )
    with open_committers(writer, hot_tables_of([TRADES]), "bench", local=True) as committers:
        HotWriter(writer, committers, "bench").append({TRADES.name: frame}, "rows")

    async def read(url: str) -> int:
        count = 0
        path = f"{url}/fapi/ws/btcusdt@aggTrade?end=2030&after=close"
        async with aiohttp.ClientSession() as session, session.ws_connect(path) as socket:
            async for _ in socket:
                count += 1
        return count

    async def all_of(url: str, count: int) -> list[int]:
        return await asyncio.gather(*(read(url) for _ in range(count)))

    found = []
    with served(home) as (url, process):
        for count in (1, 8):
            began_s = time.monotonic()
            told = asyncio.run(all_of(url, count))
            seconds = time.monotonic() - began_s
            assert told == [rows] * count
            found.append(
                {
                    "connections": count,
                    "events_per_s": round(sum(told) / seconds),
                    "server_rss_mb": round(process.memory_info().rss / 1e6),
                }
            )
    return found


MEASURES = {"latency": latency, "frames": frames, "load": load, "replay": replay}


def main() -> None:
    if sys.argv[1:2] == ["clients"]:
        url, kind, count, commits, home = sys.argv[2:]
        print(json.dumps(asyncio.run(clients(url, kind, int(count), int(commits), Path(home)))))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", choices=[*MEASURES, []], default=list(MEASURES))
    parser.add_argument("--connections", type=int, nargs="*")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for what in given.what:
        with tempfile.TemporaryDirectory() as folder:
            more = {"counts": given.connections} if what == "load" and given.connections else {}
            found[what] = MEASURES[what](Path(folder), **more)  # type: ignore[operator]
        print(what, json.dumps(found[what]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
