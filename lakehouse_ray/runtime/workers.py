"""What runs in a worker of a pool on Ray."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import ray

from lakehouse_ray.runtime.outcome import Failure, attempt
from lakehouse_ray.runtime.ray_metrics import measure_on_ray


@dataclass(frozen=True)
class Use:
    """cpus: CPUs that a worker kept busy since its last answer. rss_bytes: Its memory now."""

    cpus: float = 0.0
    rss_bytes: int = 0


@dataclass(frozen=True)
class Answer:
    """What a call gave, and what its worker uses."""

    value: Any
    use: Use


class PoolWorker:
    """One worker process: the component, made once, and `depth` threads that Ray runs around it.

    No method may be a coroutine: one is enough to make it an asyncio actor, whose plain methods
    run one after the other whatever `max_concurrency` says, without an error.
    """

    def __init__(self, setup: Callable[[], Any], work: Callable[[Any, Any], Any]) -> None:
        measure_on_ray()
        self._setup = setup
        self._work = work
        self._component: Any = None
        self._place = f"worker {os.getpid()} on {_own_ip()}"
        self._meter = Meter()

    def start(self) -> Any:
        """Make the component; return where this worker runs and its node, or the Failure of `setup`."""

        def make() -> tuple[str, str]:
            self._component = self._setup()
            return self._place, ray.get_runtime_context().get_node_id()

        return attempt(make, self._place)

    def run(self, task: Any) -> Any:
        value = attempt(lambda: self._work(self._component, task), self._place)
        return value if isinstance(value, Failure) else Answer(value, self._meter.read())


class Meter:
    """What this process uses of CPU and memory. May be read from several threads."""

    # Shorter than this, the share of a CPU is noise: the kernel counts in hundredths of a second.
    _SPAN_S = 1.0

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._at_s = time.monotonic()
        self._cpu_s = self._spent_s()
        self._use = Use()

    def read(self) -> Use:
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._at_s >= self._SPAN_S:
                spent_s = self._spent_s()
                cpus = (spent_s - self._cpu_s) / (now_s - self._at_s)
                self._use = Use(cpus, self._process.memory_info().rss)
                self._at_s, self._cpu_s = now_s, spent_s
            return self._use

    def _spent_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _own_ip() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
