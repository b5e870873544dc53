"""The service on a cluster of two started nodes: by the command, and by a configuration."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars
from support.cluster import BIN, Cluster, cluster, free_port
from support.served import Served

import lakehouse_ray as lh
from lakehouse_ray.access.keys import KeyFile
from lakehouse_ray.clock import SystemClock

pytestmark = pytest.mark.acceptance

ASKED: dict[str, object] = {"symbol": "BTCUSDT", "interval": "1h", "format": "json"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lc-"))  # short: Ray's sockets live below it
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def home(folder: Path) -> Path:
    home = folder / "home"
    BarLake(home).put(bars("BTCUSDT", "2024-01-01", 10, holes=0))
    return home


@pytest.fixture(scope="module")
def started(folder: Path, home: Path) -> Iterator[Cluster]:
    settings = {
        "LAKEHOUSE_HOME": str(home),
        "LAKEHOUSE_SERVE__REPLICAS_MIN": "2",
        "LAKEHOUSE_SERVE__REPLICAS_MAX": "2",
        "LAKEHOUSE_SERVE__JOBS": "true",
    }
    with cluster(folder, extra=settings) as found:
        yield found


def test_the_command_serves_on_the_cluster_as_long_as_it_runs(started: Cluster, home: Path) -> None:
    port = free_port()
    command = [
        str(BIN / "lakehouse"), "serve", "--address", started.address, "--port", str(port), "--json",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=started.environment) as process:
        try:
            assert process.stdout is not None
            served = Served(json.loads(process.stdout.readline())["url"])
            assert served.url == f"http://127.0.0.1:{port}"
            reply = served.get("/v1/klines", **ASKED)
            assert reply.status == 200, reply.body
            assert reply.json["row_count"] == 240
            # One replica on each node, since each has one CPU.
            assert sorted(replicas(started).values()) == [1, 1]
            again = subprocess.run(
                command, env=started.environment, capture_output=True, text=True, check=False
            )
            assert again.returncode == 8, again.stderr
            assert "runs on this cluster already" in again.stderr
            assert served.get("/v1/klines", **ASKED).status == 200
            lake = lh.connect(served.url)
            # Both CPUs are the replicas'; what is small runs in the job's own process.
            job = lake.jobs.submit("build", products=["daily"])  # type: ignore[union-attr]
            done = lake.jobs.wait(job["id"], timeout_s=120)  # type: ignore[union-attr]
            assert done["state"] == "SUCCEEDED", done["message"]
        finally:
            process.terminate()
            assert process.wait(60) == 143
    # The application is gone; Ray Serve and its proxy stay, for those of others.
    wait_for(lambda: not replicas(started))
    assert served.get("/v1/klines", **ASKED).status == 404
    assert applications(started) == {}


def test_a_configuration_is_deployed_and_needs_keys(
    started: Cluster, home: Path, folder: Path
) -> None:
    printed = subprocess.run(
        [str(BIN / "lakehouse"), "serve", "--print-config"],
        env=started.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    config = folder / "serve.yaml"
    config.write_text(printed)
    assert deploy(started, config).returncode == 0
    # Nobody holds a key, so nobody could ask; it is not deployed without.
    wait_for(lambda: applications(started).get("lakehouse") == "DEPLOY_FAILED")
    _, key = KeyFile(home / "keys.json", SystemClock()).create("test", 1)
    assert deploy(started, config).returncode == 0
    wait_for(lambda: applications(started).get("lakehouse") == "RUNNING")
    # The port is that of the Ray Serve that ran already.
    served = Served(f"http://127.0.0.1:{listens(started)}")
    assert served.get("/v1/klines", **ASKED).status == 401
    reply = served.get("/v1/klines", {"Authorization": f"Bearer {key}"}, **ASKED)
    assert (reply.status, reply.json["row_count"]) == (200, 240)
    assert sorted(replicas(started).values()) == [1, 1]


def deploy(started: Cluster, config: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "serve"), "deploy", str(config), "--address", started.dashboard]
    return subprocess.run(
        command, env=started.environment, capture_output=True, text=True, check=False
    )


def state(started: Cluster) -> dict[str, Any]:
    """What Ray Serve says of itself, by its own interface."""
    token = Path(started.environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    reply = Served(started.dashboard).get(
        "/api/serve/applications/", {"Authorization": f"Bearer {token}"}
    )
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


def applications(started: Cluster) -> dict[str, str]:
    return {name: told["status"] for name, told in state(started)["applications"].items()}


def listens(started: Cluster) -> int:
    return int(state(started)["http_options"]["port"])


def replicas(started: Cluster) -> Counter[str]:
    """Running replicas by node."""
    found = state(started)["applications"].get("lakehouse", {}).get("deployments", {})
    return Counter(
        replica["node_id"]
        for deployment in found.values()
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    )


def wait_for(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.3)
