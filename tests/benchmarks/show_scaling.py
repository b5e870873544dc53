"""How many replicas answer by time, while more and more clients ask, and after they have gone.

Not a figure to compare: it shows that the rules of scaling (docs/serving.md) do what they say on a
real Ray Serve. One line a second: seconds, clients, replicas, answers in that second, and how busy
the machine was (0 to 1), whoever worked on it.

usage: python tests/benchmarks/show_scaling.py [--clients 24] [--load-s 60] [--quiet-s 240] [--json F]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.bars import BarLake, bars
from support.commands import LAKEHOUSE, environment
from support.served import Served

MOST = 3


def replicas(pid: int) -> int:
    count = 0
    for process in psutil.Process(pid).children(recursive=True):
        try:
            count += "ServeReplica" in " ".join(process.cmdline())
        except psutil.Error:
            continue
    return count


class Clients:
    """Threads that ask again as soon as they are answered."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._ended = threading.Event()
        self.answers = 0
        self.refused = 0
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    @property
    def count(self) -> int:
        return len(self._threads)

    def _ask(self) -> None:
        while not self._ended.is_set():
            reply = self._served.get(
                "/v1/klines", symbol="BTCUSDT", interval="1m", indicators="sma_20,rsi_14"
            )
            if reply.status == 200:
                self.answers += 1
            else:
                self.refused += 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--load-s", type=float, default=60)
    parser.add_argument("--quiet-s", type=float, default=240)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    seen: list[tuple[int, int, int, int, float]] = []
    with tempfile.TemporaryDirectory(prefix="ls-") as folder:
        home = Path(folder) / "home"
        BarLake(home).put(bars("BTCUSDT", "2024-01-01", 14, interval="1m"))
        env = environment(
            HOME=home, SERVE__REPLICAS_MIN=1, SERVE__REPLICAS_MAX=MOST, SERVE__REPLICA_CPUS=0.5,
            SERVE__CACHE_BYTES=0,
        )  # fmt: skip
        with subprocess.Popen(
            [LAKEHOUSE, "serve", "--port", "0", "--json"], stdout=subprocess.PIPE, env=env
        ) as process:
            assert process.stdout is not None
            clients = Clients(Served(json.loads(process.stdout.readline())["url"]))
            began_s = time.monotonic()

            def watch(until_s: float) -> None:
                while (now_s := time.monotonic() - began_s) < until_s:
                    before = clients.answers
                    time.sleep(1)
                    line = (
                        round(now_s), clients.count, replicas(process.pid),
                        clients.answers - before, round(psutil.cpu_percent(None) / 100, 2),
                    )  # fmt: skip
                    seen.append(line)
                    print(*line, sep="\t", flush=True)

            print("seconds", "clients", "replicas", "answers", "busy", sep="\t")
            watch(10)
            clients.start(told.clients)
            watch(10 + told.load_s)
            clients.stop()
            watch(10 + told.load_s + told.quiet_s)
            process.terminate()
    print(f"{clients.answers} answers, {clients.refused} others")
    changes = [
        (s, n) for (s, _, n, _, _), last in zip(seen, [None, *(x[2] for x in seen)], strict=False)
        if n != last
    ]  # fmt: skip
    print("replicas from second on:", ", ".join(f"{n} at {s}" for s, n in changes))
    if told.json:
        told.json.write_text(json.dumps({"seen": seen}))


if __name__ == "__main__":
    main()
