"""Workers that run until they are told to stop: here and on Ray, one contract."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lakehouse_ray.errors import InvalidError, LakehouseError, UnavailableError
from lakehouse_ray.runtime.keepers import Ended, Keeper, LocalKeeper, Told
from lakehouse_ray.runtime.kept_actors import RayKeeper

pytestmark = pytest.mark.integration


def work(task: str, stop: threading.Event, tell: Callable[[Any], None]) -> None:
    """Does what its task says."""
    if task == "refuse":
        raise InvalidError("no such stream", "name another")
    tell((task, os.getpid()))
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "wait":
        assert stop.wait(60.0)
        tell(("stopped", os.getpid()))


@pytest.fixture(params=["local", "ray"])
def keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    kept: Keeper
    if request.param == "local":
        kept = LocalKeeper(work)
    else:
        request.getfixturevalue("ray_session")
        kept = RayKeeper(work, cpus=0.1)
    yield kept
    kept.kill()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    # Not a helper of `support`: Ray's workers, which import this module, know no such folder.
    until_s = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < until_s, f"{what} did not come"


def heard(keeper: Keeper, count: int) -> list[Told | Ended]:
    """What workers say until so many have ended."""
    events: list[Told | Ended] = []

    def enough() -> bool:
        events.extend(keeper.poll(0.2))
        return sum(isinstance(event, Ended) for event in events) >= count

    wait_for(enough, f"the end of {count} workers")
    return events


def test_workers_tell_how_it_goes_and_end_when_they_are_told(keeper: Keeper) -> None:
    keeper.start(0, "wait")
    keeper.start(1, "wait")
    said: dict[int, Any] = {}

    def both() -> bool:
        said.update({e.number: e.status for e in keeper.poll(0.2) if isinstance(e, Told)})
        return len(said) == 2

    wait_for(both, "both workers")
    assert len({pid for _, pid in said.values()} | {os.getpid()}) == 3
    keeper.stop()
    events = heard(keeper, 2)
    assert {e.number for e in events if isinstance(e, Ended) and e.error is None} == {0, 1}
    assert {e.status[0] for e in events if isinstance(e, Told)} >= {"stopped"}


def test_one_that_dies_is_told_and_its_number_may_be_used_again(keeper: Keeper) -> None:
    keeper.start(0, "die")
    ended = [event for event in heard(keeper, 1) if isinstance(event, Ended)]
    assert isinstance(ended[0].error, UnavailableError)
    keeper.start(0, "once")
    ended = [event for event in heard(keeper, 1) if isinstance(event, Ended)]
    assert ended == [Ended(0, None)]


def test_an_error_of_a_worker_keeps_its_type(keeper: Keeper) -> None:
    keeper.start(3, "refuse")
    (event,) = [event for event in heard(keeper, 1) if isinstance(event, Ended)]
    assert event.number == 3
    assert isinstance(event.error, InvalidError)
    assert isinstance(event.error, LakehouseError)
    assert event.error.hint == "name another"


def told(keeper: Keeper) -> None:
    """Wait until a worker has said something."""
    wait_for(lambda: any(isinstance(event, Told) for event in keeper.poll(0.2)), "a worker")


@pytest.mark.usefixtures("ray_session")
def test_a_node_that_has_too_few_cpus_for_any_worker_keeps_them_all_the_same() -> None:
    """A head is often kept free of other work by having none."""
    kept = RayKeeper(work, cpus=1_000)
    try:
        kept.start(0, "wait")
        told(kept)
    finally:
        kept.kill()


@pytest.mark.usefixtures("ray_session")
def test_one_that_finds_no_free_cpu_is_told_in_time_and_what_to_do() -> None:
    holder, kept = RayKeeper(work, cpus=2), RayKeeper(work, cpus=1, start_timeout_s=1.0)
    try:
        holder.start(0, "wait")
        told(holder)
        kept.start(1, "wait")
        (event,) = heard(kept, 1)
        assert isinstance(event, Ended)
        assert (event.number, event.came_up) == (1, False)
        assert isinstance(event.error, UnavailableError)
        assert "worker 1 did not come up within 1 s: it takes 1 CPUs" in str(event.error)
        assert "which has 0 of 2 free" in str(event.error)
        assert "ask for fewer workers" in str(event.error)
        # Nor is it waited for where all are told to end.
        kept.start(2, "wait")
        kept.stop()
        (event,) = kept.poll(0.0)
        assert isinstance(event, Ended)
        assert (event.number, event.came_up) == (2, False)
    finally:
        holder.kill()
        kept.kill()
