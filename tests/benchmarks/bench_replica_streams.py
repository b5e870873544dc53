"""How many messages a second can the replica exchange send from one core?

A replica that is slower than its clients cannot measure them. Unit of work: one message to one
client. Played are frames of a recording (made here, or real ones by --recorded) and rows of the
synthetic market (trades of 20 symbols), at once, with the clock moved past all of them; the client,
another process, does nothing but read bytes. Told are messages for each second that went by, and for
each second of processor time of the replica's process, which other work on the machine does not
change. Expected growth: linear in messages; each further client costs one copy of the bytes.

usage: python tests/benchmarks/bench_replica_streams.py [--json FILE] [--recorded FILE …]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import quote

from lakehouse_ray.testing.exchange import (
    Recording,
    ReplayClock,
    ReplicaExchange,
    SyntheticArchive,
)

MESSAGES_PER_S_MIN = 20_000
FRAMES = 100_000
START = date(2024, 5, 1)
# Reads until nothing has come for a while, and tells when the last byte came.
CLIENT = """
import base64, os, socket, sys, time
host, port, path = sys.argv[1:]
client = socket.create_connection((host, int(port)))
key = base64.b64encode(os.urandom(16)).decode()
client.sendall((f"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade"
    f"\\r\\nSec-WebSocket-Key: {key}\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n").encode())
print(client.recv(4096).split(b"\\r\\n")[0].decode(), flush=True)
total = 0
client.settimeout(60)
while True:
    try:
        piece = client.recv(1 << 20)
    except TimeoutError:
        break
    if not piece:
        break
    total += len(piece)
    last = time.time()
    client.settimeout(3)
print(total, last, flush=True)
"""


def made_recording(folder: Path) -> Path:
    """Best prices of ten symbols, a message every 100 µs."""
    path = folder / "made.txt"
    with path.open("w") as file:
        for number in range(FRAMES):
            symbol = f"S{number % 10}USDT"
            file.write(
                f"{1_700_000_000 + number / 10_000:.6f}: "
                f'{{"stream":"{symbol.lower()}@bookTicker","data":{{"e":"bookTicker","u":{number},'
                f'"s":"{symbol}","b":"61804.70","B":"35.123","a":"61804.80","A":"1645.002",'
                f'"T":{1_700_000_000_000 + number // 10},"E":{1_700_000_000_000 + number // 10}}}}}\n'
            )
    return path


def measure(exchange: ReplicaExchange, path: str, clients: int, seconds: float) -> dict[str, float]:
    host, _, port = exchange.url.removeprefix("http://").partition(":")
    command = [sys.executable, "-c", CLIENT, host, port, quote(path, safe="/?=@")]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(clients)]
    for reader in readers:
        assert reader.stdout is not None
        assert "101" in reader.stdout.readline()
    before = exchange.streams.state()["sent"]
    began_s, began_cpu_s = time.time(), time.process_time()
    exchange.clock.advance(seconds)
    last_s, size = 0.0, 0
    for reader in readers:
        assert reader.stdout is not None
        told = reader.stdout.readline().split()
        size += int(told[0])
        last_s = max(last_s, float(told[1]))
        reader.wait()
        reader.stdout.close()
    cpu_s = time.process_time() - began_cpu_s
    events = exchange.streams.state()["sent"] - before
    messages = events * clients
    return {
        "messages": messages,
        "megabytes": round(size / 1e6, 1),
        "messages_per_s": round(messages / (last_s - began_s)),
        "messages_per_cpu_s": round(messages / cpu_s),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--recorded", type=Path, nargs="*", metavar="FILE")
    asked = parser.parse_args(arguments)
    found: dict[str, dict[str, float]] = {}
    market = SyntheticArchive(
        symbols=20, markets=["um"], start=START, end=date(2024, 5, 2), trades_per_minute=8
    )
    with tempfile.TemporaryDirectory() as folder:
        recording = Recording(asked.recorded or [made_recording(Path(folder))])
    first_us, last_us = recording.span_us
    prefix = {"spot": "", "um": "/fapi", "cm": "/dapi"}
    place = prefix[recording.streams[0][0]]
    names = "/".join(name for _, name in recording.streams)
    for clients in (1, 4):
        clock = ReplayClock(first_us - 1, speed=0)
        with ReplicaExchange(market, recording=recording, clock=clock) as exchange:
            found[f"recording, {clients} clients"] = measure(
                exchange, f"{place}/stream?streams={names}", clients, (last_us - first_us) / 1e6 + 2
            )
    start_us = int(datetime(START.year, START.month, START.day, tzinfo=UTC).timestamp() * 1e6)
    symbols = [one.symbol for one in market.instruments if one.market == "um"]
    for kind in ("aggTrade", "kline_1m"):
        with ReplicaExchange(market, clock=ReplayClock(start_us, speed=0)) as exchange:
            names = "/".join(f"{symbol.lower()}@{kind}" for symbol in symbols)
            found[f"rows, {kind}"] = measure(
                exchange, f"/fapi/stream?streams={names}", 1, 23 * 3600
            )
    for what, figures in found.items():
        print(f"{what:24}", " ".join(f"{name}={value}" for name, value in figures.items()))
    met = min(figures["messages_per_cpu_s"] for figures in found.values()) >= MESSAGES_PER_S_MIN
    print(f"at least {MESSAGES_PER_S_MIN} messages for each second of a core:", met)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
