"""`/v1/jobs` over HTTP: what is submitted, what is refused, what is told of it. Ray itself: see
test_serve_on_ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.jobs import MemoryJobs
from support.served import Reply, Served, serving

import lakehouse_ray as lh
from lakehouse_ray.access.keys import KeyFile, KeyRing
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import DeniedError, InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.serve.job_desk import JobDesk
from lakehouse_ray.telemetry.redaction import Redaction

pytestmark = pytest.mark.integration

INGEST: dict[str, Any] = {
    "workflow": "ingest", "market": "spot", "dataset": "klines", "interval": "1m",
    "symbols": ["BTCUSDT"],
}  # fmt: skip
JSON = {"Content-Type": "application/json"}
HOSTS = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Desk:
    ray: MemoryJobs
    served: Served

    def submit(self, body: Any = INGEST, **headers: str) -> Reply:
        spelled = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.served.post("/v1/jobs", json.dumps(body).encode(), JSON | spelled)


def desk_over(ray: MemoryJobs, lake: str = "mine") -> JobDesk:
    return JobDesk(
        ray,
        lake=lake,
        command=["/usr/bin/lake"],
        environment={"LAKEHOUSE_HOME": "/lake"},
        redaction=Redaction(["hunter22", *ray.secrets()]),
    )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    ray = MemoryJobs()
    with serving(tmp_path / "home", desk=desk_over(ray), hosts=HOSTS) as served:
        yield Desk(ray, served)


def test_a_job_is_the_lakes_own_command(desk: Desk) -> None:
    reply = desk.submit()
    assert reply.status == 201, reply.body
    told = reply.json
    assert told["id"].startswith("ingest-spot-klines-1m-20")
    assert reply.headers["Location"] == told["links"]["self"] == f"/v1/jobs/{told['id']}"
    assert desk.ray.commands[told["id"]] == [
        "/usr/bin/lake", "ingest", "--market=spot", "--dataset=klines", "--interval=1m",
        "--symbols=BTCUSDT",
    ]  # fmt: skip
    assert desk.ray.environments[told["id"]] == {"LAKEHOUSE_HOME": "/lake"}
    assert (told["workflow"], told["state"], told["ended"]) == ("ingest", "RUNNING", None)
    assert told["parameters"] == {k: v for k, v in INGEST.items() if k != "workflow"}
    assert desk.served.get(told["links"]["self"]).json == told


@pytest.mark.parametrize(
    "body",
    [
        {}, [], "ingest", {"workflow": "rm"}, {**INGEST, "entrypoint": "id"},
        {**INGEST, "symbols": ["$(id)"]}, {**INGEST, "runtime_env": {"pip": ["x"]}},
        {**INGEST, "interval": "7m"}, {**INGEST, "start": "yesterday"},
        {"workflow": "quality", "html": "/tmp/x"}, {"workflow": "build", "products": ["x"]},
    ],
)  # fmt: skip
def test_nothing_else_is_run(desk: Desk, body: Any) -> None:
    reply = desk.submit(body)
    assert (reply.status, reply.json["code"]) == (422, "invalid")
    assert reply.json["errors"]
    assert not desk.ray.jobs


def test_a_key_of_the_request_makes_one_job_of_many(desk: Desk) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: desk.submit(Idempotency_Key="mine-1"), range(8)))
    assert sorted({reply.status for reply in replies}) == [200, 201]
    assert [reply.status for reply in replies].count(201) == 1
    assert len({reply.json["id"] for reply in replies}) == len(desk.ray.jobs) == 1
    desk.ray.end(replies[0].json["id"], "FAILED", exit_code=3)
    again = desk.submit(Idempotency_Key="mine-1")
    assert (again.status, again.json["state"], again.json["exit_code"]) == (200, "FAILED", 3)
    # Defaults that are spelled out are the same request.
    assert desk.submit({**INGEST, "freq": "auto"}, Idempotency_Key="mine-1").status == 200
    other = desk.submit({**INGEST, "symbols": ["ETHUSDT"]}, Idempotency_Key="mine-1")
    assert (other.status, other.json["code"]) == (422, "invalid")
    assert again.json["id"] in other.json["detail"]
    assert desk.submit(Idempotency_Key="mine-2").status == 201
    assert desk.submit().status == desk.submit().status == 201
    assert len(desk.ray.jobs) == 4
    for wrong in ("", "a b", "ä", "x" * 201):
        assert desk.submit(Idempotency_Key=wrong.encode().decode("latin-1")).status == 422


def test_a_submission_that_broke_off_is_made_up_for(desk: Desk) -> None:
    """A replica may die between the name and the job."""
    first = desk.submit(Idempotency_Key="k").json["id"]
    del desk.ray.jobs[first]
    again = desk.submit(Idempotency_Key="k")
    assert (again.status, again.json["id"]) == (201, first)


def test_a_web_page_cannot_post(desk: Desk) -> None:
    body = json.dumps(INGEST).encode()
    job = desk.submit().json
    here = desk.served.url
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        here.replace("http", "x")[1:],
    ):
        for path in ("/v1/jobs", job["links"]["stop"]):
            reply = desk.served.post(path, body, JSON | {"Origin": origin})
            assert (reply.status, reply.json["code"]) == (403, "cross_origin"), origin
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ):
        reply = desk.served.post("/v1/jobs", body, {"Content-Type": kind})
        assert reply.status in (415, 422), kind
    # A name of its own that leads to this machine.
    reply = desk.served.post("/v1/jobs", body, JSON | {"Host": "evil.example"})
    assert reply.status == 421
    assert list(desk.ray.jobs) == [job["id"]]
    assert desk.ray.jobs[job["id"]].state == "RUNNING"
    assert desk.served.post("/v1/jobs", body, JSON | {"Origin": here}).status == 201


def test_jobs_come_in_pages_and_are_this_lakes_alone(desk: Desk) -> None:
    theirs = desk_over(desk.ray, "theirs")
    made = [desk.submit().json["id"] for _ in range(5)]
    made.append(desk.submit({"workflow": "quality"}).json["id"])
    alien = next(job for job in desk.ray.jobs)
    desk.ray.submit("ingest-theirs-1", [], {}, {"lakehouse.lake": "theirs"})
    desk.ray.submit("raysubmit_x", ["secret"], {}, {})
    assert [job.id for job in theirs.all()] == ["ingest-theirs-1"]
    seen: list[str] = []
    page = desk.served.get("/v1/jobs", limit=4).json
    while True:
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        page = desk.served.get("/v1/jobs", limit=4, before=page["next"]).json
    assert seen == made[::-1]
    assert [j["id"] for j in desk.served.get("/v1/jobs", workflow="quality").json["jobs"]] == made[
        5:
    ]
    desk.ray.end(alien, "SUCCEEDED", exit_code=0)
    assert [j["id"] for j in desk.served.get("/v1/jobs", state="SUCCEEDED").json["jobs"]] == [alien]
    assert desk.served.get("/v1/jobs", before="gone").status == 404
    for other in ("ingest-theirs-1", "raysubmit_x", "no-such", "..", "a%2f..%2fb", "a" * 200, "ä"):
        path = f"/v1/jobs/{other}".replace("ä", "%C3%A4")
        assert desk.served.get(path).status == 404
        assert desk.served.get(f"{path}/logs").status == 404
        assert desk.served.post(f"{path}/stop", b"").status in (404, 405)
    assert {desk.ray.jobs[i].state for i in ("ingest-theirs-1", "raysubmit_x")} == {"RUNNING"}


def test_logs_come_in_parts_without_secrets(desk: Desk) -> None:
    job = desk.submit().json
    lines = [f"line {n}" for n in range(2500)]
    lines[7] = "token rays-own-token and hunter22 and lk_abcdefghij_" + "s" * 43 + "_00000000"
    desk.ray.logs[job["id"]] = lines
    logs = job["links"]["logs"]
    last = desk.served.get(logs).json
    assert (last["offset"], last["next"], last["lines"]) == (1500, 2500, lines[1500:])
    assert desk.served.get(logs, tail=2).json["lines"] == lines[-2:]
    read: list[str] = []
    part = desk.served.get(logs, offset=0, limit=900).json
    while part["lines"]:
        read += part["lines"]
        part = desk.served.get(logs, offset=part["next"], limit=900).json
    assert part["next"] == 2500
    assert read[:7] + read[8:] == lines[:7] + lines[8:]
    for secret in ("rays-own-token", "hunter22", "s" * 43):
        assert secret not in read[7]
    for wrong in (
        {"tail": 0},
        {"tail": 5, "offset": 1},
        {"offset": -1},
        {"limit": 10**6},
        {"x": 1},
    ):
        assert desk.served.get(logs, **wrong).status == 422, wrong


def test_an_answer_has_a_megabyte_of_log_at_most(desk: Desk) -> None:
    job = desk.submit().json
    desk.ray.logs[job["id"]] = [f"{n:05d}" + "x" * 16_000 for n in range(200)]
    last = desk.served.get(job["links"]["logs"])
    assert len(last.body) < 1_100_000
    assert last.json["lines"][-1].startswith("00199")
    assert last.json["next"] == 200
    first = desk.served.get(job["links"]["logs"], offset=0).json
    assert first["lines"][0].startswith("00000")
    assert first["next"] == len(first["lines"]) < 100


def test_what_went_wrong_is_told_without_secrets(desk: Desk) -> None:
    job = desk.submit().json
    desk.ray.end(
        job["id"], "FAILED", exit_code=7,
        message="failed with exit code 7\n" + "x\n" * 9000 + "error: hunter22 refused",
    )  # fmt: skip
    told = desk.served.get(job["links"]["self"]).json
    assert (told["state"], told["exit_code"]) == ("FAILED", 7)
    assert told["message"].startswith("failed with exit code 7")
    assert told["message"].endswith("error: *** refused")
    assert len(told["message"]) < 4100


def test_a_job_is_stopped_once(desk: Desk) -> None:
    job = desk.submit().json
    reply = desk.served.post(job["links"]["stop"], b"")
    assert (reply.status, reply.json["state"]) == (202, "STOPPED")
    assert desk.served.post(job["links"]["stop"], b"").json == reply.json
    assert desk.served.get(job["links"]["stop"]).status == 405


def test_a_cluster_that_does_not_answer_is_told_as_such(desk: Desk) -> None:
    desk.ray.silent = True
    for reply in (desk.submit(), desk.served.get("/v1/jobs"), desk.served.get("/v1/jobs/a-b")):
        assert (reply.status, reply.json["code"]) == (503, "unavailable")
        assert "jobs" in reply.json["detail"]
        assert reply.headers["Retry-After"]


def test_a_key_must_be_allowed_to(tmp_path: Path) -> None:
    clock = SystemClock()
    file = KeyFile(tmp_path / "keys.json", clock)
    _, reads = file.create("reads", 1)
    made, runs = file.create("runs", 1, ["jobs"])
    ray = MemoryJobs()
    ring = KeyRing(tmp_path / "keys.json", clock)
    with serving(tmp_path / "home", desk=desk_over(ray), keys=ring) as served:
        desk = Desk(ray, served)
        assert desk.submit().status == 401
        for path in ("/v1/jobs", "/v1/jobs/x", "/v1/jobs/x/logs"):
            assert served.get(path, {"Authorization": f"Bearer {reads}"}).status == 403
        reply = desk.submit(Authorization=f"Bearer {reads}")
        assert (reply.status, reply.json["code"]) == (403, "not_allowed")
        assert "--may jobs" in reply.json["detail"]
        assert not ray.jobs
        reply = desk.submit(Authorization=f"Bearer {runs}", Idempotency_Key="k")
        assert (reply.status, reply.json["by"]) == (201, made.id)
        # Another's key of the same spelling is another's.
        _, more = file.create("more", 1, ["jobs"])
        assert desk.submit(Authorization=f"Bearer {more}", Idempotency_Key="k").status == 201
        assert lh.connect(served.url, api_key=runs).jobs.get(reply.json["id"])["by"] == made.id
        with pytest.raises(DeniedError):
            lh.connect(served.url, api_key=reads).jobs.list()


def test_a_service_without_jobs_says_why(tmp_path: Path) -> None:
    with serving(tmp_path / "home", desk="there is no Ray here") as served:
        for reply in (
            Desk(MemoryJobs(), served).submit(),
            served.get("/v1/jobs"),
            served.post("/v1/jobs/x/stop", b""),
        ):
            assert (reply.status, reply.json["code"]) == (404, "not_found")
            assert reply.json["hint"] == "there is no Ray here"


def test_from_python(desk: Desk) -> None:
    lake = lh.connect(desk.served.url)
    job = lake.jobs.submit("ingest", market="spot", dataset="klines", interval="1h", symbols=["A"])
    assert desk.ray.commands[job["id"]][-1] == "--symbols=A"
    desk.ray.logs[job["id"]] = ["one", "two"]
    assert lake.jobs.log(job["id"]) == ["one", "two"]
    assert lake.jobs.log(job["id"], tail=1) == ["two"]
    assert lake.jobs.get(job["id"])["state"] == "RUNNING"
    assert [one["id"] for one in lake.jobs.list()] == [job["id"]]
    desk.ray.end(job["id"], "SUCCEEDED", exit_code=0)
    assert lake.jobs.wait(job["id"])["exit_code"] == 0
    running = lake.jobs.submit("build", key="k")
    assert lake.jobs.submit("build", key="k")["id"] == running["id"]
    with pytest.raises(UnavailableError, match="RUNNING"):
        lake.jobs.wait(running["id"], timeout_s=0.2, every_s=0.05)
    assert lake.jobs.stop(running["id"])["state"] == "STOPPED"
    with pytest.raises(InvalidError, match="interval"):
        lake.jobs.submit("ingest", market="spot", dataset="klines")
    with pytest.raises(NotFoundError):
        lake.jobs.get("no-such")
    for wrong in ("a/b", "", "?x"):
        with pytest.raises(InvalidError):
            lake.jobs.get(wrong)


async def _await_it(url: str) -> dict[str, Any]:
    async with await lh.connect_async(url) as lake:
        job = await lake.jobs.submit("quality", market="spot")
        assert [one["id"] for one in await lake.jobs.list()] == [job["id"]]
        await lake.jobs.stop(job["id"])
        assert await lake.jobs.log(job["id"]) == []
        return await lake.jobs.wait(job["id"])


def test_awaited(desk: Desk) -> None:
    import asyncio

    assert asyncio.run(_await_it(desk.served.url))["state"] == "STOPPED"
