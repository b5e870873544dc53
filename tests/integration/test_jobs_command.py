"""`lakehouse jobs` on a Ray head of its own, started as a child process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.cluster import BIN, cluster, free_port
from support.commands import environment
from support.forked import completed
from support.manifests import named, of_kind, rendered
from support.wire import Wire, wire

pytestmark = pytest.mark.integration

SAYS_AND_FAILS = """
import sys
print("begun with", *sys.argv[1:])
print("password=correct-horse", "3 of 7 files, 12 rows", sep="\\n")
sys.exit(5)
"""
PATH = f"{BIN}:/usr/bin:/bin"
FOR_EVER = "import time; print('begun', flush=True); time.sleep(600)"


@dataclass(frozen=True)
class Head:
    url: str
    variables: dict[str, str]
    folder: Path

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def run(self, *arguments: str, **settings: str) -> Any:
        # Not in this process: where it has a Ray of its own, that would read this one's token.
        return completed("jobs", *arguments, text=True, env=self.variables | settings)

    def asked(self, *arguments: str) -> dict[str, Any]:
        action, *others = arguments
        found = self.run(action, "--json", *others)
        assert found.returncode == 0, found.stderr
        document: dict[str, Any] = json.loads(found.stdout)
        return document

    def until(self, job_id: str, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while (job := self.asked("status", job_id)["job"])["state"] != state:
            assert time.monotonic() < deadline, job
            time.sleep(0.2)
        return dict(job)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="lj-"))  # short: Ray's sockets live below it
    try:
        with cluster(
            folder, nodes=1, cpus=1, extra={"LAKEHOUSE_HOME": str(folder / "nodes")}
        ) as started:
            variables = environment(HOME=folder / "home", RAY__DASHBOARD_URL=started.dashboard)
            yield Head(started.dashboard, variables | started.auth, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_file_is_run_and_its_exit_code_survives(head: Head) -> None:
    file = head.file("says.py", SAYS_AND_FAILS)
    followed = head.run("submit", file, "--follow", "--name", "says-1", "--", "--one", "two words")
    assert followed.returncode == 5, followed.stderr
    assert followed.stdout.splitlines() == [
        "begun with --one two words", "password=***", "3 of 7 files, 12 rows",
    ]  # fmt: skip
    assert "FAILED, exit code 5" in followed.stderr
    job = head.asked("status", "says-1")["job"]
    assert (job["state"], job["exit_code"], job["workflow"]) == ("FAILED", 5, "job")
    assert job["progress"] == {"done": 3, "total": 7, "what": "files", "note": "12 rows"}
    assert "correct-horse" not in json.dumps(job)
    for again in (("status", "says-1", "--wait", "9"), ("logs", "says-1", "--follow")):
        assert head.run(*again).returncode == 5
    assert head.asked("logs", "--tail", "1", "says-1")["lines"] == ["3 of 7 files, 12 rows"]
    # What it said last, where it told of no error.
    waited = head.run("submit", file, "--wait", "60")
    assert waited.returncode == 5
    assert waited.stderr.splitlines() == [
        "FAILED Job entrypoint command failed with exit code 5",
        "begun with", "password=***", "3 of 7 files, 12 rows",
    ]  # fmt: skip
    taken = head.run("submit", file, "--name", "says-1")
    assert (taken.returncode, "says-1 already" in taken.stderr) == (8, True)


def test_a_workflow_is_named_for_what_it_does_and_the_lake_remembers_it(head: Head) -> None:
    # Passes here, and is refused where it runs.
    arguments = ("build", "--market", "um", "no_such_product")
    found = head.run("submit", "build-gold", "--json", "--wait", "120", "--", *arguments[1:])
    job = json.loads(found.stdout)["job"]
    assert (found.returncode, job["state"], job["exit_code"]) == (2, "FAILED", 2), found.stderr
    assert job["id"].startswith("build-um-20"), job
    told = job["error"].splitlines()
    assert [line.partition(": ")[0] for line in told] == ["error", "hint"]
    assert "no_such_product" in told[0]
    assert "\n           hint: " in head.run("status", job["id"]).stdout
    assert job["parameters"] == {"market": "um", "products": ["no_such_product"]}
    listed = head.asked("list", "--workflow", "build", "--state", "failed")["jobs"]
    assert [one["id"] for one in listed] == [job["id"]]
    (history,) = head.asked("list", "--history", "--address", "http://127.0.0.1:1")["jobs"]
    assert (history["id"], history["state"], history["exit_code"]) == (job["id"], "FAILED", 2)
    assert history["arguments"] == list(arguments)
    assert "no_such_product" in history["error"]


def test_a_stopped_job_ends_as_one(head: Head) -> None:
    job_id = head.run("submit", head.file("long.py", FOR_EVER)).stdout.strip()
    assert job_id.startswith("job-long-20")
    head.until(job_id, "RUNNING")
    late = head.run("status", job_id, "--wait", "0.1")
    assert (late.returncode, "goes on" in late.stderr) == (7, True)
    assert head.asked("stop", job_id, "--wait", "30")["job"]["state"] == "STOPPED"
    assert head.run("status", job_id, "--wait", "9").returncode == 143
    assert head.asked("stop", job_id)["job"]["state"] == "STOPPED"


def test_the_schedules_of_kubernetes_end_with_the_codes_of_their_jobs(head: Head) -> None:
    """Their containers' command lines, with the variables of their containers alone."""
    schedules = of_kind(rendered("overlays/production"), "CronJob")

    def tick(name: str) -> tuple[int, str, str]:
        (container,) = named(schedules, "CronJob", name)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]  # fmt: skip
        told = {one["name"]: one.get("value", "") for one in container["env"]}
        del told["RAY_AUTH_TOKEN"]  # the secret of the operator
        told |= {"RAY_API_SERVER_ADDRESS": head.url, "LAKEHOUSE_HOME": "/nowhere", "PATH": PATH}
        told |= {"RAY_AUTH_TOKEN": Path(head.variables["RAY_AUTH_TOKEN_PATH"]).read_text()}
        done = subprocess.run(
            container["command"] + container["args"], env=told, text=True, timeout=120, check=False,
            capture_output=True, cwd=head.folder,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, out, err = tick("daily-maintenance")
    assert (code, json.loads(out)["failed"]) == (0, []), err
    assert err.startswith("maintain-all-20"), err
    # The lake of the nodes, not one where the pod is.
    (kept,) = (head.folder / "nodes").rglob("jobs/maintain-all-*.json")
    assert json.loads(kept.read_text())["exit_code"] == 0
    code, _, err = tick("hourly-update")
    assert (code, "FAILED, exit code 4" in err) == (4, True), err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("status", "no-such-job"), 4, "no job 'no-such-job'"),
        (("logs", "--follow", "../../etc"), 4, "no job"),
        (("stop", "x" * 200), 4, "no job"),
        (("submit", "nowhere/x.py"), 4, "no file 'nowhere/x.py'"),
        (("submit", "bulk-ingestoin"), 4, "did you mean bulk-ingestion?"),
        (("submit", "ingest", "--", "--markt", "um"), 2, "`lakehouse ingest --help`"),
        (("submit", "ingest", "--", "--help"), 2, "no help"),
        (("submit", "build", "--name", "a b"), 2, "no name of a job"),
        (("list", "--address", "not an address"), 2, "no address"),
    ],
)
def test_what_cannot_be_is_refused_and_says_what_to_do(
    head: Head, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found = head.run(*arguments)
    assert (found.returncode, said in found.stderr) == (code, True), found.stderr


def test_heads_that_are_none_and_tokens_that_are_wrong(head: Head) -> None:
    silent = head.run("list", "--address", f"http://127.0.0.1:{free_port()}")
    assert (silent.returncode, "no Ray head answers" in silent.stderr) == (7, True)
    for token in ("0" * 64, ""):
        wrong = {"RAY_AUTH_TOKEN": token, "RAY_AUTH_MODE": "token" if token else "disabled"}
        denied = head.run("list", **wrong)
        assert (denied.returncode, "refuses the token" in denied.stderr) == (6, True), denied
        assert head.variables["RAY_AUTH_TOKEN_PATH"] not in denied.stderr


class _LosesAnswers(BaseHTTPRequestHandler):
    """A dashboard that says who it is, and nothing of what it was asked to start."""

    def do_GET(self) -> None:
        told = json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": ""}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def do_POST(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_submission_whose_answer_is_lost_says_how_to_send_it_again(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _LosesAnswers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = environment(
            HOME=tmp_path, RAY__DASHBOARD_URL=f"http://127.0.0.1:{server.server_port}"
        )
        found = completed(
            "jobs",
            "submit",
            "maintenance",
            text=True,
            env=variables | {"RAY_AUTH_MODE": "disabled"},
        )
        server.shutdown()
    assert found.returncode == 7, found.stderr
    (name,) = set(re.findall(r"maintain-all-[\w-]+", found.stderr))
    assert f"submit it again with --name {name}, nothing is run twice" in found.stderr


