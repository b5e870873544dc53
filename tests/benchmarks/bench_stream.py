"""How many messages a second does one capture worker take, beside the bare cost of decoding them?

A process of its own sends frames of a recording over loopback as fast as they are taken. The same
frames are taken by a bare loop (aiohttp, and msgspec to structs) and by a capture worker, which also
spools them, keeps their order, makes rows and commits them to a lake. Unit of work: a message. Both
should grow with the number of messages alone.

    python tests/benchmarks/bench_stream.py [MESSAGES]

And how long is it from a frame to rows that can be asked for, at a rate that is given? Of each segment
the ledger says when its last frame came and when its rows were visible; frames are spread evenly
between the last frames of two segments.

    python tests/benchmarks/bench_stream.py latency MESSAGES_PER_S SECONDS

And does the memory of a capture stay flat? `lakehouse stream` as a command of its own takes the recording
over and over, numbered and timed on, so that nothing is missing between two turns; the memory of its
processes is told every minute. Unit of work: a minute. It should not grow with them at all.

    python tests/benchmarks/bench_stream.py --minutes 30 [MESSAGES_PER_S]
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.pipeline.stream_worker import CaptureStatus, CaptureTask, capture
from lakehouse_ray.settings import load_settings

RECORDED = Path(__file__).parents[2].parent / "shared/data/recorded/ws/hftbacktest"
FILE = RECORDED / "usdm_ethusdt_20240808.gz"
NAMES = ("ethusdt@trade", "ethusdt@bookTicker", "ethusdt@depth@0ms")
_PIECE = 256


def recorded(messages: int) -> list[bytes]:
    """Frames of trades, best prices and changes of the book, numbered on where the recording ends."""
    return [frame for frame, _ in itertools.islice(endless(), messages)]


def encoded(frame: bytes) -> bytes:
    """A text message of a websocket's server."""
    size = len(frame)
    head = bytes([0x81, size]) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return (head if size < 65536 else b"\x81\x7f" + size.to_bytes(8, "big")) + frame


