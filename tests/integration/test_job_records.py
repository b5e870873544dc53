"""What a command that is a job leaves in the lake, whatever becomes of its cluster."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.commands import environment, running
from support.in_process import run_here

pytestmark = pytest.mark.integration


def as_job(home: Path, job_id: str, **settings: str) -> dict[str, str]:
    """The environment that Ray gives a job's process."""
    mark = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": job_id}})
    return environment(HOME=home, **settings) | {"RAY_JOB_CONFIG_JSON_ENV_VAR": mark}


def history(home: Path) -> list[dict[str, Any]]:
    found = run_here("jobs", "list", "--history", "--json", env=environment(HOME=home))
    assert found.returncode == 0, found.stderr
    documents: list[dict[str, Any]] = json.loads(found.stdout)["jobs"]
    return documents


def test_a_job_says_how_it_ended_and_one_that_cannot_say_it_is_told_as_unknown(
    tmp_path: Path,
) -> None:
    assert history(tmp_path) == []
    done = run_here("maintain", "--dry-run", env=as_job(tmp_path, "one"))
    assert done.returncode == 0, done.stderr
    (first,) = history(tmp_path)
    assert (first["id"], first["state"], first["exit_code"]) == ("one", "SUCCEEDED", 0)
    assert first["arguments"] == ["maintain", "--dry-run"]
    assert first["submitted"] <= first["ended"]
    # What a job starts has its mark too, and no record of its own.
    assert run_here("build", "no_such", env=as_job(tmp_path, "one")).returncode == 2
    assert history(tmp_path) == [first]
    # As one that was killed leaves it.
    record = tmp_path / "data" / "jobs" / "one.json"
    told = json.loads(record.read_text()) | {"ended_us": None, "exit_code": None}
    record.write_text(json.dumps(told))
    assert [one["state"] for one in history(tmp_path)] == ["UNKNOWN"]
    record.write_text("{")
    assert history(tmp_path) == []


def test_who_is_no_job_leaves_nothing(tmp_path: Path) -> None:
    assert run_here("maintain", "--dry-run", env=environment(HOME=tmp_path)).returncode == 0
    assert not (tmp_path / "data" / "jobs").exists()


def test_a_job_that_is_told_to_end_says_so(tmp_path: Path) -> None:
    schedules = json.dumps([{"name": "x", "cron": "0 0 1 1 *", "workflow": "maintain"}])
    env = as_job(tmp_path, "two", SCHEDULES=schedules)
    with running("schedule", "run", "--on", "local", env=env) as command:
        deadline = time.monotonic() + 60
        while not any(line.startswith("runner ") for line in command.err):
            assert time.monotonic() < deadline, command.said()
            time.sleep(0.1)
        command.process.send_signal(signal.SIGTERM)
        assert command.wait() == 143, command.said()
    (one,) = history(tmp_path)
    assert (one["workflow"], one["exit_code"], one["state"]) == ("schedule", 143, "STOPPED"), one
