"""A node that is cut off from the network: it lives, and nobody is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from support.cluster import BIN, process
from support.commands import KLINES_1M, LAKEHOUSE, MANY_BYTES, environment
from support.lakes import assert_same, read_lake
from support.namespaces import Host, hosts, why_not
from support.stage import write

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

PORT = 6379
# A node is dead after three missed checks of a second, not after Ray's default of minutes.
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


def alive(host: Host, environment: dict[str, str], address: str) -> int:
    code = (
        "import sys; from ray._raylet import GcsClient\n"
        "print(sum(n.state == 0 for n in GcsClient(sys.argv[1]).get_all_node_info().values()))"
    )
    told = subprocess.run(
        host.command(sys.executable, "-c", code, address),
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int(told.stdout.strip() or 0)


@dataclass(frozen=True)
class Cluster:
    """A head without CPUs and two nodes of one, each a host of its own."""

    address: str
    head: Host
    others: list[Host]
    environment: dict[str, str]


@contextmanager
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    environment = os.environ | QUICK_HEALTH_CHECKS | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PYTHONPATH": f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}",
    }  # fmt: skip
    with ExitStack() as stack:
        short = stack.enter_context(tempfile.TemporaryDirectory(prefix="cut", dir="/tmp"))
        head, *others = stack.enter_context(hosts(3))
        address = f"{head.address}:{PORT}"
        common = ("--block", "--object-store-memory=100000000")
        start = (
            str(BIN / "ray"), "start", "--head", *common, f"--port={PORT}", "--num-cpus=0",
            f"--node-ip-address={head.address}", "--include-dashboard=false", f"--temp-dir={short}/r",
        )  # fmt: skip
        stack.enter_context(
            process(
                head.command(*start), environment, lambda: alive(head, environment, address) == 1
            )
        )
        for count, host in enumerate(others, start=2):
            join = (
                str(BIN / "ray"), "start", *common, f"--address={address}", "--num-cpus=1",
                f"--node-ip-address={host.address}",
            )  # fmt: skip
            stack.enter_context(
                process(
                    host.command(*join),
                    environment,
                    lambda n=count: alive(head, environment, address) == n,
                )
            )
        yield Cluster(address, head, others, environment)


def test_a_node_that_is_cut_off_is_made_up_for(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    with cluster(tmp_path) as found:
        script = str(Path(__file__).with_name("node_cut_off.py"))
        ended = subprocess.run(
            found.head.command(sys.executable, script, found.address, found.others[1].name),
            env=found.environment, stdout=subprocess.PIPE, text=True, timeout=180, check=True,
        )  # fmt: skip
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert seen["before"] == [found.others[0].address, found.others[1].address]
    assert seen["each_once"]
    assert seen["errors"] == []
    assert seen["last_place"] == found.others[0].address
    assert seen["workers_lost"] == 1
    assert seen["requeued"] >= 1
    assert seen["seconds"] < 60


def test_an_ingestion_ends_with_the_right_tables_though_a_node_is_cut_off(tmp_path: Path) -> None:
    """The node lives on, and writes into the same store: none of that is ever committed."""
    if reason := why_not():
        pytest.skip(reason)
    root = tmp_path / "archive"
    write(root, [f"{one}USDT" for one in ("BTC", "ETH", "SOL", "XRP", "ADA", "BNB")],
          date(2024, 6, 1), date(2024, 6, 21))  # fmt: skip
    # So slow that it is at work for a quarter of a minute.
    (tmp_path / "faults.toml").write_text(
        '[[rules]]\nmatch = "*.zip"\nfault = "slow"\nfirst_byte_s = 0.5\n'
    )
    command = (LAKEHOUSE, "ingest", *KLINES_1M, "--freq", "daily", "--json")

    def lake(name: str, **settings: object) -> dict[str, str]:
        return environment(
            HOME=tmp_path / name, BINANCE__ARCHIVE_URL=url, INGEST__UNIT_BYTES_MAX=1 << 16,
            INGEST__UNITS_PER_COMMIT=4, **settings,
        )  # fmt: skip

    with cluster(tmp_path) as found, ExitStack() as stack:
        exchange = stack.enter_context(
            subprocess.Popen(
                found.head.command(
                    LAKEHOUSE, "exchange", "--root", str(root), "--host", found.head.address,
                    "--faults", str(tmp_path / "faults.toml"), "--json",
                ),
                stdout=subprocess.PIPE, text=True, env=found.environment,
            )
        )  # fmt: skip
        stack.callback(exchange.terminate)
        assert exchange.stdout is not None
        url = json.loads(exchange.stdout.readline())["url"]
        on_cluster = lake("cut", RAY__ADDRESS=found.address, COMPUTE__PROFILE="small",
                          INGEST__REQUESTS_IN_FLIGHT=2)  # fmt: skip
        run = subprocess.Popen(
            found.head.command(*command), stdout=subprocess.PIPE, text=True,
            env=found.environment | on_cluster,
        )  # fmt: skip
        until_s = time.monotonic() + 120
        while len(list((tmp_path / "cut/data/bronze").rglob("*.zip"))) < 20:
            assert run.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.1)
        found.others[1].cut_off()
        said, _ = run.communicate(timeout=120)
        assert run.returncode == 0, said
        alone = lake("alone", COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES, INGEST__REQUESTS_IN_FLIGHT=64)
        subprocess.run(
            found.head.command(*command), env=found.environment | alone, check=True, timeout=120,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    report = json.loads(said)
    assert (report["files"], report["failed"], report["workers_lost"]) == (120, 0, 1)
    assert report["requeued"] >= 1
    assert_same(read_lake(tmp_path / "cut"), read_lake(tmp_path / "alone"))
