"""The API held against its own document by schemathesis, which knows nothing else of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bars import BarLake, bars
from support.served import Served, serving

pytestmark = pytest.mark.integration

# All but one: a document cannot say what is SQL, a stored symbol, or a column of which table, so
# what its schemas allow may be refused.
LEFT_OUT = "positive_data_acceptance"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("openapi") / "home"
    BarLake(home).put(
        bars("BTCUSDT", "2024-01-05", 1, interval="1m"), bars("ETHUSDT", "2024-01-05", 1)
    )
    with serving(home) as served:
        yield served


def test_no_request_gets_an_answer_that_the_document_does_not_know(served: Served) -> None:
    # In a folder of its own nothing is found by it but what stands here.
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.url}/openapi.json",
        "--checks", "all", "--exclude-checks", LEFT_OUT, "--phases", "examples,coverage,fuzzing",
        "--max-examples", "6", "--seed", "1", "--no-color", "--generation-database", "none",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Test cases:" in done.stdout
