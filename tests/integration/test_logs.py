"""What commands, their workers on Ray and the service say: events with ids, and data on stdout alone."""

from __future__ import annotations

import json
import os
import time
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from support.bars import BarLake, bars
from support.commands import KLINES_1M, environment, running, serve
from support.in_process import run_here
from support.stage import write

from lakehouse_ray.runtime.session import RaySession

pytestmark = pytest.mark.integration


def events(text: str) -> list[dict[str, Any]]:
    """Every line of it must be one."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all({"event", "level", "timestamp", "logger"} <= one.keys() for one in found)
    return found


def test_workers_on_ray_say_the_ids_of_their_run(tmp_path: Path, ray_session: RaySession) -> None:
    write(tmp_path / "archive", ["BTCUSDT"], date(2025, 1, 1), date(2025, 1, 4))
    log = tmp_path / "log.jsonl"
    with serve(tmp_path / "archive") as url:
        env = environment(
            HOME=tmp_path / "home", BINANCE__ARCHIVE_URL=url, COMPUTE__LOCAL_BYTES_MAX=0,
            LOG__FORMAT="json", LOG__LEVEL="info", LOG__FILE=log,
        )  # fmt: skip
        env |= {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
        done = run_here("ingest", *KLINES_1M, "--freq", "daily", "--json", env=env)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # and nothing else
    on_stderr, in_file = events(done.stderr), events(log.read_text())
    assert {one["command"] for one in on_stderr} == {"ingest"}
    (started,) = [one for one in on_stderr if one["event"] == "run started"]
    (ended,) = [one for one in in_file if one["event"] == "run ended"]
    assert started["run_id"] == ended["run_id"]
    units = [one for one in in_file if one["event"] == "unit ended"]
    assert units
    assert all(one["run_id"] == ended["run_id"] and one["unit"] for one in units)
    assert {one["symbols"] for one in units} == {"BTCUSDT"}
    # Said in other processes, so not on this one's stderr.
    assert not any(one["event"].startswith("unit") for one in on_stderr)
    assert document["files"] == 3
    assert "1440" not in done.stderr  # its rows are told as data, not as events


@pytest.mark.parametrize(
    ("arguments", "code", "workflows"),
    [
        (("maintain",), 0, ["maintain"]),
        (("fold",), 0, ["fold"]),
        (("build", "--symbols", "NOSUCH"), 4, ["build"]),
        (("quality", "--symbols", "NOSUCH"), 4, ["quality"]),
    ],
)
def test_every_workflow_says_when_it_begins_and_how_it_ended(
    tmp_path: Path, arguments: tuple[str, ...], code: int, workflows: list[str]
) -> None:
    lake = BarLake(tmp_path)
    lake.put(bars("BTCUSDT", "2024-01-01", 1))
    env = environment(HOME=tmp_path, LOG__FORMAT="json", LOG__LEVEL="info")
    done = run_here(*arguments, env=env)
    assert done.returncode == code, done.stderr
    told = [one for one in events(done.stderr) if one["event"].startswith("run ")]
    end = "run failed" if code else "run ended"
    assert [one["event"] for one in told] == ["run started", end]
    assert [one["workflow"] for one in told] == workflows * 2
    assert told[0]["run_id"] == told[1]["run_id"] != ""
    assert told[1]["state"] == ("failed" if code else "ok")
    assert told[1].get("error_kind") == ("NotFoundError" if code else None)
    assert told[1]["seconds"] >= 0


def test_the_service_says_whose_request_it_was(tmp_path: Path) -> None:
    env = environment(HOME=tmp_path, LOG__FORMAT="json", LOG__LEVEL="info")
    with running("serve", "--no-ray", "--port", "0", "--json", env=env) as command:
        deadline = time.monotonic() + 60
        while not command.out:
            assert time.monotonic() < deadline, command.said()
            time.sleep(0.05)
        url = json.loads(command.out[0])["url"]
        with urlopen(
            Request(f"{url}/health", headers={"X-Request-Id": "mine-1"}), timeout=30
        ) as got:
            told = got.headers["X-Request-Id"]
        command.process.terminate()
        command.wait()
    (request,) = [one for one in events("".join(command.err)) if one["event"] == "request"]
    assert (request["request_id"], request["status"], request["path"]) == (told, 200, "/health")
    assert request["command"] == "serve"


def test_an_error_is_an_event_too_and_usage_is_text(tmp_path: Path) -> None:
    env = environment(HOME=tmp_path, LOG__FORMAT="json")
    found = run_here("get", "BTCUSDT", "--market", "spot", "--interval", "1m", env=env)
    assert (found.returncode, found.stdout) == (4, "")
    assert next(iter(events(found.stderr)))["level"] == "error"
