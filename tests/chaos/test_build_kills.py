"""The driver, a worker, a committer or the node of a real build is killed at a seeded moment.

After one more run every day is what DuckDB makes of silver, and a further run does nothing. Between
the kills silver changes, so that rows are replaced, and what was half done is never right by luck.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import psutil
import pytest
from support.bars import BarLake, bars
from support.commands import (
    MANY_BYTES,
    Command,
    anything,
    environment,
    is_committer,
    is_raylet,
    is_worker,
    run,
    running,
)
from support.days import assert_days
from support.in_process import run_here

pytestmark = pytest.mark.chaos

SEED = 77
SYMBOLS = [f"S{number:02}" for number in range(12)]
KINDS = ("driver", "worker", "committer", "raylet")
ROUNDS = 12
PICK: dict[str, Callable[[psutil.Process], bool]] = {
    "worker": is_worker,
    "committer": is_committer,
    "raylet": is_raylet,
}
METADATA = {
    "rows": "data/tables/gold/daily/metadata",
    "log": "data/tables/gold/build_log/metadata",
}
NODE_LOSS_TIMEOUT_S = 180
LEFTOVERS_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> BarLake:
    lake = BarLake(tmp_path_factory.mktemp("lake"))
    lake.put(*(bars(symbol, "2024-05-20", 30) for symbol in SYMBOLS))
    return lake


def settings(lake: BarLake, *, on_ray: bool) -> dict[str, str]:
    """Settings that give each symbol a task, and each task a commit."""
    return environment(
        HOME=lake.home,
        COMPUTE__LOCAL_BYTES_MAX=0 if on_ray else MANY_BYTES,
        BUILD__TASK_BYTES_MAX=1 << 10,
        BUILD__TASKS_PER_COMMIT=1,
    )


def change(lake: BarLake, number: int, rng: random.Random) -> None:
    """New days of all, other prices of one, and none of the days of another any more."""
    lake.put(*(bars(symbol, f"2024-07-{number + 1:02}", 1, seed=number) for symbol in SYMBOLS))
    other, gone = rng.sample(SYMBOLS, 2)
    day = pl.col("open_time").dt.day()
    lake.rewrite(
        "silver.klines_coarse",
        lambda rows: rows.filter((pl.col("symbol") != gone) | (day != 25)).with_columns(
            volume=pl.when((pl.col("symbol") == other) & (day == 21))
            .then(pl.col("volume") + number + 1)
            .otherwise(pl.col("volume"))
        ),
    )


def await_commits(command: Command, lake: BarLake, table: str, number: int) -> None:
    """Wait for the moment in which a table's snapshot is being written."""
    folder = lake.home / METADATA[table]
    before = len(list(folder.glob("snap-*.avro")))
    command.wait_for_work()
    while len(list(folder.glob("snap-*.avro"))) < before + number:
        if command.process.poll() is not None:
            return
        time.sleep(0.0005)


def kill(command: Command, kind: str, rng: random.Random) -> int | None:
    command.offspring(anything)
    if kind == "driver":
        os.kill(command.process.pid, signal.SIGKILL)
        return None
    chosen = command.offspring(PICK[kind])
    if chosen:  # else the command is about to end
        os.kill(rng.choice(chosen).pid, signal.SIGKILL)
    code = command.wait(NODE_LOSS_TIMEOUT_S)
    if kind == "raylet" and code not in (0, 3):
        assert code == 7, command.said()
        assert "Traceback" not in command.said()
    return code


def kill_and_repair(lake: BarLake, number: int, kind: str, stack: ExitStack) -> None:
    """Whoever lives on after a killed driver (Ray's agents, for a minute) is waited for as the stack
    is left."""
    rng = random.Random(SEED + number)
    change(lake, number, rng)
    table, commits = rng.choice(["rows", "log"]), rng.randrange(0, len(SYMBOLS))
    command = stack.enter_context(running("build", env=settings(lake, on_ray=True), real=True))
    stack.callback(assert_gone, command)
    await_commits(command, lake, table, commits)
    time.sleep(rng.uniform(0, 0.05))
    code = kill(command, kind, rng)
    print(f"\nSAW {kind} in commit {commits} of {table}: exit {code}", file=sys.stderr)
    if kind in ("worker", "committer"):
        assert code == 0, command.said()
        assert_days(lake)
    # After a driver at once, while processes of the dead one still live.
    repair(lake, on_ray=kind == "driver" and number % 2 == 0)


def assert_gone(command: Command) -> None:
    assert command.leftovers(LEFTOVERS_TIMEOUT_S) == []


def repair(lake: BarLake, *, on_ray: bool) -> None:
    """Build once more: every day is right. And once more: nothing happens."""
    if on_ray:
        code, said = run("build", env=settings(lake, on_ray=True))
        assert code == 0, said
    else:
        build(lake)
    assert_days(lake)
    before = lake.snapshots()
    build(lake)
    assert lake.snapshots() == before


def build(lake: BarLake) -> None:
    done = run_here("build", env=settings(lake, on_ray=False))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_lake_outlives_the_loss_of_a_driver_and_of_a_worker(lake: BarLake) -> None:
    with ExitStack() as stack:
        kill_and_repair(lake, ROUNDS, "driver", stack)
        kill_and_repair(lake, ROUNDS + 1, "worker", stack)
    repair(lake, on_ray=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_build_is_killed_at_a_seeded_moment(lake: BarLake, number: int) -> None:
    with ExitStack() as stack:
        kill_and_repair(lake, number, KINDS[number % len(KINDS)], stack)
    repair(lake, on_ray=False)


@pytest.mark.parametrize("on_ray", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_builds_at_once_leave_what_one_does(tmp_path: Path, on_ray: bool) -> None:
    lake = BarLake(tmp_path)
    lake.put(*(bars(symbol, "2024-05-20", 30) for symbol in SYMBOLS))
    env = settings(lake, on_ray=on_ray)
    with running("build", env=env) as one, running("build", env=env) as other:
        for command in (one, other):
            assert command.wait() == 0, command.said()
    assert_days(lake)
    before = lake.snapshots()
    assert run("build", env=env)[0] == 0
    assert lake.snapshots() == before
