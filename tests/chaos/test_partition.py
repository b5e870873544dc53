"""A node that is cut off from the network: it lives, and nobody is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.cluster import BIN, process
from support.namespaces import Host, hosts, why_not

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


def test_a_node_that_is_cut_off_is_made_up_for(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    token = tmp_path / "token"
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
        script = str(Path(__file__).with_name("node_cut_off.py"))
        ended = subprocess.run(
            head.command(sys.executable, script, address, others[1].name),
            env=environment, stdout=subprocess.PIPE, text=True, timeout=180, check=True,
        )  # fmt: skip
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert seen["before"] == [others[0].address, others[1].address]
    assert seen["each_once"]
    assert seen["errors"] == []
    assert seen["last_place"] == others[0].address
    assert seen["workers_lost"] == 1
    assert seen["requeued"] >= 1
    assert seen["seconds"] < 60
