"""Prometheus, its Alertmanager, node exporter and Pushgateway as Debian has them, each a process."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

R = TypeVar("R")

FOLDER = Path(__file__).parents[2] / "cluster/monitoring"
RULES = (FOLDER / "rules/recordings.yml", FOLDER / "rules/quality.yml")


def binary(name: str, package: str) -> str:
    """Where a program is; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary("promtool", "prometheus"), *arguments],
        input=stdin, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        try:
            eventually(lambda: _get(ready) is not None, lambda: log.read_text())
            yield
        finally:
            process.terminate()


@contextmanager
def node_exporter(folder: Path) -> Iterator[int]:
    """Shows what is in the .prom files of a folder, and nothing else; yields its port."""
    port = free_port()
    command = [
        binary("prometheus-node-exporter", "prometheus-node-exporter"),
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with _running(command, folder / "exporter.log", f"http://127.0.0.1:{port}/metrics"):
        yield port


@contextmanager
def pushgateway(folder: Path) -> Iterator[int]:
    port = free_port()
    command = [
        binary("prometheus-pushgateway", "prometheus-pushgateway"),
        # Debian's default is a file of the whole machine.
        "--persistence.file=",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with _running(command, folder / "gateway.log", f"http://127.0.0.1:{port}/-/ready"):
        yield port


class Prometheus:
    """A Prometheus that looks every second."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def value(self, query: str) -> float | None:
        """Of the one series that a query has; None where it has none."""
        asked = urllib.parse.urlencode({"query": query})
        found = self._ask(f"query?{asked}")["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def series(self, query: str) -> list[dict[str, Any]]:
        asked = urllib.parse.urlencode({"query": query})
        found: list[dict[str, Any]] = self._ask(f"query?{asked}")["result"]
        return found

    def firing(self) -> set[tuple[str, str]]:
        """Alerts that fire, by name and lake."""
        alerts = self._ask("alerts")["alerts"]
        return {
            (a["labels"]["alertname"], a["labels"].get("lake", ""))
            for a in alerts
            if a["state"] == "firing"
        }

    def _ask(self, path: str) -> Any:
        answer = _get(f"{self._url}/{path}")
        assert answer is not None
        return json.loads(answer)["data"]


@contextmanager
def alertmanager(folder: Path, url: Callable[[str], str]) -> Iterator[int]:
    """With the repository's routes and no patience; yields its port.

    url: Of a path of who is told.
    """
    program, port = binary("prometheus-alertmanager", "prometheus-alertmanager"), free_port()
    folder.mkdir()
    text = (FOLDER / "alertmanager.yml").read_text().replace("http://127.0.0.1:9095", url(""))
    text = re.sub(r"group_(wait|interval): \w+", r"group_\1: 1s", text)
    (folder / "alertmanager.yml").write_text(text)
    command = [
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with _running(command, folder / "alertmanager.log", f"http://127.0.0.1:{port}/-/ready"):
        yield port


@contextmanager
def prometheus(
    folder: Path, targets: dict[str, int], configuration: str = ""
) -> Iterator[Prometheus]:
    """targets: Ports by job, under the repository's rules of quality. configuration: Instead."""
    program, port = binary("prometheus", "prometheus"), free_port()
    folder.mkdir()
    jobs = [
        {
            "job_name": job,
            "honor_labels": True,
            "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
        }
        for job, target in targets.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": jobs,
    }
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(configuration or json.dumps(config))
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with ExitStack() as stack:
        ready = f"http://127.0.0.1:{port}/-/ready"
        stack.enter_context(_running(command, folder / "prometheus.log", ready))
        yield Prometheus(port)


def eventually(
    work: Callable[[], R], said: Callable[[], str] = lambda: "", timeout_s: float = 60
) -> R:
    """Return the first true result of `work`."""
    until = time.monotonic() + timeout_s
    while True:
        result = work()
        if result:
            return result
        assert time.monotonic() < until, said() or result
        time.sleep(0.2)


def _get(url: str) -> bytes | None:
    # No proxy of the environment: all of this is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
