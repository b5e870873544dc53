"""Commands that tests fork are what the real ones are; and each real one starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.commands import environment
from support.forked import LAKEHOUSE, Forked, completed, popen

from lakehouse_ray.cli.app import COMMANDS

pytestmark = pytest.mark.integration
SETTINGS = ("config", "show", "--json")


# One of those that write, one that starts Ray Serve, one that reads, and one that serves by itself.
REAL = ("ingest", "serve", "sql", "exchange")


@pytest.mark.parametrize(
    "name",
    [name if name in REAL else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS],
)
def test_the_real_command_starts_and_the_forked_one_says_the_same(name: str) -> None:
    real = subprocess.run(
        [LAKEHOUSE, name, "--help"], env=environment(), capture_output=True, text=True, check=False
    )
    forked = completed(name, "--help", env=environment(), text=True)
    assert (real.returncode, real.stderr) == (0, "")
    assert f"lakehouse {name}" in real.stdout
    assert (forked.returncode, forked.stdout, forked.stderr) == (0, real.stdout, "")


def test_it_has_the_folder_settings_and_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "lakehouse.toml").write_text("[log]\nlevel = 'error'\n")
    env = environment(HOME="elsewhere")
    real = subprocess.run(
        [LAKEHOUSE, *SETTINGS], env=env, cwd=tmp_path, capture_output=True, check=False
    )
    forked = completed(*SETTINGS, env=env, cwd=tmp_path)
    assert b"elsewhere" in real.stdout
    assert (real.returncode, real.stdout, real.stderr) == (0, forked.stdout, forked.stderr)
    assert (
        completed("sql", "-", env=env, cwd=tmp_path, input=b"select 7 as n").stdout[-2:] == b"7\n"
    )
    assert completed("nonsense", env=env).returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_leads_a_session_and_hears_signals(number: signal.Signals) -> None:
    ends = []
    for start in (popen, _real):
        with start(
            "exchange", "--synthetic", "--json", env=environment(), stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            assert isinstance(process, Forked) == (start is popen)
            assert "url" in json.loads(process.stdout.readline())
            assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
            assert process.poll() is None
            os.killpg(process.pid, number)
            ends.append((process.wait(30), process.stdout.read()))
    assert ends[0] == ends[1]


def test_what_is_read_while_it_is_loaded_is_read_by_the_command_itself_if_no_other_has_it() -> None:
    env = environment() | {"POLARS_MAX_THREADS": "3"}
    with popen("--version", env=env, stdout=subprocess.DEVNULL) as process:
        assert not isinstance(process, Forked)
        assert process.wait(60) == 0


def _real(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([LAKEHOUSE, *arguments], **options)  # type: ignore[call-overload,no-any-return]
