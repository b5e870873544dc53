"""A head with Ray's own autoscaler (v2), and node types that it may start and end on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from support.cluster import BIN, answers, free_port, process
from support.process_nodes import end

GIB = 1 << 30
LABEL = "lakehouse-ray/profile"
_LISTS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
    "rsync_filter",
)  # fmt: skip

# Prints the living nodes by kind whenever they change. A process of its own: its token is its own.
_WATCH = """
import json, os, sys, time
from ray._raylet import GcsClient
from ray.core.generated import gcs_pb2
client, last = GcsClient(sys.argv[1]), None
while True:
    try:
        nodes = client.get_all_node_info(timeout=5).values()
    except Exception as error:
        nodes = []
    kinds = sorted(n.node_type_name or "head" for n in nodes if n.state == gcs_pb2.GcsNodeInfo.ALIVE)
    if kinds != last:
        last = kinds
        print(json.dumps(kinds), flush=True)
    time.sleep(0.3)
"""


@dataclass(frozen=True)
class NodeType:
    """A kind of machine. profile: The one of the allocator's that it is for."""

    cpus: int
    memory_gib: int
    profile: str
    most: int


@dataclass
class Autoscaled:
    """address: Of its GCS. dashboard: Its url. environment: Of who joins it.

    seen: Seconds since the start, and the kinds of the nodes that lived from then on.
    """

    address: str
    dashboard: str
    environment: dict[str, str]
    folder: Path
    head_pid: int = 0
    seen: list[tuple[float, list[str]]] = field(default_factory=list)

    @property
    def auth(self) -> dict[str, str]:
        """What of its environment a command needs that is told where the cluster is."""
        return {k: v for k, v in self.environment.items() if k.startswith("RAY_AUTH_")}

    @property
    def workers(self) -> list[str]:
        """Kinds of the nodes that live now, without the head."""
        return [kind for kind in (self.seen[-1][1] if self.seen else []) if kind != "head"]

    def most_of(self, kind: str) -> int:
        return max((kinds.count(kind) for _, kinds in self.seen), default=0)

    def wait_for(self, what: Callable[[list[str]], bool], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not what(self.workers):
            assert time.monotonic() < until, f"after {timeout_s} s: {self.seen}"
            time.sleep(0.1)

    def machines(self, kind: str) -> list[int]:
        """Pids of the machines of a kind that were ever started, in the order of their start."""
        notes = sorted(self.folder.glob("f*.json"))
        return [n["pid"] for n in map(_read, notes) if n["kind"] == kind]

    def kill(self, pid: int) -> None:
        end(pid)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@contextmanager
def autoscaled(
    folder: Path,
    types: Mapping[str, NodeType],
    *,
    idle_s: float = 4,
    extra: Mapping[str, str] | None = None,
) -> Iterator[Autoscaled]:
    """A head without CPUs. folder: Short, since Ray's sockets live below it."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    gcs, dashboard = free_port(), free_port()
    nodes = folder / "nodes"
    nodes.mkdir()
    # Nodes reach the head where Ray puts it, whatever address it is told.
    gcs_address = f"{get_node_ip_address()}:{gcs}"  # type: ignore[no-untyped-call]
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(_config(types, gcs_address, nodes, idle_s)))
    joining = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        **(extra or {}),
    }
    head_only = {
        "PYTHONPATH": f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    command = [
        str(BIN / "ray"), "start", "--head", "--block", f"--port={gcs}", "--num-cpus=0",
        f"--temp-dir={folder}/r", "--object-store-memory=100000000", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0",
        f"--autoscaling-config={config}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{dashboard}"
    found = Autoscaled(f"127.0.0.1:{gcs}", url, joining, nodes)
    try:
        with process(command, joining | head_only, lambda: answers(url)), _watching(found):
            yield found
    finally:
        for note in nodes.glob("f*.json"):
            end(_read(note)["pid"])


def _config(
    types: Mapping[str, NodeType], gcs_address: str, nodes: Path, idle_s: float
) -> dict[str, Any]:
    provider = {
        "type": "external",
        "module": "support.process_nodes.ProcessNodes",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": gcs_address,
        "folder": str(nodes),
    }
    available: dict[str, Any] = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    }
    for name, one in types.items():
        available[name] = {
            "resources": {"CPU": one.cpus, "memory": one.memory_gib * GIB},
            "labels": {LABEL: one.profile},
            "node_config": {},
            "min_workers": 0,
            "max_workers": one.most,
        }
    return {
        "cluster_name": "lake",
        "max_workers": 8,
        "provider": provider,
        "available_node_types": available,
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in _LISTS},
    }


@contextmanager
def _watching(found: Autoscaled) -> Iterator[None]:
    began_s = time.monotonic()
    watch = subprocess.Popen(
        [sys.executable, "-c", _WATCH, found.address],
        env=found.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip

    def read() -> None:
        assert watch.stdout is not None
        for line in watch.stdout:
            found.seen.append((round(time.monotonic() - began_s, 1), json.loads(line)))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            watch.kill()
        watch.wait()
        reader.join(5)
