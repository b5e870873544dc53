"""A disk that is full or read-only, for real: a small file system of its own holds the lake."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from support.commands import KLINES_1M, run, serve
from support.in_process import run_here
from support.lakes import Contents, assert_same, assert_sound, read_lake
from support.stage import FAULTS, Stage, write

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    write(folder / "archive", symbols, date(2025, 1, 25), date(2025, 2, 5))
    with serve(folder / "archive", FAULTS) as url:
        empty = Stage(url, 0, Contents({}, {}, {}))
        code, said = run("ingest", *KLINES_1M, env=empty.environment(folder / "home", on_ray=False))
        assert code == 3, said
        yield Stage(url, code, read_lake(folder / "home"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0 or mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)):
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    "size_kib", [24, 1000, *(pytest.param(size, marks=pytest.mark.slow) for size in (40, 64, 1800))]
)
def test_a_full_disk_ends_a_run_and_space_lets_the_next_one_finish(
    stage: Stage, disk: Path, size_kib: int
) -> None:
    assert mount("-o", f"remount,size={size_kib}k", str(disk)) == 0
    env = stage.environment(disk, on_ray=False)
    code, said = run("ingest", *KLINES_1M, env=env)
    assert code == 75, said
    assert said.count("error: ") == 1, said
    assert "no room left" in said
    assert "sqlalche.me" not in said
    assert "Traceback" not in said
    assert mount("-o", "remount,size=100m", str(disk)) == 0
    assert_sound(read_lake(disk))
    again = run_here("ingest", *KLINES_1M, env=env)
    assert again.returncode in (0, 3), again.stderr
    assert_same(read_lake(disk), stage.contents)


def test_a_read_only_disk_ends_a_run_and_rights_let_the_next_one_work(
    stage: Stage, disk: Path
) -> None:
    env = stage.environment(disk / "home", on_ray=False)
    assert mount("-o", "remount,ro,size=100m", str(disk)) == 0
    code, said = run("ingest", *KLINES_1M, env=env)
    assert code == 6, said
    assert said.count("error: ") == 1, said
    assert "Traceback" not in said
    assert mount("-o", "remount,rw", str(disk)) == 0
    code, said = run("ingest", *KLINES_1M, env=env)
    assert code == 3, said
    # More to do, in a lake that cannot be written any more.
    assert mount("-o", "remount,ro", str(disk)) == 0
    code, said = run("ingest", *KLINES_1M, "--freq", "daily", env=env)
    assert code == 6, said
    assert said.count("error: ") == 1, said
    assert mount("-o", "remount,rw", str(disk)) == 0
    assert_same(read_lake(disk / "home"), stage.contents)
