"""A statement that cannot have a process ends by its deadline, and leaves room for the next."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakehouse_ray.errors import LakehouseError, UnavailableError
from lakehouse_ray.serve.nursery import Nursery
from lakehouse_ray.serve.problems import DeadlineError
from lakehouse_ray.serve.sandbox import Sandbox, SqlJob
from lakehouse_ray.serve.sandbox_child import can_confine
from lakehouse_ray.serve.work import StoppableEngine
from lakehouse_ray.storage.objects import LocalStore

ONE = SqlJob("select 1 as one", None, ("silver",), (), ())

needs_copies = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no processes are copied")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(1, 256 << 20, 5.0, must_confine=can_confine())
    yield sandbox
    sandbox.close()


def ask(sandbox: Sandbox, tmp_path: Path, deadline_s: float = 20.0) -> list[dict[str, int]]:
    """The rows of a statement, which is told to end after a while."""
    engine = StoppableEngine(LocalStore(tmp_path), tmp_path)
    timer = threading.Timer(deadline_s, engine.stop, [DeadlineError("too long")])
    timer.start()
    try:
        with sandbox.run(ONE, engine, 10) as answer:
            return [row for batch in answer.fetch_batches() for row in batch.to_pylist()]
    finally:
        timer.cancel()


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_moment_without_room_for_a_process_costs_no_place_for_good(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    engine = StoppableEngine(LocalStore(tmp_path), tmp_path)
    with no_descriptors(), sandbox.run(ONE, engine, 10) as answer:
        assert answer.columns == ["one"]
    with no_descriptors(), pytest.raises(UnavailableError, match="process"):
        ask(sandbox, tmp_path)
    for _ in range(2):
        assert ask(sandbox, tmp_path) == [{"one": 1}]


@needs_copies
def test_a_process_that_does_not_begin_is_ended_at_the_deadline(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    assert ask(sandbox, tmp_path) == [{"one": 1}]
    child = sandbox._warm.queue[0]
    assert child is not None
    signal.pidfd_send_signal(child.process._descriptor, signal.SIGSTOP)  # type: ignore[attr-defined]
    ended: list[LakehouseError] = []

    def run() -> None:
        try:
            ask(sandbox, tmp_path, 0.5)
        except LakehouseError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert isinstance(ended[0], DeadlineError)
    assert ask(sandbox, tmp_path) == [{"one": 1}]


@needs_copies
def test_another_mother_takes_the_place_of_one_that_gives_no_answer() -> None:
    nursery = Nursery(answer_timeout_s=3)  # a new one has to be there by then
    first = nursery.process()
    assert nursery._mother is not None
    stopped = nursery._mother.pid
    os.kill(stopped, signal.SIGSTOP)
    second = nursery.process()
    assert second.poll() is None
    assert nursery._mother.pid != stopped
    second.kill()
    for process in (first, second):
        process.wait()
    nursery.close()