def accepted(request: str) -> bytes:
    """The answer to a handshake."""
    key = next(
        line.partition(":")[2].strip()
        for line in request.splitlines()
        if line.lower().startswith("sec-websocket-key")
    )
    magic = f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()
    accept = base64.b64encode(hashlib.sha1(magic).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


def serve(frames: Sequence[bytes], pipe: Connection, per_s: float = 0.0) -> None:
    """Send all frames to each client: as fast as it takes them, or so many a second."""
    size = int(per_s // 50) or _PIECE
    pieces = [b"".join(map(encoded, frames[at : at + size])) for at in range(0, len(frames), size)]

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted((await reader.readuntil(b"\r\n\r\n")).decode()))
        started_s = time.monotonic()
        # The clock of all processes of the machine.
        pipe.send(started_s)
        try:
            for number, piece in enumerate(pieces):
                writer.write(piece)
                await writer.drain()
                if per_s:
                    due_s = started_s + number * size / per_s
                    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await reader.read()
        except ConnectionError:
            pass
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


class Levels(msgspec.Struct, tag="depthUpdate", tag_field="e"):
    E: int
    s: str
    u: int
    b: list[tuple[float, float]]
    a: list[tuple[float, float]]


class Quote(msgspec.Struct, tag="bookTicker", tag_field="e"):
    E: int
    s: str
    u: int
    b: float
    B: float
    a: float
    A: float


class Trade(msgspec.Struct, tag="trade", tag_field="e"):
    E: int
    s: str
    t: int
    p: float
    q: float
    m: bool


class Combined(msgspec.Struct):
    stream: str
    data: Levels | Quote | Trade


async def bare(port: int, messages: int) -> float:
    """Seconds of the bare loop: to structs with numbers as numbers."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"ws://127.0.0.1:{port}/stream", decode_text=False) as socket,
    ):
        decode = msgspec.json.Decoder(Combined, strict=False).decode
        started_s = time.perf_counter()
        for _ in range(messages):
            message: Any = await socket.receive()
            decode(message.data)
        return time.perf_counter() - started_s


def captured(
    port: int, messages: int, home: Path, pipe: Connection
) -> tuple[float, float, CaptureStatus]:
    """Seconds until all frames were spooled, and until all were committed; the last status.

    pipe: Tells when the connection was there.
    """
    settings = load_settings(
        {
            "home": str(home),
            "binance": {"um_stream_url": f"ws://127.0.0.1:{port}", "um_url": "http://127.0.0.1:9"},
            "stream": {"stall_s": 3600, "silence_s": 7200},
        }
    )
    task = CaptureTask(
        Writer(settings.resolved()), "um", NAMES, "bench", home / "spool" / "0", 0, 1
    )
    stop = threading.Event()
    # The wall clock's, since the ledger tells by it when rows were visible.
    wall_s = time.time() - time.monotonic()
    seen: list[tuple[float, CaptureStatus]] = []

    def tell(status: CaptureStatus) -> None:
        seen.append((time.monotonic(), status))
        if status.frames >= messages:
            stop.set()

    capture(task, stop, tell)
    ledger = "select epoch_us(max(seen_at)) as us from bronze.object_log"
    end_s = lh.connect(home).sql(ledger).rows()[0]["us"] / 1e6 - wall_s
    first_s: float = pipe.recv()
    # This is told twice a second: it may be half a second less.
    spooled_s = next(at for at, status in seen if status.frames >= messages)
    return spooled_s - first_s, end_s - first_s, seen[-1][1]


def measure_latency(per_s: float, seconds: float) -> list[str]:
    frames = recorded(int(per_s * seconds))
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(frames, theirs, per_s), daemon=True
    )
    server.start()
    count = len(frames)
    frames.clear()
    try:
        with tempfile.TemporaryDirectory() as folder:
            before = psutil.Process().memory_info().rss
            captured(ours.recv(), count, Path(folder), ours)
            grown = psutil.Process().memory_info().rss - before
            segments = (
                lh.connect(folder)
                .sql(
                    "select epoch_us(last_modified) as came, epoch_us(max(seen_at)) as visible "
                    "from bronze.object_log where freq = 'stream' group by last_modified order by 1"
                )
                .rows()
            )
    finally:
        server.kill()
    waits: list[float] = []
    for earlier, later in itertools.pairwise(segments):
        step = (later["came"] - earlier["came"]) / 100
        waits += [(later["visible"] - earlier["came"] - step * n) / 1e6 for n in range(100)]
    # The first segments pay for what is loaded once.
    waits = sorted(waits[300:])
    return [
        f"{count:,} messages at {per_s:,.0f} a second, {len(segments)} commits",
        f"from frame to row  p50 {waits[len(waits) // 2]:.2f} s, p99 {waits[len(waits) * 99 // 100]:.2f} s, "
        f"longest {waits[-1]:.2f} s",
        f"memory grown by {grown / 2**20:,.0f} MiB",
    ]


def measure(messages: int) -> list[str]:
    frames = recorded(messages)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(frames, theirs), daemon=True
    )
    server.start()
    port = ours.recv()
    try:
        bare_s = math.inf
        for _ in range(2):
            bare_s = min(bare_s, asyncio.run(bare(port, messages)))
            ours.recv()
        with tempfile.TemporaryDirectory() as folder:
            spooled_s, committed_s, status = captured(port, messages, Path(folder), ours)
    finally:
        server.kill()
    assert status.tally.frames == messages, status
    size = sum(map(len, frames))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        f"{platform.node()}, {os.cpu_count()} CPUs: {messages:,} messages, {size / 1e6:.0f} MB",
        f"bare aiohttp and msgspec   {messages / bare_s:>9,.0f} messages/s",
        f"received and spooled       {messages / spooled_s:>9,.0f} messages/s",
        f"committed as rows          {messages / committed_s:>9,.0f} messages/s "
        f"({bare_s / committed_s:.0%} of the bare loop), {status.tally.segments} commits",
        f"peak of this process       {peak:>9,.0f} MiB (the frames that are sent are in it)",
    ]


def endless() -> Iterator[tuple[bytes, int]]:
    """Frames without end, each with the last number of the book's changes up to it."""
    with gzip.open(FILE) as lines:
        once = [json.loads(line.partition(b" ")[2]) for line in lines if b'{"stream"' in line]
    data = [message["data"] for message in once]
    traded = [one["t"] for one in data if one["e"] == "trade"]
    changes = [one for one in data if one["e"] == "depthUpdate"]
    numbers = changes[-1]["u"] - changes[0]["pu"]
    turn = dict.fromkeys(("u", "U", "pu"), numbers)
    turn |= {"t": traded[-1] - traded[0] + 1}
    turn |= dict.fromkeys(("E", "T"), data[-1]["E"] - data[0]["E"] + 1)
    book = changes[0]["pu"]
    while True:
        for message in once:
            one = message["data"]
            if one["e"] == "depthUpdate":
                book = one["u"]
            yield json.dumps(message, separators=(",", ":")).encode(), book
            for name in turn.keys() & one.keys():
                one[name] += turn[name]


def serve_endlessly(pipe: Connection, per_s: float) -> None:
    """One stream of frames at a steady rate for whoever is there, and the book's snapshots."""
    frames = endless()
    book = 0

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal book
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "/depth?" in request:
            body = json.dumps({"lastUpdateId": book, "bids": [], "asks": []}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            writer.close()
            return
        writer.write(accepted(request))
        size = max(1, int(per_s // 50))
        started_s = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for number in itertools.count(1):
                piece = [next(frames) for _ in range(size)]
                book = piece[-1][1]
                writer.write(b"".join(encoded(frame) for frame, _ in piece))
                await writer.drain()
                due_s = started_s + number * size / per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def resident_mib(pid: int) -> tuple[float, float]:
    """Memory of a command, and of all processes below it together."""
    command = psutil.Process(pid)
    below = 0
    for process in command.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            below += process.memory_info().rss
    return command.memory_info().rss / 2**20, below / 2**20


def measure_memory(minutes: float, per_s: float) -> None:
    """Print the memory of a capture's processes once a minute, and how it grew in the end."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(
        target=serve_endlessly, args=(theirs, per_s), daemon=True
    )
    server.start()
    port = ours.recv()
    symbol, kinds = "ETHUSDT", ",".join(name.partition("@")[2] for name in NAMES)
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "LAKEHOUSE_HOME": home,
            "LAKEHOUSE_BINANCE__UM_STREAM_URL": f"ws://127.0.0.1:{port}",
            "LAKEHOUSE_BINANCE__UM_URL": f"http://127.0.0.1:{port}",
        }
        command = [sys.executable, "-m", "lakehouse_ray.cli", "stream", "--market", "um"]
        command += ["--symbols", symbol, "--streams", kinds, "--json"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        seen: list[tuple[float, float]] = []
        print(f"{per_s:,.0f} messages a second; minute, MiB of the command, of its workers")
        try:
            started_s = time.monotonic()
            for minute in range(1, round(minutes) + 1):
                time.sleep(max(0.0, started_s + minute * 60 - time.monotonic()))
                command_mib, workers_mib = resident_mib(process.pid)
                seen.append((minute, command_mib + workers_mib))
                print(f"{minute:>4} {command_mib:>7,.0f} {workers_mib:>7,.0f}", flush=True)
        finally:
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=120)
            server.kill()
        report = json.loads(out)
    steady = seen[5:]
    if len(steady) > 1:
        slope = statistics.linear_regression(*zip(*steady, strict=True)).slope
        print(f"after the first 5 minutes {slope * 60:+,.1f} MiB an hour")
    told = {name: report[name] for name in ("received", "rows", "gaps", "refused", "lost")}
    print(json.dumps(told))


@pytest.mark.skipif(not FILE.is_file(), reason="the real frames are not on this machine")
def test_capture_beside_a_bare_loop() -> None:
    print("\n".join(measure(20_000)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--minutes"]:
        rate = float(sys.argv[3]) if len(sys.argv) > 3 else 2_000.0
        measure_memory(float(sys.argv[2]), rate)
        sys.exit()
    if sys.argv[1:2] == ["latency"]:
        print("\n".join(measure_latency(float(sys.argv[2]), float(sys.argv[3]))))
        sys.exit()
    print("\n".join(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)))
