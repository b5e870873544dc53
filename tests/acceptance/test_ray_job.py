"""The bulk ingestion and the assessment as jobs of a cluster of two started nodes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT.parent / "shared" / "data" / "archive"
BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not ARCHIVE.exists(), reason="needs ../shared/data/archive"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(
    command: list[str], environment: dict[str, str], up: Callable[[], bool]
) -> Iterator[None]:
    """A child that is ended by its pid; started one after another, since two nodes at once hang."""
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not up():
            assert child.poll() is None, f"{command[:2]} ended with {child.returncode}"
            assert time.monotonic() < deadline, f"{command[:2]} is not up"
            time.sleep(0.3)
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def answers(url: str) -> bool:
    try:
        urlopen(url, timeout=2).read()
    except (URLError, OSError):
        return False
    return True


def nodes_alive(environment: dict[str, str], address: str) -> int:
    code = (
        f"import ray; ray.init('{address}', log_to_driver=False, logging_level='ERROR'); "
        "print(sum(n['Alive'] for n in ray.nodes()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return int(answer.stdout.strip() or 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lj-"))  # short: Ray's sockets live below it
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_jobs_on_two_nodes_bring_the_real_archive_to_silver_and_assess_it(folder: Path) -> None:
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    exchange, gcs, dashboard = free_port(), free_port(), free_port()
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "LAKEHOUSE_HOME": str(folder / "home"),
    }
    common = ["--block", "--num-cpus=1", "--object-store-memory=100000000"]
    head = [
        str(BIN / "ray"), "start", "--head", *common, f"--port={gcs}", f"--temp-dir={folder}/r",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
    ]  # fmt: skip
    node = [str(BIN / "ray"), "start", *common, f"--address=127.0.0.1:{gcs}"]
    serve = [str(BIN / "lakehouse"), "exchange", "--root", str(ARCHIVE), "--port", str(exchange)]
    url = f"http://127.0.0.1:{exchange}"
    with ExitStack() as stack:
        stack.enter_context(
            process(serve, environment, lambda: answers(f"{url}/?prefix=data/&delimiter=/"))
        )
        stack.enter_context(
            process(head, environment, lambda: answers(f"http://127.0.0.1:{dashboard}"))
        )
        address = f"127.0.0.1:{gcs}"
        stack.enter_context(
            process(node, environment, lambda: nodes_alive(environment, address) == 2)
        )
        variables = {
            "LAKEHOUSE_HOME": environment["LAKEHOUSE_HOME"],
            "LAKEHOUSE_BINANCE__ARCHIVE_URL": url,
            "LAKEHOUSE_COMPUTE__LOCAL_BYTES_MAX": "0",
        }
        chosen = ("--market", "um", "--dataset", "aggTrades")
        for script, said in (
            ("jobs/bulk_ingestion.py", ["2 workers on Ray"]),
            (
                "jobs/quality_assessment.py",
                ["on Ray", "6 series assessed (756,634 rows), 0 as they were"],
            ),
        ):
            job = subprocess.run(
                [
                    str(BIN / "ray"), "job", "submit", f"--address=http://127.0.0.1:{dashboard}",
                    "--working-dir", ".", "--runtime-env-json", json.dumps({"env_vars": variables}),
                    "--", "python", script, *chosen,
                ],
                env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
                timeout=300,
            )  # fmt: skip
            assert job.returncode == 0, job.stdout + job.stderr
            for words in said:
                assert words in job.stdout
    answer = subprocess.run(
        [
            str(BIN / "lakehouse"), "sql", "--output", "ndjson",
            "select count(*) n, count(distinct (symbol, agg_trade_id)) u from silver.agg_trades",
        ],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(answer.stdout) == {"n": 756_634, "u": 756_634}
    scores = subprocess.run(
        [
            str(BIN / "lakehouse"), "sql", "--output", "ndjson",
            "select count(distinct run_id) runs, count(distinct symbol) n, min(score) score "
            "from gold.quality",
        ],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(scores.stdout) == {"runs": 1, "n": 6, "score": 1.0}
