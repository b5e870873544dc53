"""Runners of schedules on a real cluster, as a command and as a job; what they start are jobs of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.cluster import BIN, cluster
from support.commands import MANY_BYTES, Command, environment, running
from support.forked import completed

from lakehouse_ray.testing.exchange import ReplicaExchange, SyntheticArchive

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
NEVER = "0 0 29 2 *"
SCHEDULES = (
    {"name": "ingest", "workflow": "ingest", "cron": NEVER,
     "parameters": {"market": "spot", "dataset": "klines", "interval": "1h"}},
    {"name": "build", "workflow": "build", "cron": NEVER},
    {"name": "wrong", "workflow": "update", "parameters": {"market": "cm"}, "cron": NEVER},
)  # fmt: skip


def until(wanted: Callable[[], Any], *commands: Command, timeout_s: float = 180) -> Any:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if found := wanted():
            return found
        time.sleep(0.5)
    raise AssertionError("\n".join(["it never came", *(command.said() for command in commands)]))


def asked(*arguments: str, env: dict[str, str]) -> Any:
    done = completed("schedule", *arguments, "--json", env=env, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_runner_that_is_a_job_follows_a_command_that_was_killed(tmp_path: Path) -> None:
    archive = SyntheticArchive(
        3, ["BTCUSDT"], ["spot"], date(2025, 1, 1), date(2025, 1, 4), trades_per_minute=1
    )
    with (
        ReplicaExchange(archive) as exchange,
        tempfile.TemporaryDirectory(prefix="r") as short,
        cluster(Path(short), nodes=1, cpus=2) as ray,
    ):
        lake = {
            "HOME": tmp_path / "home",
            "SCHEDULES": json.dumps(SCHEDULES),
            "SCHEDULER__LEASE_S": 4,
            "SCHEDULER__POLL_S": 0.5,
            "BINANCE__ARCHIVE_URL": exchange.url,
            "BINANCE__CM_URL": exchange.url,
            "COMPUTE__LOCAL_BYTES_MAX": MANY_BYTES,
        }
        ours = environment(**lake)
        env = {**ours, **{k: v for k, v in ray.environment.items() if k.startswith("RAY_")}}
        with running("schedule", "run", "--address", ray.address, env=env) as first:
            until(lambda: "keeping 3 schedules" in first.said(), first)
            job = {"env_vars": {k: v for k, v in ours.items() if k.startswith("LAKEHOUSE_")}}
            submitted = subprocess.run(
                [
                    BIN / "ray", "job", "submit", "--address", ray.dashboard, "--no-wait",
                    "--submission-id", "keeper", "--runtime-env-json", json.dumps(job), "--",
                    str(BIN / "python"), str(REPOSITORY / "jobs/scheduler.py"),
                ],
                env=env, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert submitted.returncode == 0, submitted.stderr

            def run_of(name: str) -> dict[str, Any]:
                return asked("history", name, env=ours)["runs"][0]  # type: ignore[no-any-return]

            asked("trigger", "ingest", env=ours)
            until(lambda: run_of("ingest")["ended_at"], first)
            asked("trigger", "build", env=ours)
            until(lambda: run_of("build")["state"] == "started", first)
            first.process.kill()
        # The job goes on; whoever follows finds it, and writes down its end.
        until(lambda: (asked("list", env=ours)["runner"]["lease"]) == 2)
        until(lambda: run_of("build")["ended_at"])
        asked("trigger", "wrong", env=ours)
        until(lambda: run_of("wrong")["ended_at"])
        states = {name: run_of(name) for name in ("ingest", "build", "wrong")}
        assert {name: run["state"] for name, run in states.items()} == {
            "ingest": "succeeded", "build": "succeeded", "wrong": "failed",
        }  # fmt: skip
        assert {run["place"] for run in states.values()} == {"ray"}
        assert states["ingest"]["duration_s"] > 0
        assert states["build"]["duration_s"] is None
        assert states["wrong"]["error"]
