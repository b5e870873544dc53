"""What the finished commands are asked from outside, on real files of the exchange."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"
SCRIPT = SHARED / "acceptance" / "real_archive.sh"

pytestmark = pytest.mark.acceptance


@pytest.mark.skipif(not SCRIPT.exists(), reason="needs ../shared/acceptance and ../shared/data")
def test_the_real_archive_is_in_silver_cell_by_cell_and_a_second_run_adds_nothing(
    tmp_path: Path,
) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    answer = subprocess.run(
        ["bash", str(SCRIPT)],
        env=os.environ | {"PATH": path, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "missing 0 extra 0 duplicate 0 different 0" in answer.stdout
    assert "second run: 0 new rows" in answer.stdout
