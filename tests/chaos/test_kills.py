"""The driver, a worker, a committer or the node of a real ingestion is killed at a seeded moment.

After one more run the tables equal an undisturbed run's, row for row, and a further run does
nothing. The run after a killed driver starts at once, while processes of the dead one still live.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.commands import (
    KLINES_1M,
    Command,
    anything,
    is_committer,
    is_raylet,
    is_worker,
    run,
    running,
)
from support.lakes import assert_same, read_lake
from support.moments import COMMITS, Moment, draw
from support.stage import SYMBOLS, Stage

pytestmark = pytest.mark.chaos

SEED = 20260
KINDS = ("driver", "worker", "raylet", "driver", "committer")
MOMENTS_COUNT = 20

# A driver whose node died says so and ends; without an answer it would hang.
NODE_LOSS_TIMEOUT_S = 180
# Processes of a killed driver end by themselves; Ray's agents first try for a minute to tell the
# dead GCS about it.
LEFTOVERS_TIMEOUT_S = 120

PICK: dict[str, Callable[[psutil.Process], bool]] = {
    "worker": is_worker,
    "committer": is_committer,
    "raylet": is_raylet,
}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(MOMENTS_COUNT))
def test_killed_at_a_seeded_moment(stage: Stage, tmp_path: Path, number: int) -> None:
    rng = random.Random(SEED + number)
    kind = KINDS[number % len(KINDS)]
    moment = draw(rng, number, stage.commits)
    if kind != "driver" and moment.share < 0:
        moment = Moment(share=abs(moment.share))  # there are no workers before
    _kill_and_repair(stage, tmp_path, kind, moment, rng, again_on_ray=number % 2 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_interrupted_at_a_seeded_moment(stage: Stage, tmp_path: Path, number: int) -> None:
    rng = random.Random(SEED + 100 + number)
    # Not so late that the run may end first.
    moment = draw(rng, number, stage.commits * 3 // 4)
    moment = replace(moment, share=moment.share * 0.75)
    env = stage.environment(tmp_path, on_ray=True)
    with running("ingest", *KLINES_1M, env=env, real=True) as command:
        moment.await_in(command, tmp_path, stage.start_s, stage.commits)
        commits = _commits(tmp_path)
        code = _interrupt(command, (signal.SIGINT, signal.SIGTERM)[number % 2])
        _tell("interrupt", f"{moment}, {commits} commits", command, code)
    _repair(stage, tmp_path, on_ray=False)


def test_one_lake_outlives_one_loss_of_each_kind(small_stage: Stage, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    env = small_stage.environment(tmp_path, on_ray=True)
    # A run whose worker or node is killed does all its work in spite of it: the worker's has half.
    half = ("--symbols", ",".join(SYMBOLS[::2]))
    for kind, part in (("driver", ()), ("worker", half), ("raylet", ())):
        with running("ingest", *KLINES_1M, *part, env=env) as command:
            command.wait_for_work()
            time.sleep(rng.uniform(0, 0.3))
            code = _kill(command, kind, rng)
            assert kind != "worker" or code in (0, small_stage.code)
            _tell(kind, "early on", command, command.process.returncode)
    _repair(small_stage, tmp_path, on_ray=False)


@pytest.mark.slow
@pytest.mark.parametrize("commit", ["silver", "ledger"])
def test_a_committer_that_sleeps_through_its_drivers_death_adds_nothing_twice(
    stage: Stage, tmp_path: Path, commit: str
) -> None:
    """It is stopped in a commit, its driver killed, and it goes on while the next run works."""
    env = stage.environment(tmp_path, on_ray=True)
    with running("ingest", *KLINES_1M, env=env, real=True) as dead:
        Moment(commit=commit, number=7).await_in(dead, tmp_path, stage.start_s, stage.commits)
        committers = dead.offspring(is_committer)
        for process in committers:
            process.suspend()
        dead.offspring(anything)
        os.kill(dead.process.pid, signal.SIGKILL)
        env = stage.environment(tmp_path, on_ray=False)
        with running("ingest", *KLINES_1M, env=env, real=True) as after:
            Moment(commit="silver", number=12).await_in(after, tmp_path, 0, 0)
            slept = [process for process in committers if process.is_running()]
            for process in slept:
                process.resume()
            code = after.wait()
            assert code == stage.code, after.said()
        print(f"{len(slept)} of {len(committers)} committers were still there", file=sys.stderr)
        assert dead.leftovers(LEFTOVERS_TIMEOUT_S) == []
    _repair(stage, tmp_path, on_ray=False)


def _kill_and_repair(
    stage: Stage,
    home: Path,
    kind: str,
    moment: Moment,
    rng: random.Random,
    *,
    again_on_ray: bool,
) -> None:
    env = stage.environment(home, on_ray=True)
    with running("ingest", *KLINES_1M, env=env, real=True) as command:
        moment.await_in(command, home, stage.start_s, stage.commits)
        commits = _commits(home)
        code = _kill(command, kind, rng)
        _tell(kind, f"{moment}, {commits} of {stage.commits} commits", command, code)
        if kind in ("worker", "committer"):
            assert code == stage.code, command.said()
            assert_same(read_lake(home), stage.contents)
        if kind == "driver":
            _repair(stage, home, on_ray=again_on_ray)
        assert command.leftovers(LEFTOVERS_TIMEOUT_S) == []
    if kind != "driver":
        _repair(stage, home, on_ray=again_on_ray)


def _kill(command: Command, kind: str, rng: random.Random) -> int | None:
    """Kill a process of this kind; the exit code of the command, None for a killed driver's."""
    command.offspring(anything)
    if kind == "driver":
        os.kill(command.process.pid, signal.SIGKILL)
        return None
    chosen = command.offspring(PICK[kind])
    if chosen:  # else the command is about to end
        os.kill(rng.choice(chosen).pid, signal.SIGKILL)
    code = command.wait(NODE_LOSS_TIMEOUT_S)
    # The work may be done before Ray notices that the node is gone; else it ends in a clear error.
    if kind == "raylet" and code not in (0, 3):
        assert code == 7, command.said()
        assert "error: " in command.said()
        assert "Traceback" not in command.said()
    return code


def _interrupt(command: Command, number: signal.Signals) -> int:
    """As a terminal does (to the whole group) or a supervisor (to the process)."""
    command.offspring(anything)
    if number == signal.SIGINT:
        os.killpg(command.process.pid, number)
    else:
        os.kill(command.process.pid, number)
    code = command.wait(120)
    assert code == 128 + number, command.said()
    assert "Traceback" not in command.said()
    assert command.leftovers(60) == []
    return code


def _repair(stage: Stage, home: Path, *, on_ray: bool) -> None:
    """Run it once more: everything is there. And once more: nothing happens."""
    code, said = run("ingest", *KLINES_1M, env=stage.environment(home, on_ray=on_ray))
    assert code in (0, 3), said
    repaired = read_lake(home)
    assert_same(repaired, stage.contents)
    code, said = run("ingest", *KLINES_1M, env=stage.environment(home, on_ray=False))
    assert code == 0, said
    again = read_lake(home)
    assert again.snapshots == repaired.snapshots
    assert_same(again, stage.contents)


def _commits(home: Path) -> int:
    return len(list((home / "data" / COMMITS["silver"]).glob("snap-*.avro")))


def _tell(kind: str, moment: str, command: Command, code: int | None) -> None:
    seconds = time.monotonic() - command.started_s
    last = command.err[-1].strip()[:100] if command.err else ""
    print(f"\nSAW {kind} {moment}: exit {code} after {seconds:.0f} s | {last}", file=sys.stderr)
