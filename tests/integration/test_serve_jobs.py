"""Jobs of `lakehouse serve` on its own local Ray: real runs of the real commands."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.commands import LAKEHOUSE, environment
from support.served import Served

import lakehouse_ray as lh
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.remote.jobs import JobFacts
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

CANARY = "c4n4ry-of-the-webhook"
ARCHIVE = SyntheticArchive(
    3, symbols=["BTCUSDT", "ETHUSDT"], markets=["spot"],
    start=date(2024, 5, 1), end=date(2024, 5, 3),
)  # fmt: skip
# The first zips of ETHUSDT, and all of bars of an hour, come after the test.
SLOW = {"first_byte_s": 60.0, "bytes_per_s": 0.0}
FAULTS = Faults(
    [
        Rule("*/ETHUSDT-1m-*.zip", "slow", times=1, params=SLOW),
        Rule("*-1h-*.zip", "slow", params=SLOW),
    ]
)
INGEST: dict[str, Any] = {
    "market": "spot", "dataset": "klines", "interval": "1m", "symbols": ["BTCUSDT"],
    "freq": "daily",
}  # fmt: skip


@dataclass(frozen=True)
class Running:
    home: Path
    process: subprocess.Popen[bytes]
    served: Served
    dashboard: str

    @property
    def lake(self) -> lh.RemoteLake:
        return lh.connect(self.served.url)  # type: ignore[return-value]

    def ended(self, job: JobFacts) -> JobFacts:
        return self.lake.jobs.wait(job["id"], timeout_s=120, every_s=0.2)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("jobs")
    home = folder / "home"
    with ReplicaExchange(ARCHIVE, FAULTS) as exchange:
        env = environment(
            HOME=home, SERVE__JOBS="true", BINANCE__ARCHIVE_URL=exchange.url,
            COMPUTE__LOCAL_BYTES_MAX=0, ALERTS__WEBHOOK_TOKEN=CANARY,
        )  # fmt: skip
        with (folder / "stderr").open("wb") as told:
            process = subprocess.Popen(
                [LAKEHOUSE, "serve", "--port", "0", "--json"],
                stdout=subprocess.PIPE, stderr=told, env=env, cwd=folder,
            )  # fmt: skip
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "stderr").read_text()
            said = json.loads(line)
            yield Running(home, process, Served(said["url"]), said["dashboard_url"])
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def test_a_submitted_ingest_brings_rows_that_are_then_answered(running: Running) -> None:
    jobs = running.lake.jobs
    job = jobs.submit("ingest", key="the-first", **INGEST)
    assert job["id"].startswith("ingest-spot-klines-1m-")
    assert job["state"] in ("PENDING", "RUNNING")
    assert jobs.submit("ingest", key="the-first", **INGEST)["id"] == job["id"]
    with pytest.raises(InvalidError, match=job["id"]):
        jobs.submit("ingest", key="the-first", **{**INGEST, "interval": "1h"})
    done = running.ended(job)
    said = "\n".join(jobs.log(job["id"]))
    assert (done["state"], done["exit_code"]) == ("SUCCEEDED", 0), said
    # On Ray's workers, beside the replica that answers: it has reserved no CPU.
    assert "on Ray" in said
    assert done["ended"] > done["submitted"]  # type: ignore[operator]
    rows = running.served.get("/v1/klines", symbol="BTCUSDT", interval="1m").json
    assert rows["row_count"] == 2 * 1440
    # By that key it is the job of before, also now.
    assert jobs.submit("ingest", key="the-first", **INGEST)["state"] == "SUCCEEDED"
    assert [one["id"] for one in jobs.list()] == [job["id"]]


def test_what_derives_and_what_assesses_runs_too(running: Running) -> None:
    jobs = running.lake.jobs
    built = running.ended(jobs.submit("build", products=["daily"], markets=["spot"]))
    assert built["state"] == "SUCCEEDED", jobs.log(built["id"])
    # Two days of made-up bars score what they score: the command ends with 5 below the threshold.
    judged = running.ended(jobs.submit("quality", market="spot", threshold=0))
    assert judged["state"] == "SUCCEEDED", jobs.log(judged["id"])
    assert running.served.get("/v1/quality", market="spot").json["row_count"] == 2


def test_a_run_that_fails_says_why(running: Running) -> None:
    jobs = running.lake.jobs
    job = running.ended(jobs.submit("ingest", **{**INGEST, "symbols": ["NOSUCHUSDT"]}))
    assert (job["state"], job["exit_code"]) == ("FAILED", 4)
    assert "NOSUCHUSDT" in job["message"]
    assert "NOSUCHUSDT" in "\n".join(jobs.log(job["id"]))


def test_a_running_job_is_stopped(running: Running) -> None:
    jobs = running.lake.jobs
    job = jobs.submit("ingest", **{**INGEST, "symbols": ["ETHUSDT"]})
    deadline = time.monotonic() + 60
    while not commands(job["id"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert jobs.stop(job["id"])["id"] == job["id"]
    done = running.ended(job)
    assert done["state"] == "STOPPED"
    while commands(job["id"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = running.ended(jobs.submit("ingest", **{**INGEST, "symbols": ["ETHUSDT"]}))
    assert again["state"] == "SUCCEEDED", jobs.log(again["id"])
    rows = running.served.get("/v1/klines", symbol="ETHUSDT", interval="1m").json
    assert rows["row_count"] == 2 * 1440


def commands(job_id: str) -> list[psutil.Process]:
    """The processes of a job's command, by what Ray told them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_JOB_SUBMISSION_ID") == job_id or job_id in str(
                process.environ().get("RAY_JOB_CONFIG_JSON_ENV_VAR")
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_nothing_of_ray_shows_a_secret_or_answers_without_its_token(running: Running) -> None:
    for path in ("/api/version", "/api/jobs/", "/api/v0/logs/file?submission_id=x"):
        assert Served(running.dashboard).get(path).status == 401
    assert running.dashboard.startswith("http://127.0.0.1:")
    told = running.served.get("/v1/jobs").body.decode()
    assert CANARY not in told
    # What Ray keeps of the jobs, as its dashboard shows it to who has the token.
    token = token_of(running.process.pid)
    kept = Served(running.dashboard).get("/api/jobs/", {"Authorization": f"Bearer {token}"})
    assert kept.status == 200
    assert str(running.home) in kept.body.decode()
    assert CANARY not in kept.body.decode()


def token_of(pid: int) -> str:
    child = psutil.Process(pid).children()[0]
    return Path(child.environ()["RAY_AUTH_TOKEN_PATH"]).read_text().strip()


def test_it_ends_with_its_jobs(running: Running) -> None:
    job = running.lake.jobs.submit("ingest", **{**INGEST, "interval": "1h"})
    deadline = time.monotonic() + 60
    while not (left := commands(job["id"])):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = [*psutil.Process(running.process.pid).children(recursive=True), *left]
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 143
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [process.name() for process in alive] == []
