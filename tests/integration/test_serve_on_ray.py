"""`lakehouse serve` on an own local Ray: who can reach it, what a dying replica costs, its jobs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import signal
import subprocess
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast

import grpc
import psutil
import pyarrow as pa
import pytest
from support.bars import BarLake, bars
from support.commands import LAKEHOUSE, environment
from support.served import Served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

import lakehouse_ray as lh
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.remote.jobs import JobFacts, RemoteJobs
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

REPLICA = "ServeReplica"
ASKED: dict[str, object] = {"symbol": "BTCUSDT", "interval": "1h", "format": "arrow"}

CANARY = "c4n4ry-of-the-webhook"
ARCHIVE = SyntheticArchive(
    3, symbols=["SOLUSDT", "ADAUSDT"], markets=["spot"],
    start=date(2024, 5, 1), end=date(2024, 5, 3),
)  # fmt: skip
# They come after the tests.
SLOW = {"first_byte_s": 600.0, "bytes_per_s": 0.0}
FAULTS = Faults([Rule("*/ADAUSDT-1h-*.zip", "slow", params=SLOW)])
INGEST: dict[str, Any] = {
    "market": "spot", "dataset": "klines", "interval": "1m", "symbols": ["SOLUSDT"],
    "freq": "daily",
}  # fmt: skip
NEVER_DONE = {**INGEST, "interval": "1h", "symbols": ["ADAUSDT"]}


@dataclass(frozen=True)
class Running:
    home: Path
    process: subprocess.Popen[bytes]
    served: Served
    dashboard: str

    @property
    def jobs(self) -> RemoteJobs:
        return cast(lh.RemoteLake, lh.connect(self.served.url)).jobs

    def ended(self, job: JobFacts) -> JobFacts:
        return self.jobs.wait(job["id"], timeout_s=120, every_s=0.2)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, part: str) -> list[psutil.Process]:
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if part in " ".join([process.name(), *process.cmdline()]):
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("on-ray")
    home = folder / "home"
    BarLake(home).put(bars("BTCUSDT", "2024-01-01", 10), bars("ETHUSDT", "2024-01-01", 10))
    with ReplicaExchange(ARCHIVE, FAULTS) as exchange, (folder / "stderr").open("wb") as told:
        env = environment(
            HOME=home, SERVE__REPLICAS_MIN=2, SERVE__REPLICAS_MAX=2, SERVE__REPLICA_CPUS=0.5,
            SERVE__CACHE_BYTES=0, SERVE__JOBS="true", BINANCE__ARCHIVE_URL=exchange.url,
            # Minutes of two days go to workers; hours are worked on in the job's own process.
            COMPUTE__LOCAL_BYTES_MAX=20_000, ALERTS__WEBHOOK_TOKEN=CANARY,
            LOG__LEVEL="info",
        )  # fmt: skip
        process = subprocess.Popen(
            [LAKEHOUSE, "serve", "--port", "0", "--json"],
            stdout=subprocess.PIPE, stderr=told, env=env, cwd=folder,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "stderr").read_text()
        said = json.loads(line)
        assert "url" in said, said
        yield Running(home, process, Served(said["url"]), said["dashboard_url"])
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_it_answers_as_the_sdk_does(running: Running) -> None:
    reply = running.served.get("/v1/klines", {"X-Request-Id": "mine-7"}, **ASKED)
    assert reply.status == 200, reply.body
    assert reply.headers.get_all("X-Request-Id") == ["mine-7"]  # type: ignore[attr-defined]
    wanted = lh.connect(running.home).klines("BTCUSDT", "1h").collect()
    got = pa.ipc.open_stream(reply.body).read_all()
    assert got["close"].to_pylist() == wanted["close"].to_list()
    assert running.served.get("/ready").status == 200
    wrong = running.served.get("/v1/klines", symbol="BTCUSDT", interval="7m")
    assert (wrong.status, wrong.json["code"]) == (422, "invalid")
    assert running.served.get("/v1/sql", query="select 42 as x").json["rows"] == [{"x": 42}]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_what_a_replica_says_is_in_its_log_at_once(running: Running) -> None:
    """Ray Serve has streams of its own there, which drop what is less than a warning."""
    running.served.get("/v1/klines", {"X-Request-Id": "mine-8"}, symbol="NOPE", interval="1h")
    deadline_s = time.monotonic() + 20
    said: list[str] = []
    # It is said when the answer has left.
    while not said and time.monotonic() < deadline_s:
        time.sleep(0.1)
        said = [
            line
            for process in running.named(REPLICA)
            for line in Path(f"/proc/{process.pid}/fd/2").resolve().read_text().splitlines()
            if "mine-8" in line
        ]
    assert len(said) == 1, said
    assert "status=404" in said[0]


def test_websockets_pass_the_proxy(running: Running) -> None:
    """A replay, rows as they are committed, and who is turned away: as in one process."""
    address = running.served.url.replace("http://", "ws://")
    asked = "streams=btcusdt@kline_1h&start=2024-01-02&end=2024-01-03&events=true"
    with connect(f"{address}/stream?{asked}") as client:
        found = [json.loads(message)["data"] for message in client]
        assert client.protocol.close_code == 1000
    stored = lh.connect(running.home).klines("BTCUSDT", "1h", "2024-01-02", "2024-01-03").collect()
    bars_told = [float(one["k"]["c"]) for one in found if one["e"] == "kline"]
    assert bars_told == stored["close"].to_list()
    assert sum(one["missing"] for one in found if one["e"] == "gap") == 24 - stored.height
    assert found[-1]["e"] == "endOfReplay"
    with connect(f"{address}/ws/btcusdt@kline_1h?events=true") as client:
        assert json.loads(client.recv(timeout=20))["data"]["e"] == "live"
        assert client.ping().wait(20)
        BarLake(running.home).put(bars("BTCUSDT", "2024-02-01", 0.1, holes=0))
        new = [json.loads(client.recv(timeout=20))["data"]["k"]["t"] for _ in range(2)]
        assert new == [1706745600000, 1706749200000]
    foreign = Origin("https://evil.example")
    # One statement: it connects when it is called.
    with pytest.raises(InvalidStatus) as caught, connect(f"{address}/ws", origin=foreign):
        pass
    assert caught.value.response.status_code == 403


def test_only_this_machine_reaches_it(running: Running) -> None:
    """Proxy, its statistics and the replicas' own ports; Ray's are guarded by its token."""
    # A proxy that has handed over to its successor still ends its connections, and listens no more.
    addresses: set[str] = set()
    for process in running.named("haproxy.cfg"):
        with contextlib.suppress(psutil.NoSuchProcess):
            addresses |= {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"}
    assert addresses == {"127.0.0.1"}
    replicas = running.named(REPLICA)
    assert len(replicas) == 2
    for process in replicas:
        listening = [c.laddr for c in process.net_connections() if c.status == "LISTEN"]
        speaking = [address for address in listening if speaks_http(address.port)]
        assert speaking
        assert {address.ip for address in speaking} == {"127.0.0.1"}
        # Two more: Ray's own, which knows no such call, and that of Ray Serve, which takes pickled
        # calls; from who has the token alone.
        others = [without_token(a.port) for a in listening if a not in speaking]
        assert sorted(code.name for code in others) == ["UNAUTHENTICATED", "UNIMPLEMENTED"]


def speaks_http(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status > 0
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def without_token(port: int) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=5)
    code = caught.value.code()  # type: ignore[attr-defined]
    assert isinstance(code, grpc.StatusCode)
    return code


def test_a_replica_that_is_killed_costs_no_wrong_answer(running: Running) -> None:
    """Every answer that came is whole and right; those that did not come are told as errors."""
    right = running.served.get("/v1/klines", **ASKED)
    ended = threading.Event()
    told: Counter[str] = Counter()

    def ask() -> None:
        while not ended.wait(0.02):
            try:
                reply = running.served.get("/v1/klines", **ASKED)
            except (OSError, http.client.HTTPException, urllib.error.URLError):
                told["broken"] += 1
                continue
            digest = base64.b64encode(hashlib.sha256(reply.body).digest()).decode()
            if reply.status >= 500:
                told["error"] += 1
            elif (
                reply.status == 200
                and reply.body == right.body
                and reply.headers["Content-Digest"] == f"sha-256=:{digest}:"
            ):
                told["right"] += 1
            else:
                told["wrong"] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        victim = running.named(REPLICA)[0]
        victim.kill()
        before = told["right"]
        deadline = time.monotonic() + 60
        while len([p for p in running.named(REPLICA) if p.pid != victim.pid]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    print(dict(told))
    assert told["wrong"] == 0
    assert told["right"] > before > 0
    assert told["error"] + told["broken"] <= 0.05 * told["right"]
    assert running.served.get("/v1/klines", **ASKED).body == right.body


def test_a_submitted_ingest_brings_rows_that_are_then_answered(running: Running) -> None:
    jobs = running.jobs
    job = jobs.submit("ingest", key="the-first", **INGEST)
    assert job["id"].startswith("ingest-spot-klines-1m-")
    assert job["state"] in ("PENDING", "RUNNING")
    assert jobs.submit("ingest", key="the-first", **INGEST)["id"] == job["id"]
    with pytest.raises(InvalidError, match=job["id"]):
        jobs.submit("ingest", key="the-first", **{**INGEST, "interval": "1h"})
    done = running.ended(job)
    said = "\n".join(jobs.log(job["id"]))
    assert (done["state"], done["exit_code"]) == ("SUCCEEDED", 0), said
    # On a worker beside the replicas, which have reserved no CPU.
    assert "on Ray" in said
    assert done["submitted"] < done["ended"]  # type: ignore[operator]
    rows = running.served.get("/v1/klines", symbol="SOLUSDT", interval="1m").json
    assert rows["row_count"] == 2 * 1440
    # By that key it is the job of before, also now.
    assert jobs.submit("ingest", key="the-first", **INGEST)["state"] == "SUCCEEDED"
    assert [one["id"] for one in jobs.list()] == [job["id"]]


def test_jobs_run_side_by_side_and_say_how_they_ended(running: Running) -> None:
    jobs = running.jobs
    unknown = jobs.submit("ingest", **{**INGEST, "symbols": ["NOSUCHUSDT"]})
    planned = jobs.submit("build", products=["daily"], markets=["spot"], dry_run=True)
    stopped = jobs.submit("ingest", **NEVER_DONE)
    failed = running.ended(unknown)
    assert (failed["state"], failed["exit_code"]) == ("FAILED", 4)
    assert "NOSUCHUSDT" in failed["message"]
    assert "NOSUCHUSDT" in "\n".join(jobs.log(unknown["id"]))
    assert running.ended(planned)["state"] == "SUCCEEDED", jobs.log(planned["id"])
    assert any("units to build" in line for line in jobs.log(planned["id"], tail=20))
    wait_for(lambda: bool(commands(stopped["id"])))
    assert jobs.stop(stopped["id"])["id"] == stopped["id"]
    assert running.ended(stopped)["state"] == "STOPPED"
    wait_for(lambda: not commands(stopped["id"]))


def test_rays_dashboard_needs_its_token_and_shows_no_secret(running: Running) -> None:
    assert running.dashboard.startswith("http://127.0.0.1:")
    dashboard = Served(running.dashboard)
    for path in ("/api/version", "/api/jobs/", "/api/v0/logs/file?submission_id=x"):
        assert dashboard.get(path).status == 401
    child = psutil.Process(running.process.pid).children()[0]
    token = Path(child.environ()["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    kept = dashboard.get("/api/jobs/", {"Authorization": f"Bearer {token}"})
    assert kept.status == 200
    assert str(running.home) in kept.body.decode()
    assert CANARY not in kept.body.decode()


def commands(job_id: str) -> list[psutil.Process]:
    """The processes that a job started, by what Ray told them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if job_id in process.environ().get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""):
                found.append(process)
    return found


def wait_for(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_ends_with_everything_it_started(running: Running) -> None:
    job = running.jobs.submit("ingest", **NEVER_DONE)
    wait_for(lambda: bool(commands(job["id"])))
    family = [*running.family(), *commands(job["id"])]
    assert len(family) > 5
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 143
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [process.name() for process in alive] == []
