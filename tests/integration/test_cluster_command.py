"""`lakehouse cluster` against an API server over HTTP: what it reads, changes, makes and waits for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.kubernetes_api import KubernetesApi
from support.manifests import KUBERAY, LOADER, named, rendered

from lakehouse_ray.cli.app import dispatch

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[KubernetesApi]:
    with KubernetesApi() as found:
        yield found


@pytest.fixture
def api(server: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KubernetesApi:
    """With the objects of the production overlay."""
    server.objects.clear()
    server.denied.clear()
    server.requests.clear()
    server.installed, server.failing, server.expired_watches = True, 0, 0
    server.before_patch.clear()
    objects = rendered("overlays/production")
    for plural, kind, name in (
        ("rayclusters", "RayCluster", "lakehouse"),
        ("rayjobs", "RayJob", "bulk-ingestion"),
        ("rayservices", "RayService", "lakehouse-query"),
    ):
        server.write(plural, named(objects, kind, name), "ADDED")
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    return server


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = dispatch(["cluster", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    action, *others = arguments  # what follows `--` is not ours
    code, out, err = run(capsys, action, "--json", *others)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def bounds(api: KubernetesApi, group: int) -> tuple[int, int]:
    found = api.get("rayclusters", "lakehouse")["spec"]["workerGroupSpecs"][group]
    return found["minReplicas"], found["maxReplicas"]


def set_status(api: KubernetesApi, plural: str, name: str, **status: Any) -> None:
    found = api.get(plural, name)
    found["status"] = status
    api.write(plural, found)


def test_status_tells_clusters_jobs_and_the_service(api: KubernetesApi, capsys: Any) -> None:
    set_status(api, "rayclusters", "lakehouse", state="ready", readyWorkerReplicas=2, desiredWorkerReplicas=3)  # fmt: skip
    set_status(
        api,
        "rayservices",
        "lakehouse-query",
        serviceStatus="Running",
        numServeEndpoints=2,
        activeServiceStatus={"rayClusterName": "lakehouse-query-a"},
        pendingServiceStatus={"rayClusterName": "lakehouse-query-b"},
    )
    found = asked(capsys, "status")
    (cluster,) = found["clusters"]
    assert (cluster["state"], cluster["ready"], cluster["wanted"]) == ("ready", 2, 3)
    assert cluster["groups"][1] == {"name": "medium", "replicas": 0, "least": 0, "most": 32}
    assert found["jobs"][0]["waiting"] is True
    assert found["services"] == [
        {"name": "lakehouse-query", "state": "Running", "endpoints": 2, "upgrading": True}
    ]
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert "0 to 32" in out
    assert "a second cluster comes up" in out


def test_status_of_an_empty_namespace(api: KubernetesApi, capsys: Any) -> None:
    assert asked(capsys, "status", "-n", "elsewhere") == {
        "v": 1,
        "clusters": [],
        "jobs": [],
        "services": [],
    }


def test_scale_changes_the_bounds_of_one_group(api: KubernetesApi, capsys: Any) -> None:
    before = api.get("rayclusters", "lakehouse")["spec"]
    assert asked(capsys, "scale", "medium", "--min", "2", "--max", "40")["group"]["most"] == 40
    after = api.get("rayclusters", "lakehouse")["spec"]
    assert (bounds(api, 1)) == (2, 40)
    before["workerGroupSpecs"][1] |= {"minReplicas": 2, "maxReplicas": 40}
    assert after == before


def test_scale_to_what_is_there_writes_nothing(api: KubernetesApi, capsys: Any) -> None:
    asked(capsys, "scale", "medium", "--max", "32")
    assert ("patch", "rayclusters") not in api.requests


def test_a_change_of_another_between_read_and_write_is_kept(
    api: KubernetesApi, capsys: Any
) -> None:
    def autoscaler() -> None:
        found = api.get("rayclusters", "lakehouse")
        found["spec"]["workerGroupSpecs"][0]["replicas"] = 7
        api.write("rayclusters", found)

    api.before_patch.extend([autoscaler, autoscaler])
    asked(capsys, "scale", "medium", "--max", "40")
    assert bounds(api, 1) == (0, 40)
    assert api.get("rayclusters", "lakehouse")["spec"]["workerGroupSpecs"][0]["replicas"] == 7
    assert api.requests.count(("patch", "rayclusters")) == 3


def test_others_that_never_stop_are_a_conflict(api: KubernetesApi, capsys: Any) -> None:
    def another() -> None:
        api.write("rayclusters", api.get("rayclusters", "lakehouse"))

    api.before_patch.extend([another] * 50)
    code, _, err = run(capsys, "scale", "medium", "--max", "40")
    assert code == 8
    assert "try again" in err
    assert api.requests.count(("patch", "rayclusters")) == 5
    assert bounds(api, 1) == (0, 32)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("huge", "--max", "4"), 4, "one of small, medium, large, xlarge"),
        (("medium", "--max", "4", "--cluster", "other"), 4, "no RayCluster other in namespace"),
        (("medium", "--min", "50"), 2, "cannot have 50 to 32 workers"),
        (("medium",), 2, "--min, --max"),
    ],
)
def test_what_cannot_be_scaled(
    api: KubernetesApi, capsys: Any, arguments: tuple[str, ...], code: int, told: str
) -> None:
    found, _, err = run(capsys, "scale", *arguments)
    assert found == code
    assert told in err


def test_a_run_is_made_of_a_job_that_waits(api: KubernetesApi, capsys: Any) -> None:
    arguments = ("--market", "um", "--symbols", "A,B; rm -rf /")
    asked(capsys, "submit", "bulk-ingestion", "--name", "first", "--", *arguments)
    run_ = api.get("rayjobs", "first")
    expected = named(rendered("runs/production"), "RayJob", "bulk-ingestion-run")
    assert run_["metadata"]["labels"] == expected["metadata"]["labels"]
    assert run_["spec"].pop("entrypoint") == (
        "python /opt/lakehouse/jobs/bulk_ingestion.py --market um --symbols 'A,B; rm -rf /'"
    )
    del expected["spec"]["entrypoint"]
    assert run_["spec"] == expected["spec"]
    assert api.get("rayjobs", "bulk-ingestion")["spec"]["suspend"] is True


def test_a_name_is_taken_once(api: KubernetesApi, capsys: Any) -> None:
    asked(capsys, "submit", "bulk-ingestion", "--name", "first")
    code, _, err = run(capsys, "submit", "bulk-ingestion", "--name", "first")
    assert code == 8
    assert "already exists" in err


@pytest.mark.parametrize("name", ["Upper", "1st", "x" * 48, "a_b", "-a"])
def test_names_that_the_operator_would_refuse(api: KubernetesApi, capsys: Any, name: str) -> None:
    assert run(capsys, "submit", "bulk-ingestion", f"--name={name}")[0] == 2
    assert ("create", "rayjobs") not in api.requests


def test_a_run_is_no_template(api: KubernetesApi, capsys: Any) -> None:
    asked(capsys, "submit", "bulk-ingestion", "--name", "first")
    code, _, err = run(capsys, "submit", "first")
    assert code == 2
    assert "a run itself" in err


class Operator(threading.Thread):
    """Takes a run through states, as soon as it is there."""

    def __init__(self, api: KubernetesApi, name: str, *states: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._api, self._name, self._states = api, name, states

    def run(self) -> None:
        until = threading.Event()
        while ("rayjobs", "lakehouse", self._name) not in self._api.objects:
            until.wait(0.01)
        for state in self._states:
            until.wait(0.05)
            set_status(self._api, "rayjobs", self._name, **state)


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
RETRYING = {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "exit code 3"}


@pytest.mark.parametrize(
    ("states", "expired", "code", "told"),
    [
        ((RUNNING, DONE), 0, 0, "SUCCEEDED"),
        ((RUNNING, DONE), 2, 0, "SUCCEEDED"),
        ((RUNNING, RETRYING, RUNNING, DONE), 0, 0, "SUCCEEDED"),
        ((RUNNING, RETRYING, RUNNING, FAILED), 0, 3, "Failed exit code 3"),
    ],
)
def test_waiting_for_the_end_of_a_run(
    api: KubernetesApi, capsys: Any, states: Any, expired: int, code: int, told: str
) -> None:
    api.expired_watches = expired
    operator = Operator(api, "first", *states)
    operator.start()
    found, _, err = run(capsys, "submit", "bulk-ingestion", "--name", "first", "--wait", "30")
    operator.join()
    assert found == code
    assert told in err


def test_a_wait_has_an_end(api: KubernetesApi, capsys: Any) -> None:
    found, _, err = run(capsys, "submit", "bulk-ingestion", "--name", "first", "--wait", "1")
    assert found == 7
    assert "It goes on" in err


def test_a_wait_outlives_a_server_that_is_away_for_a_moment(
    api: KubernetesApi, capsys: Any
) -> None:
    operator = Operator(api, "first", RUNNING, DONE)
    operator.start()

    def away() -> None:
        until = threading.Event()
        while ("rayjobs", "lakehouse", "first") not in api.objects:
            until.wait(0.001)
        api.failing = 1

    threading.Thread(target=away, daemon=True).start()
    assert run(capsys, "submit", "bulk-ingestion", "--name", "first", "--wait", "30")[0] == 0
    operator.join()


def test_a_run_that_is_deleted_is_not_waited_for(api: KubernetesApi, capsys: Any) -> None:
    def delete() -> None:
        until = threading.Event()
        while ("watch", "rayjobs") not in api.requests:
            until.wait(0.01)
        api.write("rayjobs", api.get("rayjobs", "first"), "DELETED")

    threading.Thread(target=delete, daemon=True).start()
    found, _, err = run(capsys, "submit", "bulk-ingestion", "--name", "first", "--wait", "30")
    assert found == 4
    assert "was deleted meanwhile" in err


def test_who_is_not_known(api: KubernetesApi, capsys: Any, tmp_path: Path) -> None:
    api.kubeconfig(tmp_path, token="another")
    code, _, err = run(capsys, "status")
    assert code == 6
    assert "does not know who asks" in err
    assert "another" not in err


@pytest.mark.parametrize(
    ("arguments", "denied"),
    [
        (("status",), ("list", "rayclusters")),
        (("scale", "medium", "--max", "40"), ("get", "rayclusters")),
        (("scale", "medium", "--max", "40"), ("patch", "rayclusters")),
        (("submit", "bulk-ingestion"), ("get", "rayjobs")),
        (("submit", "bulk-ingestion"), ("create", "rayjobs")),
        (("submit", "bulk-ingestion", "--wait", "60"), ("watch", "rayjobs")),
    ],
)
def test_who_may_not(
    api: KubernetesApi, capsys: Any, arguments: tuple[str, ...], denied: tuple[str, str]
) -> None:
    api.denied.add(denied)
    code, _, err = run(capsys, *arguments)
    assert code == 6
    assert f"kubectl auth can-i {denied[0]} {denied[1]}.ray.io -n lakehouse" in err


@pytest.mark.parametrize(
    "arguments", [("status",), ("scale", "medium", "--max", "40"), ("submit", "bulk-ingestion")]
)
def test_without_kuberay(api: KubernetesApi, capsys: Any, arguments: tuple[str, ...]) -> None:
    api.installed = False
    code, _, err = run(capsys, *arguments)
    assert code == 4
    assert "operator with its definitions must be installed" in err


def test_a_server_that_is_away(api: KubernetesApi, capsys: Any) -> None:
    api.failing = 100
    code, _, err = run(capsys, "status")
    assert code == 7
    assert "503" in err
    assert len(api.requests) == 1


def test_a_server_that_is_not_there(api: KubernetesApi, capsys: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    api.kubeconfig(tmp_path, server=f"http://127.0.0.1:{port}")
    code, _, err = run(capsys, "status")
    assert code == 7
    assert "did not answer" in err


@pytest.mark.parametrize("page", ["<html>Sign in</html>", '{"kind": "Login"}', "[]", "7"])
@pytest.mark.parametrize("arguments", [("status",), ("submit", "bulk-ingestion")])
def test_a_server_that_is_no_kubernetes(
    api: KubernetesApi, capsys: Any, tmp_path: Path, page: str, arguments: tuple[str, ...]
) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api.kubeconfig(tmp_path, server=f"http://127.0.0.1:{server.server_port}")
        code, _, err = run(capsys, *arguments)
        server.shutdown()
    assert code == 2, err
    assert "is no Kubernetes API" in err
    assert "a proxy with a page of its own" in err


@pytest.mark.parametrize("content", [None, "not: [yaml", "apiVersion: v1"])
def test_a_kubeconfig_that_is_none(
    api: KubernetesApi, capsys: Any, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "kubeconfig"
    path.unlink()
    if content is not None:
        path.write_text(content)
    code, _, err = run(capsys, "status")
    assert code == 2
    assert "KUBECONFIG names a kubeconfig" in err


def test_rules_of_runs_are_those_of_the_manifests() -> None:
    import yaml

    from lakehouse_ray.runtime.kuberay import DELETION_RULES

    changes = yaml.load((KUBERAY / "components/runs/started.yaml").read_text(), LOADER)
    assert changes[-1]["value"]["deletionRules"] == list(DELETION_RULES)
