"""What a pool does when its workers and nodes die for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.executor import PoolSpec
from lakehouse_ray.runtime.pool import RayExecutor, default_worker_env
from lakehouse_ray.runtime.session import connect

pytestmark = pytest.mark.chaos

SPEC = PoolSpec(actors=2, cpus=1, memory_bytes=64 << 20, depth=2, attempts_max=3, deadline_s=4)


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    env = default_worker_env(1)
    with connect("local", num_cpus=2, worker_env=env) as session:
        yield RayExecutor(worker_env=env, inherited_env=session.inherited_env)


def work(_: None, task: str) -> int:
    """Return this process's number, or do to it what the task says."""
    if task.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.startswith("freeze") and not Path(task.partition(" ")[2]).exists():
        Path(task.partition(" ")[2]).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    threading.Event().wait(0.02)
    return os.getpid()


def test_killed_workers_lose_no_task(executor: RayExecutor) -> None:
    with executor.pool(lambda: None, work, SPEC) as pool:
        tasks = [f"n{n}" for n in range(300)]
        done, killed = [], set()
        for one in pool.map_unordered(tasks):
            done.append(one)
            if len(done) in (50, 120, 200) and one.result is not None:
                os.kill(one.result, signal.SIGKILL)
                killed.add(one.result)
        stats = pool.stats()
    assert sorted(one.task for one in done) == sorted(tasks)
    assert [one.error for one in done if one.error] == []
    assert max(one.attempts for one in done) >= 2
    assert stats.workers_lost == len(killed) == 3
    assert stats.requeued >= 3


def test_a_task_that_kills_its_worker_ends_alone(executor: RayExecutor) -> None:
    with executor.pool(lambda: None, work, SPEC) as pool:
        tasks = [*(f"a{n}" for n in range(30)), "kill", *(f"b{n}" for n in range(100))]
        done = {one.task: one for one in pool.map_unordered(tasks)}
        assert pool.stats().workers_lost == 3
    assert len(done) == 131
    poison = done.pop("kill")
    assert type(poison.error) is UnavailableError
    assert str(poison.error).startswith("given up after 3 attempts: worker ")
    assert str(poison.error).count("was lost") == 3
    assert [one.error for one in done.values() if one.error] == []


@pytest.mark.slow
def test_several_poisoned_tasks_take_no_sibling_with_them(executor: RayExecutor) -> None:
    with executor.pool(lambda: None, work, SPEC) as pool:
        tasks = [*(f"kill {n}" for n in range(3)), *(f"b{n}" for n in range(60))]
        done = {one.task: one for one in pool.map_unordered(tasks)}
    assert {task for task, one in done.items() if one.error} == {f"kill {n}" for n in range(3)}
    assert len(done) == 63


def test_a_frozen_worker_is_replaced_at_its_deadline(executor: RayExecutor, tmp_path: Path) -> None:
    with executor.pool(lambda: None, work, SPEC) as pool:
        freeze = f"freeze {tmp_path / 'frozen'}"
        started = time.monotonic()
        done = {one.task: one for one in pool.map_unordered([freeze, *map(str, range(100))])}
        assert pool.stats().workers_lost == 1
    assert time.monotonic() - started < 60
    assert len(done) == 101
    assert [one.error for one in done.values() if one.error] == []
    assert done[freeze].attempts == 2


def test_a_pool_whose_workers_all_die_at_once_goes_on(executor: RayExecutor) -> None:
    with executor.pool(lambda: None, work, SPEC) as pool:
        pids = {one.result for one in pool.map_unordered(str(n) for n in range(150))}
        for pid in filter(None, pids):
            os.kill(pid, signal.SIGKILL)
        done = list(pool.map_unordered(str(n) for n in range(50)))
    assert len(done) == 50
    assert [one.error for one in done if one.error] == []


def test_a_lost_node_is_made_up_for_by_the_others(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("node_loss.py"))],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert not seen["own"]
    assert seen["nodes_before"] == ["kept", "lost"]
    assert seen["each_once"]
    assert seen["errors"] == []
    assert seen["last_place"] == "kept"
    assert seen["workers_lost"] == 2
    assert seen["workers"] == 2
    assert seen["requeued"] >= 2
    assert seen["alive"] == 2  # the head and the node that was kept
