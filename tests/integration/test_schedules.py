"""Runners as real processes over one lake: one keeps to the schedules, and is killed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.commands import Command, environment, running
from support.in_process import run_here

pytestmark = pytest.mark.integration

# Runs begin when they are asked for: a test that waits for the clock waits long.
NEVER = "0 0 29 2 *"


@pytest.fixture
def silent() -> Iterator[str]:
    """An archive that takes connections and never answers: what asks it goes on and on."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def env(tmp_path: Path, silent: str) -> dict[str, str]:
    schedules = [
        {
            "name": "endless", "cron": NEVER, "workflow": "ingest", "interrupted": "again",
            "parameters": {"market": "spot", "dataset": "klines", "interval": "1h"},
        },
        {"name": "seconds", "cron": "*/2 * * * * *", "workflow": "build", "catch_up": "last"},
    ]  # fmt: skip
    return environment(
        HOME=tmp_path / "home",
        SCHEDULES=json.dumps(schedules),
        SCHEDULER__LEASE_S=6,
        SCHEDULER__POLL_S=0.2,
        SCHEDULER__ATTEMPTS_MAX=2,
        BINANCE__ARCHIVE_URL=silent,
    )


def until(wanted: Callable[[], Any], *commands: Command, timeout_s: float = 90) -> Any:
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


def history(env: dict[str, str], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked("history", name, env=env)["runs"]
    return found


def children(command: Command) -> list[psutil.Process]:
    return command.offspring(lambda process: "ingest" in process.cmdline())


def test_a_killed_runner_is_followed_by_another_and_no_run_is_lost_or_begun_twice(
    env: dict[str, str],
) -> None:
    with running("schedule", "run", env=env) as first:
        until(lambda: "keeping 2 schedules" in first.said(), first)
        with running("schedule", "run", env=env) as second:
            run_id = asked("trigger", "endless", env=env)["run"]["run_id"]
            until(lambda: children(first), first)
            until(lambda: len(history(env, "seconds")) > 1, first)
            # Two are up, and one of them does all.
            assert "keeping" not in second.said()
            (orphan,) = children(first)
            first.process.kill()
            killed_s = time.monotonic()
            until(lambda: "keeping 2 schedules" in second.said(), first, second)
            assert time.monotonic() - killed_s < 60
            orphan.wait(30)
            until(lambda: children(second), second)
            states = {run["run_id"]: run["state"] for run in history(env, "endless")}
            assert states == {run_id: "interrupted", f"{run_id}-attempt2": "started"}
            # Told to end, it ends its runs and says so; attempts are used up.
            second.process.terminate()
            assert second.wait(60) == 143
    runs = history(env, "endless")
    assert [run["state"] for run in runs] == ["interrupted", "interrupted"]
    # What was lost with its runner was not watched to its end.
    assert sorted((run["attempt"], run["duration_s"] is None) for run in runs) == [
        (1, True), (2, False),
    ]  # fmt: skip
    assert asked("list", env=env)["runner"]["name"] is None

    # Each planned time once: begun, or passed over while a run went on.
    planned: list[str] = [
        run["planned_at"] for run in history(env, "seconds") if run["state"] != "skipped"
    ]
    assert planned
    assert len(planned) == len(set(planned))


def test_what_cannot_be_is_refused_with_a_hint(tmp_path: Path, env: dict[str, str]) -> None:
    none = run_here("schedule", "run", env=environment(HOME=tmp_path / "home"))
    assert none.returncode == 2
    assert "[[schedules]]" in none.stderr
    unknown = run_here("schedule", "trigger", "nightly", env=env)
    assert unknown.returncode == 2
    assert "endless, seconds" in unknown.stderr
    broken = json.dumps([{"name": "x", "cron": "61 * * * *", "workflow": "build"}])
    wrong = run_here("schedule", "list", env={**env, "LAKEHOUSE_SCHEDULES": broken})
    assert wrong.returncode == 2
    assert "schedule x: cron" in wrong.stderr


def test_an_unasked_lake_has_schedules_with_their_next_times(env: dict[str, str]) -> None:
    found = asked("list", env=env)
    assert [one["name"] for one in found["schedules"]] == ["endless", "seconds"]
    assert found["schedules"][0]["next"].endswith("-02-29T00:00:00Z")
    assert found["schedules"][0]["parameters"]["dataset"] == "klines"
    assert asked("history", env=env)["runs"] == []
