"""What a cluster shows of jobs: its exporter of those whose work needs no worker, its dashboard of the rest."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars
from support.cluster import Cluster, cluster
from support.commands import environment
from support.forked import completed
from support.prometheus import eventually

from lakehouse_ray.testing.exchange import ReplicaExchange, SyntheticArchive

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Site:
    """A head, and a folder with what its jobs have for a home."""

    ray: Cluster
    folder: Path

    def run(self, *arguments: str, **settings: object) -> Any:
        env = environment(**settings) | self.ray.auth
        return completed(*arguments, env=env, cwd=self.folder, text=True)

    def submitted(self, *arguments: str) -> Any:
        where = {"RAY__DASHBOARD_URL": self.ray.dashboard}
        return self.run("jobs", "submit", "--follow", *arguments, **where)

    def listed(self, kind: str) -> set[str]:
        """The names that the dashboard shows of its actors or tasks."""
        token = Path(self.ray.auth["RAY_AUTH_TOKEN_PATH"]).read_text()
        asked = urllib.request.Request(
            f"{self.ray.dashboard}/api/v0/{kind}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found = json.load(answer)["data"]["result"]["result"]
        return {one["name"] for one in found}

    def counted(self) -> dict[str, float]:
        """What the exporter shows of ours: name and labels, but for those that Ray adds."""
        nodes = json.loads((self.folder / "r" / "prom_metrics_service_discovery.json").read_text())
        with urllib.request.urlopen(f"http://{nodes[0]['targets'][0]}/metrics") as answer:
            text = answer.read().decode()
        found = {}
        for name, labels, value in re.findall(r"(?m)^(ray_lakehouse_\w+)\{(.*)\} (\S+)$", text):
            own = re.findall(r'((?:workflow|outcome|workload|action|rule)="[^"]*")', labels)
            found[f"{name}{{{','.join(sorted(own))}}}"] = float(value)
        return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="hj-", dir="/tmp"))  # short: Ray's sockets live below it
    extra = {"LAKEHOUSE_HOME": str(folder / "home"), "RAY_metrics_report_interval_ms": "1000"}
    try:
        with cluster(folder, nodes=1, extra=extra) as started:
            yield Site(started, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_what_a_job_counts_is_heard_though_it_asks_for_no_worker(site: Site) -> None:
    """The first of this module: what others run is counted, too."""
    BarLake(site.folder / "home").put(bars("AAA", "2024-05-20", 3))
    built = site.submitted("build", "--", "daily")
    assert built.returncode == 0, built.stdout + built.stderr
    assert "1 worker in this process" in built.stdout + built.stderr
    maintained = site.submitted("maintenance")
    assert maintained.returncode == 0, maintained.stdout + maintained.stderr
    nothing = site.submitted("build", "--", "daily", "--symbols", "NOSUCH")
    assert nothing.returncode == 4, nothing.stdout + nothing.stderr
    wanted = {
        'ray_lakehouse_runs_total{outcome="ok",workflow="build"}': 1,
        'ray_lakehouse_runs_total{outcome="failed",workflow="build"}': 1,
        'ray_lakehouse_runs_total{outcome="ok",workflow="maintain"}': 1,
        'ray_lakehouse_pool_decisions_total{action="sized",rule="local",workload="build"}': 1,
    }
    eventually(
        lambda: wanted.items() <= site.counted().items(),
        lambda: json.dumps(site.counted(), indent=1),
    )


def test_the_dashboard_says_what_workers_and_tasks_are_of(site: Site) -> None:
    days = date(2025, 1, 1), date(2025, 1, 5)
    with ReplicaExchange(SyntheticArchive(7, ["BTCUSDT"], ["spot"], *days)) as exchange:
        settings: dict[str, object] = {
            "HOME": site.folder / "other",
            "RAY__ADDRESS": site.ray.address,
            "BINANCE__ARCHIVE_URL": exchange.url,
            "COMPUTE__LOCAL_BYTES_MAX": 0,
        }
        asked = ("--market", "spot", "--dataset", "klines", "--interval", "1h", "--freq", "daily")
        done = site.run("ingest", *asked, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        names = {name for name in site.listed("actors") if name.startswith("ingest ")}
        assert len(names) == 1, names
        assert re.fullmatch(r"ingest spot klines 1h \S+ worker 0", names.pop())
        assert "ingest spot klines 1h, of 1 unit" in site.listed("tasks")
        # Other work says how much it is, too; a score of synthetic bars is no matter here.
        assert site.run("build", "daily", **settings).returncode == 0
        assert site.run("quality", **settings).returncode in (0, 5)
        assert {"build", "assess, of 1 unit"} <= site.listed("tasks")
