"""Three runners at once over a lake that machines share: PostgreSQL as its catalog, a bucket for its data.

One keeps to the schedules; it is killed, another takes over. Every workflow can be scheduled.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.buckets import Bucket, moto
from support.commands import Command, environment, running
from support.in_process import run_here
from support.postgres_server import PROGRAMS, postgres
from support.receiver import Receiver, receiver

from lakehouse_ray.testing.exchange import ReplicaExchange, SyntheticArchive

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL here"),
]

NEVER = "0 0 29 2 *"
LEASE_S = 10.0
BARS = {"market": "spot", "dataset": "klines", "interval": "1h"}
SCHEDULES = (
    {"name": "ingest", "workflow": "ingest", "parameters": {**BARS, "end": "2025-01-03"}},
    {"name": "update", "workflow": "update", "parameters": {"end": "2025-01-04", "build": False}},
    {"name": "build", "workflow": "build"},
    {"name": "quality", "workflow": "quality", "parameters": {"market": "spot"}},
    # There is nothing of it.
    {"name": "wrong", "workflow": "update", "parameters": {"market": "cm"}},
    {"name": "each", "workflow": "build", "parameters": {"dry_run": True},
     "cron": "*/10 * * * * *", "catch_up": "last"},
)  # fmt: skip


@pytest.fixture(scope="module")
def catalog() -> Iterator[str]:
    with postgres() as uri:
        yield uri


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with moto() as made:
        yield made


@pytest.fixture(scope="module")
def exchange() -> Iterator[str]:
    archive = SyntheticArchive(
        3, ["BTCUSDT"], ["spot"], date(2025, 1, 1), date(2025, 1, 6), trades_per_minute=1
    )
    with ReplicaExchange(archive) as server:
        yield server.url


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(scope="module")
def env(
    catalog: str, bucket: Bucket, exchange: str, hook: Receiver, tmp_path_factory: Any
) -> dict[str, str]:
    home: Path = tmp_path_factory.mktemp("home")
    return environment(
        HOME=home,
        CATALOG__URI=catalog,
        SCHEDULES=json.dumps([{"cron": NEVER, **one} for one in SCHEDULES]),
        SCHEDULER__LEASE_S=LEASE_S,
        SCHEDULER__POLL_S=0.2,
        # All that is new is older than that.
        SCHEDULER__DAILY_STALLED_H=0.0001,
        ALERTS__WEBHOOK_URL=hook.url(),
        BINANCE__ARCHIVE_URL=exchange,
        BINANCE__SPOT_URL=exchange,
        BINANCE__CM_URL=exchange,
        **bucket.settings("lake"),
    )


def until(wanted: Callable[[], Any], *commands: Command, timeout_s: float = 120) -> Any:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if found := wanted():
            return found
        time.sleep(0.2)
    raise AssertionError("\n".join(["it never came", *(command.said() for command in commands)]))


def asked(*arguments: str, env: dict[str, str]) -> Any:
    done = run_here("schedule", *arguments, "--json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def runs(env: dict[str, str], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked("history", name, "--rows=10000", env=env)["runs"]
    return found


def told(hook: Receiver) -> set[str]:
    """Rule and subject of each alert."""
    labels = [one["labels"] for got in hook.received for one in got.document["alerts"]]
    return {f"{one['rule']} {one.get('schedule') or one['dataset']}" for one in labels}


def test_one_of_three_keeps_to_every_workflow_and_is_followed_when_it_is_killed(
    env: dict[str, str], hook: Receiver
) -> None:
    with ExitStack() as stack:
        runners = [stack.enter_context(running("schedule", "run", env=env)) for _ in range(3)]

        def leaders() -> list[Command]:
            return [one for one in runners if f"keeping {len(SCHEDULES)} schedules" in one.said()]

        [first] = until(leaders, *runners)
        for names in (["ingest"], ["update", "wrong"], ["build", "quality"]):
            for name in names:
                asked("trigger", name, env=env)
            for name in names:
                until(lambda name=name: runs(env, name)[0]["ended_at"], *runners)
        assert leaders() == [first]

        first.process.kill()
        killed_s = time.monotonic()
        until(lambda: len(leaders()) == 2, *runners)
        # A beat may be missed, and a process may be slow to look.
        assert time.monotonic() - killed_s < 6 * LEASE_S
        seen = len(runs(env, "each"))
        until(lambda: len(runs(env, "each")) > seen, *runners)
        until(lambda: {"run wrong", "stalled klines"} <= told(hook), *runners)
        for one in runners[:]:
            if one is not first:
                one.process.terminate()
        for one in runners:
            if one is not first:
                one.wait(60)

    states = {
        name: runs(env, name)[0] for name in ("ingest", "update", "wrong", "build", "quality")
    }
    assert {name: run["state"] for name, run in states.items()} == {
        "ingest": "succeeded", "update": "succeeded", "wrong": "failed", "build": "succeeded",
        "quality": "succeeded",
    }  # fmt: skip
    assert all(run["duration_s"] > 0 for run in states.values())
    assert "there is no" in states["wrong"]["error"] or "nothing of" in states["wrong"]["error"]
    assert run_here("sql", "select count(*) from silver.klines", env=env).stdout.count("72")

    # Every planned time has one run, or is told to have been passed over: none twice, none silently.
    each = runs(env, "each")
    planned: list[datetime] = []
    for run in each:
        first_at = datetime.fromisoformat(run["planned_at"])
        planned += [first_at + timedelta(seconds=10 * n) for n in range(run["times"] or 1)]
    planned.sort()
    assert {b - a for a, b in itertools.pairwise(planned)} == {timedelta(seconds=10)}
    # By the kill, and where the one that followed was told to end.
    assert sum(run["state"] == "interrupted" for run in each) <= 2
