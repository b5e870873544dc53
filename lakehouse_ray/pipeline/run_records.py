"""Which runs are under way, and which were killed: a record each in the lake while it works.

A run's marker, which its workers look for, is its record too. One that ends by itself takes it away,
whatever its end; one that is killed, or interrupted, leaves it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import psutil  # type: ignore[import-untyped]

from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.paths import marker_folder, marker_path, run_of_marker
from lakehouse_ray.telemetry.command import GIVEN

# How far two readings of when a process started may lie apart.
_SAME_START_S = 1.0

State = Literal["running", "killed", "elsewhere", "unknown"]


@dataclass(frozen=True)
class RunRecord:
    """One run.

    arguments: Of `lakehouse`, the command's name first. Empty: not known.
    node, pid, process_started_s: The process that drives it; seconds since 1970.
    """

    run_id: str
    arguments: tuple[str, ...] = ()
    node: str = ""
    pid: int = 0
    process_started_s: float = 0.0

    @property
    def state(self) -> State:
        """running: Its process is there. killed: It is not. elsewhere: That cannot be told here.
        unknown: It says nothing of itself."""
        if not self.arguments:
            return "unknown"
        if self.node != platform.node():
            return "elsewhere"
        try:
            started_s = psutil.Process(self.pid).create_time()
        except psutil.Error:
            return "killed"
        # The number may be another process's by now.
        same = abs(started_s - self.process_started_s) <= _SAME_START_S
        return "running" if same else "killed"


def begin(store: ObjectStore, run_id: str) -> str:
    """Leave the record of this process's run; returns where. `end` takes it away."""
    own = psutil.Process()
    record = RunRecord(run_id, GIVEN.get(), platform.node(), own.pid, own.create_time())
    path = marker_path(run_id)
    store.put(path, json.dumps(asdict(record)).encode())
    return path


def end(store: ObjectStore, run_id: str) -> None:
    store.delete(marker_path(run_id))


def records(store: ObjectStore) -> list[RunRecord]:
    """Of all runs that have not ended by themselves, the oldest first."""
    return sorted(_records(store), key=lambda record: record.run_id)


def _records(store: ObjectStore) -> Iterator[RunRecord]:
    for path, _ in store.walk(marker_folder()):
        run_id = run_of_marker(path)
        if run_id is None:
            continue
        try:
            told = json.loads(store.get(path))
            yield RunRecord(
                run_id, tuple(map(str, told["arguments"])), str(told["node"]), int(told["pid"]),
                float(told["process_started_s"]),
            )  # fmt: skip
        except NotFoundError:
            continue  # it has ended meanwhile
        except (ValueError, KeyError, TypeError):
            yield RunRecord(run_id)
