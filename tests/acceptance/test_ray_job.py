"""The bulk ingestion and the assessment as jobs of a cluster of two started nodes."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.cluster import BIN, answers, cluster, free_port, process

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT.parent / "shared" / "data" / "archive"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not ARCHIVE.exists(), reason="needs ../shared/data/archive"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lj-"))  # short: Ray's sockets live below it
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_jobs_on_two_nodes_bring_the_real_archive_to_silver_and_assess_it(folder: Path) -> None:
    exchange = free_port()
    url = f"http://127.0.0.1:{exchange}"
    with ExitStack() as stack:
        started = stack.enter_context(
            cluster(folder, extra={"LAKEHOUSE_HOME": str(folder / "home")})
        )
        environment = started.environment
        serve = [
            str(BIN / "lakehouse"), "exchange", "--root", str(ARCHIVE), "--port", str(exchange),
        ]  # fmt: skip
        stack.enter_context(
            process(serve, environment, lambda: answers(f"{url}/?prefix=data/&delimiter=/"))
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
                    str(BIN / "ray"), "job", "submit", f"--address={started.dashboard}",
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
