"""The driver, a worker or a committer of a real assessment is killed at a seeded moment.

After one more run every view shows what an undisturbed run found, row for row, and a further run
assesses nothing.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.bars import BarLake, bars
from support.commands import (
    MANY_BYTES,
    Command,
    anything,
    environment,
    is_committer,
    is_worker,
    run,
    running,
)
from support.findings import assert_same_findings, findings, runs_shown

from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess

pytestmark = pytest.mark.chaos

SEED = 31
SYMBOLS = [f"S{number:02}" for number in range(8)]
# Hours and minutes of each.
SERIES = 2 * len(SYMBOLS)
ROUNDS = 8
PICK: dict[str, Callable[[psutil.Process], bool]] = {
    "worker": is_worker,
    "committer": is_committer,
}
# In the order in which a batch is committed; the last one makes the others seen.
TABLES = ("silver/gaps_log", "gold/anomaly_log", "gold/quality_log", "gold/assessment_log")
LEFTOVERS_TIMEOUT_S = 120
# All days of a random walk have something wrong; what is judged here is not the code.
CODES = (0, 5)


def lake_at(home: Path) -> BarLake:
    lake = BarLake(home)
    # Of two years, so that series lie in several partitions of the table.
    lake.put(*(bars(symbol, "2023-12-20", 20) for symbol in SYMBOLS))
    lake.put(*(bars(symbol, "2023-12-25", 0.5, interval="1m") for symbol in SYMBOLS))
    return lake


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = lake_at(tmp_path_factory.mktemp("undisturbed"))
    report = assess(lake.writer(), AssessmentRequest())
    assert (report.assessed, report.failed) == (SERIES, 0)
    return lake.home


def settings(lake: BarLake, *, on_ray: bool) -> dict[str, str]:
    return environment(
        HOME=lake.home,
        COMPUTE__LOCAL_BYTES_MAX=0 if on_ray else MANY_BYTES,
        BUILD__TASKS_PER_COMMIT=1,
    )


def snapshots_of(lake: BarLake, table: str) -> int:
    folder = lake.home / "data/tables" / table / "metadata"
    return len(list(folder.glob("snap-*.avro")))


def await_commit(command: Command, lake: BarLake, table: str) -> None:
    """Wait for the moment in which a table's next snapshot is being written."""
    before = snapshots_of(lake, table)
    while snapshots_of(lake, table) <= before and command.process.poll() is None:
        time.sleep(0.0005)


def kill(command: Command, kind: str, rng: random.Random) -> None:
    command.offspring(anything)
    if kind == "driver":
        os.kill(command.process.pid, signal.SIGKILL)
        command.process.wait()
        return
    chosen = command.offspring(PICK[kind])
    if chosen:  # else the command is about to end
        os.kill(rng.choice(chosen).pid, signal.SIGKILL)
    assert command.wait(120) in CODES, command.said()


def kill_and_repair(home: Path, undisturbed: Path, number: int, kind: str, *, on_ray: bool) -> None:
    rng = random.Random(SEED + number)
    lake = lake_at(home)
    table = TABLES[number % len(TABLES)]
    with running("quality", env=settings(lake, on_ray=on_ray), real=True) as command:
        command.wait_for_work()
        if number % 3 < 2:
            await_commit(command, lake, table)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, 0.5))
        kill(command, kind, rng)
        print(f"\nSAW {kind} {table}: {command.process.returncode}", file=sys.stderr)
        if kind == "driver":  # what is seen then is whole, whatever it is
            seen = findings(lake.home)
            assert set(seen["gold.quality"]["symbol"]) <= set(seen["gold.assessments"]["symbol"])
        assert command.leftovers(LEFTOVERS_TIMEOUT_S) == []
    code, said = run("quality", env=settings(lake, on_ray=False))
    assert code in CODES, said
    assert_same_findings(lake.home, undisturbed)
    assert runs_shown(lake.home).height == SERIES
    report = assess(lake.writer(), AssessmentRequest())
    assert (report.assessed, report.current) == (0, SERIES)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3])
def test_a_lake_outlives_the_loss_of_a_driver_in_a_commit(
    tmp_path: Path, undisturbed: Path, number: int
) -> None:
    kill_and_repair(tmp_path, undisturbed, number, "driver", on_ray=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("kind", ["driver", "worker", "committer"])
def test_an_assessment_is_killed_at_a_seeded_moment(
    tmp_path: Path, undisturbed: Path, number: int, kind: str
) -> None:
    kill_and_repair(tmp_path, undisturbed, number, kind, on_ray=True)


@pytest.mark.slow
@pytest.mark.parametrize("on_ray", [False, True])
def test_two_assessments_at_once_leave_what_one_does(
    tmp_path: Path, undisturbed: Path, on_ray: bool
) -> None:
    lake = lake_at(tmp_path)
    env = settings(lake, on_ray=on_ray)
    with running("quality", env=env) as one, running("quality", env=env) as other:
        for command in (one, other):
            assert command.wait() in CODES, command.said()
    assert_same_findings(lake.home, undisturbed)
    assert runs_shown(lake.home).height == SERIES
    assert assess(lake.writer(), AssessmentRequest()).assessed == 0
