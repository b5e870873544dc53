"""Clusters of nodes that were started by `ray start`, on loopback and guarded by a token."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(
    command: list[str], environment: dict[str, str], up: Callable[[], bool]
) -> Iterator[None]:
    """A child that is ended by its pid; started one after another, since two nodes at once hang."""
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not up():
            assert child.poll() is None, f"{command[:2]} ended with {child.returncode}"
            assert time.monotonic() < deadline, f"{command[:2]} is not up"
            time.sleep(0.3)
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def answers(url: str) -> bool:
    try:
        urlopen(url, timeout=2).read()
    except (URLError, OSError):
        return False
    return True


def nodes_alive(environment: dict[str, str], address: str) -> int:
    code = (
        f"import ray; ray.init('{address}', log_to_driver=False, logging_level='ERROR'); "
        "print(sum(n['Alive'] for n in ray.nodes()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return int(answer.stdout.strip() or 0)


@dataclass(frozen=True)
class Cluster:
    """address: Of its GCS. dashboard: Its url. environment: Of who joins it."""

    address: str
    dashboard: str
    environment: dict[str, str]

    @property
    def auth(self) -> dict[str, str]:
        """What of its environment a command needs that is told where the cluster is."""
        return {k: v for k, v in self.environment.items() if k.startswith("RAY_AUTH_")}


@contextmanager
def cluster(
    folder: Path, nodes: int = 2, cpus: int = 1, extra: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A head and more nodes. folder: Short, since Ray's sockets live below it."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    gcs, dashboard = free_port(), free_port()
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **(extra or {}),
    }
    # Nodes share this machine, and it perhaps with other clusters: each agent has a port of its own.
    # Nobody is told what workers print.
    common = [
        "--block",
        "--dashboard-agent-listen-port=0",
        "--include-log-monitor=false",
        f"--num-cpus={cpus}",
        "--object-store-memory=100000000",
    ]
    head = [
        str(BIN / "ray"), "start", "--head", *common, f"--port={gcs}", f"--temp-dir={folder}/r",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
    ]  # fmt: skip
    address, url = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
    with ExitStack() as stack:
        stack.enter_context(process(head, environment, lambda: answers(url)))
        for node in range(2, nodes + 1):
            command = [str(BIN / "ray"), "start", *common, f"--address={address}"]
            stack.enter_context(
                process(command, environment, lambda n=node: nodes_alive(environment, address) == n)
            )
        yield Cluster(address, url, environment)
