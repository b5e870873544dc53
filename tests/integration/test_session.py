from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private import services

from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.runtime.session import RaySession, connect, inside_job

pytestmark = pytest.mark.integration

# What a driver of its own sees before, while and after it is connected.
DRIVER = """
import json, os, signal, sys, tempfile
from pathlib import Path
from urllib.request import urlopen
from lakehouse_ray.runtime.executor import PoolSpec
from lakehouse_ray.runtime.pool import RayExecutor
from lakehouse_ray.runtime.session import connect

def die_once(_, path):
    if not path.exists():
        path.touch()
        print("from a worker")
        os.kill(os.getpid(), signal.SIGKILL)
    return os.environ.get("GIVEN")

def mine(signum, frame): ...

signal.signal(signal.SIGTERM, mine)
seen = {}
before = dict(os.environ)
with connect(num_cpus=1, worker_env={"GIVEN": "yes"}, log_to_driver=True) as session:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    seen["token_mode"] = oct(token.stat().st_mode & 0o777)
    seen["auth_mode"] = os.environ["RAY_AUTH_MODE"]
    seen["given_in_driver"] = os.environ.get("GIVEN")
    seen["own"] = session.own
    seen["cpus"] = session.view().cpus
    seen["object_store_mib"] = session.view().object_store_bytes >> 20
    executor = RayExecutor(worker_env={"GIVEN": "yes"}, inherited_env=session.inherited_env)
    with executor.pool(lambda: None, die_once, PoolSpec(1, 1, 0)) as pool:
        (one,) = pool.map_unordered([Path(sys.argv[1])])
    seen["given_in_worker"], seen["attempts"] = one.result, one.attempts
    targets = token.parent.with_name(token.parent.name + ".json")
    (told,) = json.loads(targets.read_text())
    (exporter,) = told["targets"]
    seen["others_may_read_targets"] = bool(targets.stat().st_mode & 0o004)
    seen["exporter"] = urlopen(f"http://{exporter}/metrics").read().startswith(b"# HELP")
seen["targets_left"] = targets.exists()
seen["temp_dir_left"] = token.parent.exists()
seen["environment_changed"] = sorted(set(before.items()) ^ set(os.environ.items()))
seen["sigterm_kept"] = signal.getsignal(signal.SIGTERM) is mine
print(json.dumps(seen))
"""


def test_an_own_ray_leaves_no_trace_and_prints_nothing_on_stdout(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_TOKEN": "of somebody else"}
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "died")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(ended.stdout) == {
        "token_mode": "0o600",
        "auth_mode": "token",
        "given_in_driver": None,
        "own": True,
        "cpus": 1.0,
        "object_store_mib": 128,
        "given_in_worker": "yes",
        "attempts": 2,
        "others_may_read_targets": True,
        "exporter": True,
        "targets_left": False,
        "temp_dir_left": False,
        "environment_changed": [],
        "sigterm_kept": True,
    }
    assert "from a worker" in ended.stderr
    assert not (tmp_path / ".ray").exists()


def test_a_connection_of_this_process_is_used_and_left_as_it_is(ray_session: RaySession) -> None:
    with connect("local", num_cpus=64) as again:
        assert not again.own
        assert again.address == ray_session.address
        assert again.view().cpus == 2
    assert ray_session.view().cpus == 2


def test_jobs_of_an_own_ray_find_it_whatever_else_runs(ray_session: RaySession) -> None:
    """By Ray's own search, which takes any Ray of the machine where this finds nothing."""
    node = ray._private.worker._global_node
    assert node is not None
    assert services.find_bootstrap_address(node._ray_params.temp_dir) == ray_session.address


def test_a_test_is_no_job() -> None:
    assert not inside_job()


@pytest.fixture
def without_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `connect` believe that this process has no connection; nothing is connected."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.usefixtures("without_connection")
class TestJoining:
    def test_an_address_where_nothing_listens_is_unavailable_at_once(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            with (
                pytest.raises(UnavailableError, match=f"no Ray cluster answers at .*:{port}"),
                connect(f"127.0.0.1:{port}"),
            ):
                pass

    def test_a_server_that_says_nothing_is_unavailable_in_time(self, deaf_port: int) -> None:
        started = time.monotonic()
        with (
            pytest.raises(UnavailableError, match="no Ray cluster answers"),
            connect(f"127.0.0.1:{deaf_port}", timeout_s=0.5),
        ):
            pass
        assert time.monotonic() - started < 5

    @pytest.mark.parametrize(
        "wrong", ["http://host:8265", "ray://h:1", "host", "host:port", "a b:1", "h:99999"]
    )
    def test_what_is_no_address_is_refused(self, wrong: str) -> None:
        with pytest.raises(InvalidError, match="no address of a Ray cluster"), connect(wrong):
            pass
