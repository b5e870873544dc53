"""A replica exchange that plays recorded frames, and captures of it as commands of their own."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.forked import popen

import lakehouse_ray as lh
from lakehouse_ray.testing.exchange.archive import FolderArchive
from lakehouse_ray.testing.exchange.faults import Faults, Rule
from lakehouse_ray.testing.exchange.replay_clock import ReplayClock
from lakehouse_ray.testing.exchange.server import ReplicaExchange
from lakehouse_ray.testing.exchange.streams import Recording

RECORDED = Path(__file__).parents[2].parent / "shared/data/recorded/ws/hftbacktest"
UM = RECORDED / "usdm_ethusdt_20240808.gz"


@dataclass
class Played:
    """An exchange whose clock stands until somebody moves it."""

    exchange: ReplicaExchange
    clock: ReplayClock
    recording: Recording
    root: Path
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self, home: Path) -> dict[str, str]:
        address = f"ws{self.exchange.url.removeprefix('http')}"
        return {
            **os.environ,
            "LAKEHOUSE_HOME": str(home),
            "LAKEHOUSE_BINANCE__STREAM_URL": address,
            "LAKEHOUSE_BINANCE__UM_STREAM_URL": f"{address}/fapi",
            "LAKEHOUSE_BINANCE__CM_STREAM_URL": f"{address}/dapi",
            "LAKEHOUSE_BINANCE__UM_URL": self.exchange.url,
            "LAKEHOUSE_STREAM__COMMIT_INTERVAL_S": "0.3",
            "LAKEHOUSE_STREAM__CONNECT_SPACING_S": "0.1",
            "LAKEHOUSE_STREAM__FILL_GAPS": "false",
            **self.settings,
        }

    def play(self, until_us: int, speed: float) -> None:
        """Let time pass up to a moment."""
        self.clock.set_speed(speed)
        wait_for(lambda: self.clock.now_us() >= until_us, "the replay")
        self.clock.set_speed(0)
        # What is due is on its way a little later.
        sent = -1
        while sent != (sent := self.exchange.streams.state()["sent"]):
            time.sleep(0.5)

    def wait_for_connections(self, count: int = 1) -> None:
        wait_for(lambda: len(self.exchange.streams.state()["connections"]) >= count, "a connection")

    def start(self, home: Path, *options: str) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = popen(
            "stream", *options, "--json", env=self.environment(home), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return process


@contextmanager
def played(
    root: Path, files: Sequence[Path], rules: Sequence[Rule] = (), **settings: str
) -> Iterator[Played]:
    recording = Recording(files)
    clock = ReplayClock(recording.span_us[0] - 1_000_000, speed=0)
    (root / "data").mkdir(parents=True, exist_ok=True)
    faults = Faults(tuple(rules), seed=1)
    with ReplicaExchange(FolderArchive(root), faults, recording=recording, clock=clock) as exchange:
        yield Played(exchange, clock, recording, root, settings)


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 180.0) -> None:
    until_s = time.monotonic() + timeout_s
    while True:
        began_s = time.monotonic()
        if condition():
            return
        looked_s = time.monotonic()
        assert looked_s < until_s, f"{what} did not come in {timeout_s} s"
        # What is waited for needs the machine more than who looks.
        time.sleep(max(0.05, 4 * (looked_s - began_s)))


def ended(process: subprocess.Popen[str], code: int, timeout_s: float = 180.0) -> dict[str, Any]:
    """The report of a capture that has ended."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == code, err
    report: dict[str, Any] = json.loads(out)
    return report


def asked(home: Path, query: str) -> list[dict[str, Any]]:
    """Rows of a statement."""
    return lh.connect(home).sql(query).rows()


def first_lines(file: Path, count: int, target: Path) -> Path:
    """The beginning of a recording."""
    with gzip.open(file) as lines, gzip.open(target, "wb", compresslevel=1) as out:
        out.writelines(line for line, _ in zip(lines, range(count), strict=False))
    return target


def frames_of(file: Path, what: str) -> list[dict[str, Any]]:
    """Data of the recorded frames of a kind, by plain json."""
    found = []
    with gzip.open(file, "rt") as lines:
        for line in lines:
            message = json.loads(line.partition(" ")[2])
            if message.get("stream", "").partition("@")[2] == what:
                found.append(message["data"])
    return found


def children(pid: int) -> list[int]:
    """Capture workers of a command: its children, but for what multiprocessing starts beside them."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = re.search(r"\) \S (\d+)", (entry / "stat").read_text())
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if parent and int(parent[1]) == pid and b"spawn_main" in words:
            found.append(int(entry.name))
    return found
