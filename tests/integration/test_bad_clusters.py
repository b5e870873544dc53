"""Clusters that cannot do what is asked of them, as whoever types the command sees them."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import pytest
from support.cluster import Cluster, cluster, free_port
from support.commands import MANY_BYTES, environment, run, running
from support.lakes import assert_same, read_lake

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.head import Head
from lakehouse_ray.testing.exchange import ReplicaExchange, SyntheticArchive

pytestmark = pytest.mark.integration

INGEST = ("ingest", "--market", "spot", "--dataset", "klines", "--interval", "1h")
ARCHIVE = SyntheticArchive(
    3, ["BTCUSDT"], ["spot"], date(2025, 1, 1), date(2025, 1, 4), trades_per_minute=1
)

# Joins the cluster and holds something of it until its input ends.
HOLDS = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
{what}
print("held", flush=True)
sys.stdin.read()
"""
ALL_CPUS = """
@ray.remote(num_cpus=1)
class Holder:
    def up(self): return True
holder = Holder.remote()
ray.get(holder.up.remote())
"""
OBJECT_STORE = """
import numpy
held = [ray.put(numpy.ones(8 << 20, "uint8")) for _ in range(11)]
views = ray.get(held)
"""


@dataclass(frozen=True)
class Site:
    url: str
    ray: Cluster
    folder: Path

    def env(self, name: str, **settings: object) -> dict[str, str]:
        lake = {
            "HOME": self.folder / name,
            "BINANCE__ARCHIVE_URL": self.url,
            "RAY__ADDRESS": self.ray.address,
            "COMPUTE__WORKER_TIMEOUT_S": 3,
            **settings,
        }
        return environment(**lake) | self.ray.auth

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        with subprocess.Popen(
            [sys.executable, "-c", HOLDS.format(what=what), self.ray.address],
            env=self.ray.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as holder:  # fmt: skip
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        ReplicaExchange(ARCHIVE) as exchange,
        tempfile.TemporaryDirectory(prefix="bc", dir="/tmp") as short,
        cluster(Path(short), nodes=1, cpus=1) as ray,
    ):
        yield Site(exchange.url, ray, tmp_path_factory.mktemp("site"))


def test_no_cpu_is_free(site: Site) -> None:
    with site.held(ALL_CPUS):
        began_s = time.monotonic()
        code, said = run(*INGEST, env=site.env("busy"))
    assert code == 7, said
    assert time.monotonic() - began_s < 60
    assert "no worker of 1 CPUs and" in said
    assert "came up within 3 s" in said
    assert "Others may hold its CPUs: `ray status` shows who waits" in said


def test_a_label_that_no_node_has(site: Site) -> None:
    """Nobody holds its CPUs: there are none, and no autoscaler."""
    env = site.env("label", COMPUTE__NODE_LABEL="no/such", COMPUTE__NODE_TIMEOUT_S=3)
    code, said = run(*INGEST, env=env)
    assert code == 7, said
    assert "on nodes with no/such=small came within 3 s; the cluster has 1 node" in said
    assert "none of these could hold one" in said
    assert "no compute.node_label that its nodes do not have" in said
    assert "Others may hold" not in said


@pytest.mark.parametrize("how", [(), ("--dry-run",)])
def test_a_profile_that_no_node_can_hold(site: Site, how: tuple[str, ...]) -> None:
    code, said = run(*INGEST, *how, env=site.env("large", COMPUTE__PROFILE="large"))
    assert code == 2, said
    assert "profile large (4 CPUs, 8 GiB) fits no node; the cluster has 1 node" in said
    assert "choose a smaller profile" in said


def test_a_plan_is_of_the_cluster_that_would_do_the_work(site: Site) -> None:
    """Of one CPU, whatever this machine has; and few bytes are not done in the driver there."""
    code, said = run(*INGEST, "--dry-run", env=site.env("planned"))
    assert code == 0, said
    assert "1 worker on Ray, profile small (1 CPU and" in said


def test_a_wrong_token(site: Site, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    env = site.env("token") | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    code, said = run(*INGEST, env=env)
    assert code == 6, said
    port = site.ray.address.rpartition(":")[2]
    assert re.search(rf"the Ray cluster at [\d.]+:{port} refuses the token", said)
    assert "RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token" in said
    assert "0" * 64 not in said


def test_no_head_there(site: Site) -> None:
    port = free_port()
    code, said = run(*INGEST, env=site.env("none", RAY__ADDRESS=f"127.0.0.1:{port}"))
    assert code == 7, said
    assert re.search(rf"no Ray cluster answers at [\d.]+:{port}: .*Connection refused", said)
    assert "`ray status` on a machine of the cluster shows where its head is" in said


@pytest.mark.slow
def test_a_full_object_store_stops_nothing(site: Site) -> None:
    """Rows never pass through it: what workers hand back is small."""
    with site.held(OBJECT_STORE):
        code, said = run(*INGEST, env=site.env("full", COMPUTE__WORKER_TIMEOUT_S=60))
    assert code == 0, said
    local = environment(
        HOME=site.folder / "local",
        BINANCE__ARCHIVE_URL=site.url,
        COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES,
    )
    assert run(*INGEST, env=local)[0] == 0
    assert_same(read_lake(site.folder / "full"), read_lake(site.folder / "local"))


def test_a_silent_head_is_given_up_after_a_while() -> None:
    now_s = 0.0
    head = Head(f"127.0.0.1:{free_port()}", gone_after_s=35, clock=lambda: now_s)
    for now_s in (0.0, 34.9):  # noqa: B007 - the clock reads it
        assert head.check() is False
    now_s = 35.0
    with pytest.raises(
        UnavailableError, match="has not answered for 35 s, so the run was given up"
    ):
        head.check()


@pytest.mark.slow
def test_a_head_that_dies_ends_the_run_with_a_word(site: Site) -> None:
    """The last test of this module: it takes the cluster with it."""
    archive = SyntheticArchive(
        7, 6, ["spot"], date(2025, 1, 1), date(2025, 2, 11), trades_per_minute=1
    )
    with ReplicaExchange(archive) as exchange:
        env = site.env(
            "head", BINANCE__ARCHIVE_URL=exchange.url, INGEST__UNIT_BYTES_MAX=1 << 16,
            COMPUTE__WORKER_TIMEOUT_S=60,
        )  # fmt: skip
        with running(*INGEST[:-1], "1m", env=env) as one:
            one.wait_for_work()
            for child in psutil.Process().children(recursive=True):
                if child.name() == "gcs_server":
                    child.kill()
            began_s = time.monotonic()
            code = one.wait(120)
    assert code == 7, one.said()
    assert time.monotonic() - began_s < 59
    assert "has not answered for" in one.said()
    assert "run the same command again, it goes on from there" in one.said()
