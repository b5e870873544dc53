"""One account for all who ask an exchange: whoever is killed, no window holds more than is allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos

TESTS = str(Path(__file__).parents[1])


@pytest.mark.slow
@pytest.mark.parametrize("successor", ["here", "alone"])
def test_on_two_nodes_no_kill_makes_more_than_is_allowed(tmp_path: Path, successor: str) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("account_loss.py")), successor],
        env={
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            # Of workers, too.
            "PYTHONPATH": os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]),
        },
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
        check=True,
    )
    seen = json.loads(ended.stdout.splitlines()[-1])
    print(seen)
    assert seen["nodes"] == 2
    assert seen["share_used"] > 0.6
    assert seen["after_the_account"] > 0
    assert seen["askers_left"] == 1
    assert seen["most"] <= seen["allowed"]
    assert seen["while_banned"] == 0
    assert seen["after_the_ban"] > 0
    assert seen["most_after"] <= seen["allowed"]