def test_a_head_that_is_gone_is_not_waited_for_for_ever(head: Head) -> None:
    job_id = head.run("submit", head.file("long.py", FOR_EVER)).stdout.strip()
    head.until(job_id, "RUNNING")
    try:
        for end in (Wire.cut, Wire.die):
            with wire(urlsplit(head.url).port or 0) as between:
                timer = threading.Timer(3, end, [between])
                timer.start()
                found = head.run(
                    "logs", "--follow", "--address", f"http://127.0.0.1:{between.port}", job_id,
                    LAKEHOUSE_RAY__SILENCE_S_MAX="2",
                )  # fmt: skip
                timer.join()
            assert (found.returncode, found.stdout) == (7, "begun\n"), found.stderr
            assert "has not answered for 2 s" in found.stderr
            assert f"lakehouse jobs status {job_id}" in found.stderr
    finally:
        head.run("stop", job_id)


def test_lines_are_told_once_though_the_connection_breaks(head: Head) -> None:
    text = "import time\nfor n in range(20): print('line', n, flush=True); time.sleep(0.1)"
    with wire(urlsplit(head.url).port or 0) as between:
        timer = threading.Timer(2, between.drop)
        timer.start()
        address = f"http://127.0.0.1:{between.port}"
        found = head.run("submit", head.file("lines.py", text), "--follow", "--address", address)
        timer.join()
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [f"line {n}" for n in range(20)]
