"""What a cluster shows of jobs: its exporter of those whose work needs no worker, its dashboard of the rest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars
from support.cluster import BIN, Cluster, cluster
from support.prometheus import eventually

from lakehouse_ray.testing.exchange import ReplicaExchange, SyntheticArchive

pytestmark = pytest.mark.integration


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hj-", dir="/tmp"))  # short: Ray's sockets live below it
    yield path
    shutil.rmtree(path, ignore_errors=True)


def submitted(started: Cluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = started.environment | {"LAKEHOUSE_RAY__DASHBOARD_URL": started.dashboard}
    return subprocess.run(
        [str(BIN / "lakehouse"), "jobs", "submit", "--follow", *arguments],
        env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def counted(folder: Path) -> dict[str, float]:
    """What the exporter shows of ours: name and labels, but for those that Ray adds."""
    nodes = json.loads((folder / "r" / "prom_metrics_service_discovery.json").read_text())
    with urllib.request.urlopen(f"http://{nodes[0]['targets'][0]}/metrics") as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in re.findall(r"(?m)^(ray_lakehouse_\w+)\{(.*)\} (\S+)$", text):
        own = sorted(re.findall(r'((?:workflow|outcome|workload|action|rule)="[^"]*")', labels))
        found[f"{name}{{{','.join(own)}}}"] = float(value)
    return found


def listed(started: Cluster, kind: str) -> list[dict[str, Any]]:
    """As `ray list` says it, which is what the dashboard shows."""
    command = [str(BIN / "ray"), "list", kind, f"--address={started.dashboard}", "--format=json"]
    done = subprocess.run(
        command, env=started.environment, capture_output=True, text=True, check=True, timeout=60
    )
    found: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[") :])
    return found


def test_the_dashboard_says_what_workers_and_tasks_are_of(folder: Path) -> None:
    days = date(2025, 1, 1), date(2025, 1, 5)
    with ReplicaExchange(SyntheticArchive(7, ["BTCUSDT"], ["spot"], *days)) as exchange:
        extra = {
            "LAKEHOUSE_HOME": str(folder / "home"),
            "LAKEHOUSE_BINANCE__ARCHIVE_URL": exchange.url,
            "LAKEHOUSE_COMPUTE__LOCAL_BYTES_MAX": "0",
        }
        asked = ("--market", "spot", "--dataset", "klines", "--interval", "1h", "--freq", "daily")
        with cluster(folder, nodes=1, extra=extra) as started:
            done = submitted(started, folder, "ingest", "--", *asked)
            assert done.returncode == 0, done.stdout + done.stderr
            names = {actor["name"] for actor in listed(started, "actors")}
            ours = {name for name in names if name.startswith("ingest spot klines 1h ")}
            assert len(ours) == 1, names
            assert next(iter(ours)).endswith(" worker 0")
            tasks = {task["name"] for task in listed(started, "tasks")}
            assert "ingest spot klines 1h, of 1 unit" in tasks
            # Other work says how much it is, too; a score of synthetic bars is no matter here.
            assert submitted(started, folder, "build", "--", "daily").returncode == 0
            assert submitted(started, folder, "quality").returncode in (0, 5)
            tasks = {task["name"] for task in listed(started, "tasks")}
            assert {"build", "assess, of 1 unit"} <= tasks


def test_what_a_job_counts_is_heard_though_it_asks_for_no_worker(folder: Path) -> None:
    lake = BarLake(folder / "home")
    lake.put(bars("AAA", "2024-05-20", 3))
    extra = {"LAKEHOUSE_HOME": str(lake.home), "RAY_metrics_report_interval_ms": "1000"}
    with cluster(folder, nodes=1, extra=extra) as started:
        built = submitted(started, folder, "build", "--", "daily")
        assert built.returncode == 0, built.stdout + built.stderr
        assert "1 worker in this process" in built.stdout + built.stderr
        maintained = submitted(started, folder, "maintenance")
        assert maintained.returncode == 0, maintained.stdout + maintained.stderr
        nothing = submitted(started, folder, "build", "--", "daily", "--symbols", "NOSUCH")
        assert nothing.returncode == 4, nothing.stdout + nothing.stderr
        wanted = {
            'ray_lakehouse_runs_total{outcome="ok",workflow="build"}': 1,
            'ray_lakehouse_runs_total{outcome="failed",workflow="build"}': 1,
            'ray_lakehouse_runs_total{outcome="ok",workflow="maintain"}': 1,
            'ray_lakehouse_pool_decisions_total{action="sized",rule="local",workload="build"}': 1,
        }
        eventually(
            lambda: wanted.items() <= counted(folder).items(),
            lambda: json.dumps(counted(folder), indent=1),
        )
