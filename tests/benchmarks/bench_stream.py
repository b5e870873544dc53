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
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.frame_sender import (
    FILE,
    KINDS,
    SYMBOLS,
    recorded,
    sender,
    serve_endlessly,
)

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.pipeline.stream_capture import CaptureReport, CaptureRequest, capture_streams
from lakehouse_ray.settings import load_settings
from lakehouse_ray.silver.stream_segment import streams_of


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


class _Enough(Exception):
    """All frames are committed."""


def captured(
    port: int, messages: int, home: Path, pipe: Connection, workers: int = 1
) -> tuple[float, float, CaptureReport]:
    """Seconds until all frames were spooled, and until all were committed; what the capture says.

    pipe: Tells when the frames began.
    """
    settings = load_settings(
        {
            "home": str(home),
            "binance": {
                "um_stream_url": f"ws://127.0.0.1:{port}",
                "um_url": f"http://127.0.0.1:{port}",
            },
            "stream": {
                "connect_spacing_s": 0.05,
                "workers": workers,
                "fill_gaps": False,
                # Silence at the end is no fault.
                "stall_s": 3600,
                "silence_s": 7200,
            },
        }
    )
    writer = Writer(settings.resolved())
    names = [f"{symbol.lower()}@{kind}" for symbol in SYMBOLS for kind in KINDS]
    # The wall clock's, since the ledger tells by it when rows were visible.
    wall_s = time.time() - time.monotonic()
    seen: list[tuple[float, int]] = []
    latest: list[CaptureReport] = []

    def progress(report: CaptureReport) -> None:
        latest[:] = [report]
        seen.append((time.monotonic(), report.status.frames))
        if report.status.tally.frames >= messages:
            raise _Enough

    with contextlib.suppress(_Enough):
        capture_streams(writer, CaptureRequest("um", tuple(streams_of("um", names))), progress)
    ledger = "select epoch_us(max(seen_at)) as us from bronze.object_log"
    end_s = lh.connect(home).sql(ledger).rows()[0]["us"] / 1e6 - wall_s
    first_s: float = pipe.recv()
    # This is told twice a second: it may be half a second less.
    spooled_s = next(at for at, frames in seen if frames >= messages)
    return spooled_s - first_s, end_s - first_s, latest[0]


def measure_latency(per_s: float, seconds: float) -> list[str]:
    count = int(per_s * seconds) // len(SYMBOLS) * len(SYMBOLS)
    with (
        sender(recorded(count), per_s / len(SYMBOLS)) as (port, pipe),
        tempfile.TemporaryDirectory() as folder,
    ):
        captured(port, count, Path(folder), pipe)
        segments = (
            lh.connect(folder)
            .sql(
                "select epoch_us(last_modified) as came, epoch_us(max(seen_at)) as visible "
                "from bronze.object_log where freq = 'stream' group by last_modified order by 1"
            )
            .rows()
        )
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
    ]


def measure(messages: int) -> list[str]:
    sent = recorded(messages)
    size = sum(len(frame) for frames in sent.values() for frame, _ in frames)
    said = [f"{platform.node()}, {os.cpu_count()} CPUs: {messages:,} messages, {size / 1e6:.0f} MB"]
    with sender(sent) as (port, pipe):
        bare_s = math.inf
        for _ in range(2):
            bare_s = min(bare_s, asyncio.run(bare(port, messages)))
            pipe.recv()
        said.append(f"bare aiohttp and msgspec         {messages / bare_s:>9,.0f} messages/s")
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                spooled_s, committed_s, report = captured(
                    port, messages, Path(folder), pipe, workers
                )
            tally = report.status.tally
            assert tally.frames == messages, report
            assert tally.gaps == tally.refused == 0, report
            said += [
                f"workers: {workers}",
                f"  received and spooled           {messages / spooled_s:>9,.0f} messages/s",
                f"  committed as rows              {messages / committed_s:>9,.0f} messages/s "
                f"({bare_s / committed_s:.0%} of the bare loop), {tally.segments} commits, "
                f"{sum(tally.rows.values()):,} rows",
            ]
    return said


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
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "LAKEHOUSE_HOME": home,
            "LAKEHOUSE_BINANCE__UM_STREAM_URL": f"ws://127.0.0.1:{port}",
            "LAKEHOUSE_BINANCE__UM_URL": f"http://127.0.0.1:{port}",
        }
        command = [sys.executable, "-m", "lakehouse_ray.cli", "stream", "--market", "um"]
        command += ["--symbols", SYMBOLS[0], "--streams", ",".join(KINDS), "--json"]
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
