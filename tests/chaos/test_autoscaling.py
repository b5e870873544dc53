"""Bulk ingestion where nodes come for the work and go after it, by Ray's own autoscaler.

The machines are processes, the autoscaler is the real one; the commands are the real ones.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.autoscaled import LABEL, Autoscaled, NodeType, autoscaled
from support.commands import KLINES_1M, MANY_BYTES, environment, run, running, serve
from support.lakes import Contents, assert_same, read_lake
from support.stage import write

pytestmark = pytest.mark.chaos

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]
TYPES = {
    "ingestion": NodeType(cpus=2, memory_gib=4, profile="medium", most=2),
    "processing": NodeType(cpus=4, memory_gib=8, profile="large", most=1),
}
FEW = ("--start", "2025-02-01", "--end", "2025-02-11")


@dataclass(frozen=True)
class Site:
    """An archive that is served, a cluster without workers, a folder for lakes."""

    url: str
    cluster: Autoscaled
    folder: Path

    def local(self, name: str) -> dict[str, str]:
        return environment(
            HOME=self.folder / name,
            BINANCE__ARCHIVE_URL=self.url,
            COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES,
            INGEST__UNIT_BYTES_MAX=1 << 16,
        )

    def on_cluster(self, name: str, **settings: object) -> dict[str, str]:
        lake = {
            "HOME": self.folder / name,
            "BINANCE__ARCHIVE_URL": self.url,
            "RAY__ADDRESS": self.cluster.address,
            # Two large workers, or four medium ones: more than the nodes that may come will hold.
            "COMPUTE__CPUS_MAX": 8,
            "COMPUTE__NODE_LABEL": LABEL,
            "INGEST__UNIT_BYTES_MAX": 1 << 16,
            "INGEST__UNITS_PER_COMMIT": 1,
            "LOG__LEVEL": "info",
            **settings,
        }
        return environment(**lake) | self.cluster.auth


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    write(folder / "archive", SYMBOLS, date(2025, 1, 1), date(2025, 2, 11))
    with (
        tempfile.TemporaryDirectory(prefix="as", dir="/tmp") as short,
        serve(folder / "archive") as url,
        autoscaled(Path(short), TYPES) as cluster,
    ):
        yield Site(url, cluster, folder)


def report(said: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(x for x in said.splitlines() if x.startswith("{")))
    return found


def objects(home: Path) -> list[Path]:
    """What a run has in bronze by now."""
    return list((home / "data" / "bronze").rglob("*.zip"))


def rows(home: Path) -> Contents:
    """Without the log of builds: its fingerprints are of files, whose names are by chance."""
    lake = read_lake(home)
    assert lake.rows("gold.build_log") > 0
    kept = {name: table for name, table in lake.tables.items() if name != "gold.build_log"}
    return replace(lake, tables=kept)


def run_on(name: str, site: Site, *command: str) -> dict[str, Any]:
    with running(*command, "--json", env=site.on_cluster(name)) as one:
        assert one.wait(180) == 0, one.said()
    return report("".join(one.out))


def test_nodes_come_for_the_work_and_go_after_it(site: Site) -> None:
    cluster = site.cluster
    assert cluster.workers == []
    assert run_on("far", site, "ingest", *KLINES_1M, *FEW)["executor"] == "ray"
    code, said = run("ingest", *KLINES_1M, *FEW, env=site.local("near"))
    assert code == 0, said
    assert_same(read_lake(site.folder / "far"), read_lake(site.folder / "near"))
    assert 1 <= cluster.most_of("ingestion") <= 2
    assert cluster.most_of("processing") == 0
    cluster.wait_for(lambda workers: not workers, 60)


@pytest.mark.slow
def test_one_ingestion_brings_nodes_of_each_kind_that_its_work_needs(site: Site) -> None:
    cluster = site.cluster
    command = ("ingest", *KLINES_1M, "--build")
    before = len(cluster.seen)
    told = run_on("both", site, *command)
    assert told["executor"] == told["built"]["executor"] == "ray"
    code, said = run(*command, env=site.local("here"))
    assert code == 0, said
    assert_same(rows(site.folder / "both"), rows(site.folder / "here"))
    assert cluster.most_of("ingestion") == 2
    assert cluster.most_of("processing") == 1
    first = next(kinds for _, kinds in cluster.seen[before:] if len(kinds) > 1)
    assert "ingestion" in first
    assert "processing" not in first
    cluster.wait_for(lambda workers: not workers, 60)


def test_what_no_node_type_holds_is_refused_with_what_to_do(site: Site) -> None:
    env = site.on_cluster("refused", COMPUTE__PROFILE="xlarge", COMPUTE__WORKER_TIMEOUT_S=5)
    with running("ingest", *KLINES_1M, *FEW, env=env) as one:
        assert one.wait(60) == 7
    said = one.said()
    assert "the cluster's autoscaler has no node for a worker of 8 CPUs and 16384 MiB" in said
    assert f"on nodes with {LABEL}=xlarge" in said
    assert "compute.profile" in said
    assert "maxReplicas" in said


@pytest.mark.slow
def test_a_node_that_is_killed_is_made_up_for(site: Site) -> None:
    cluster = site.cluster
    before = len(cluster.machines("ingestion"))
    with running("ingest", *KLINES_1M, "--json", env=site.on_cluster("killed")) as one:
        until = time.monotonic() + 120
        while one.process.poll() is None and len(objects(site.folder / "killed")) < 5:
            assert time.monotonic() < until, one.said()
            time.sleep(0.02)
        # The first machine: its worker is at work, with most of it before it.
        cluster.kill(cluster.machines("ingestion")[before])
        assert one.wait(240) == 0, one.said()
    told = report("".join(one.out))
    assert told["workers_lost"] >= 1
    assert told["failed"] == 0
    code, said = run("ingest", *KLINES_1M, env=site.local("unharmed"))
    assert code == 0, said
    assert_same(read_lake(site.folder / "killed"), read_lake(site.folder / "unharmed"))
