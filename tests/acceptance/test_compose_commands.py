"""A head and a worker started by the command lines of `cluster/compose.yaml`, on this machine."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.buckets import free_ports
from support.cluster import BIN, answers, free_port, nodes_alive, process
from support.start_commands import document

from lakehouse_ray.errors import DeniedError, LakehouseError
from lakehouse_ray.storage.objects import S3Access, S3Store

pytestmark = pytest.mark.acceptance


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lc-"))  # short: Ray's sockets live below it
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_the_commands_bring_up_what_they_say(folder: Path) -> None:
    """Only addresses, ports and folders are this machine's, since containers have their own."""
    services = document("compose.yaml")["services"]
    gcs, dashboard = free_port(), free_port()
    here = {
        "--port=6379": f"--port={gcs}",
        "--dashboard-host=0.0.0.0": "--dashboard-host=127.0.0.1",
        "--dashboard-port=8265": f"--dashboard-port={dashboard}",
        "--temp-dir=/var/lib/ray": f"--temp-dir={folder}/r",
        "--temp-dir=/tmp/ray": f"--temp-dir={folder}/w",
        "--address=head:6379": f"--address=127.0.0.1:{gcs}",
        "ray": str(BIN / "ray"),
    }
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    environment = os.environ | services["head"]["environment"] | {
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip

    def command(name: str) -> list[str]:
        parts = [here.get(part, part) for part in shlex.split(services[name]["command"])]
        free = {"--metrics-export-port=9091": f"--metrics-export-port={free_port()}"}
        # Two nodes of one machine need an agent's port each.
        return [free.get(part, part) for part in parts] + ["--dashboard-agent-listen-port=0"]

    address, url = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
    with ExitStack() as stack:
        stack.enter_context(
            process(command("head"), environment, lambda: answers(f"{url}/api/gcs_healthz"))
        )
        stack.enter_context(
            process(
                command("worker-medium"),
                environment,
                lambda: nodes_alive(environment, address) == 2,
            )
        )
        code = (
            f"import ray; ray.init('{address}', log_to_driver=False, logging_level='ERROR'); "
            "print(*sorted((n['Resources'].get('CPU', 0), "
            "n['Labels'].get('lakehouse-ray/profile', '-')) for n in ray.nodes()), "
            "ray.cluster_resources()['CPU'])"
        )
        told = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.stdout.split("\n")[0] == "(0, '-') (2.0, 'medium') 2.0", told.stderr
        listed = subprocess.run(
            [str(BIN / "lakehouse"), "jobs", "list", "--address", url, "--json"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert listed.stdout == '{"v": 1, "jobs": []}\n', listed.stderr
        assert (folder / "r" / "prom_metrics_service_discovery.json").is_file()
        # Each has a session of its own: containers share no folder that may be written.
        assert [len(list((folder / one).glob("session_2*"))) for one in "rw"] == [1, 1]


def test_the_bucket_answers_who_has_its_keys_and_nobody_else(folder: Path) -> None:
    service = document("compose.yaml")["services"]["s3"]
    (folder / "keys.json").write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "lake",
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        "credentials": [{"accessKey": "lake", "secretKey": "secret"}],
                    }
                ]
            }
        )
    )
    port, (master, volume, filer) = free_port(), free_ports(3)
    here = {
        "weed": str(BIN / "weed"),
        "-dir=/data": f"-dir={folder}",
        "-s3.port=8333": f"-s3.port={port}",
        # Nothing of a test is open to others.
        "-s3.ip.bind=0.0.0.0": "-s3.ip.bind=127.0.0.1",
        "-s3.config=/run/secrets/s3_keys": f"-s3.config={folder}/keys.json",
    }
    command = [here.get(part, part) for part in shlex.split(service["command"])]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    url = f"http://127.0.0.1:{port}"

    def store(secret: str) -> S3Store:
        return S3Store("s3://lake/lakehouse", S3Access(url, "us-east-1", "lake", secret))

    def up() -> bool:
        try:
            store("secret").put("ready", b"1")
        except LakehouseError:
            return False
        return True

    with process(command, dict(os.environ), up):
        store("secret").put("object", b"bytes")
        assert store("secret").get("object") == b"bytes"
        with pytest.raises(DeniedError):
            store("another").get("object")
