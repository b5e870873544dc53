"""`cluster/machines.sh` on this machine: a head, a worker, what is refused, and the end of both."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.cluster import BIN, free_port, nodes_alive

pytestmark = pytest.mark.acceptance

SCRIPT = Path(__file__).parents[2] / "cluster/machines.sh"


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lm-"))  # short: Ray's sockets live below it
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Machine:
    """What the script keeps of a machine is in a folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        token = folder / "token"
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            (folder / "settings.env").write_text("LAKEHOUSE_LOG__LEVEL=info\n")
        self.folder = folder / name
        self.environment = os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "LAKEHOUSE_NODE_FOLDER": str(self.folder),
            "LAKEHOUSE_NODE_SETTINGS": str(folder / "settings.env"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }

    def __call__(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(SCRIPT), *arguments], env=self.environment, text=True, timeout=180, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())


def test_two_machines_become_a_cluster_and_end_by_themselves(folder: Path) -> None:
    head, worker = Machine(folder, "head"), Machine(folder, "worker")
    gcs = free_port()
    # Two nodes of one machine need ports of their own.
    own = ("--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0")
    try:
        code, said = head(
            "head", f"--port={gcs}", f"--dashboard-port={free_port()}",
            f"--metrics-export-port={free_port()}", "--num-cpus=0", f"--temp-dir={folder}/r", *own,
        )  # fmt: skip
        assert code == 0, said
        code, said = worker(
            "worker", f"127.0.0.1:{gcs}", f"--metrics-export-port={free_port()}", "--num-cpus=1", *own,
        )  # fmt: skip
        assert code == 0, said
        assert nodes_alive(head.environment, f"127.0.0.1:{gcs}") == 2
        assert head("status")[0] == 0
        assert head("head")[0] == 8, "one node of a machine"
        pids = [psutil.Process(one.pid) for one in (head, worker)]
        started = [child for one in pids for child in one.children(recursive=True)]
        assert len(started) > 2
    finally:
        ended = [worker("stop"), head("stop")]
    assert ended == [(0, "stopped\n")] * 2
    _, left = psutil.wait_procs(started, timeout=20)
    assert left == []
    assert head("status") == (7, "down\n")
    assert head("stop") == (0, "nothing runs here\n")


def test_another_process_with_the_id_of_a_node_is_left_alone(folder: Path) -> None:
    """A restart of the machine leaves the file, and gives the id to somebody else."""
    machine = Machine(folder, "one")
    other = subprocess.Popen(["sleep", "600"])
    try:
        machine.folder.mkdir()
        (machine.folder / "pid").write_text(f"{other.pid}\n")
        assert machine("status") == (7, "down\n")
        assert machine("stop") == (0, "nothing runs here\n")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_what_cannot_be_is_said(folder: Path) -> None:
    machine = Machine(folder, "one")
    assert machine()[0] == 2
    assert machine("worker") == (2, "error: name the head: cluster/machines.sh worker 10.0.0.5\n")
    code, said = machine("worker", f"127.0.0.1:{free_port()}", "--num-cpus=1")
    assert code == 7
    assert "no head answers" in said
    code, said = machine("head", "--num-cpus=many")
    assert code == 7
    assert "the node did not start" in said
    (folder / "token").chmod(0o644)
    code, said = machine("head")
    assert (code, "chmod 600" in said) == (6, True)
    (folder / "token").unlink()
    code, said = machine("head")
    assert (code, "openssl rand -hex 32" in said) == (4, True)
