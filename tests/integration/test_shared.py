from __future__ import annotations

import os
import signal
import threading

import pytest
import ray

from lakehouse_ray.errors import BadDataError, InvalidError, UnavailableError
from lakehouse_ray.runtime.pool import RayExecutor
from lakehouse_ray.runtime.session import RaySession
from lakehouse_ray.runtime.shared import NAMESPACE, shared, shared_by_all, unshared
from lakehouse_ray.testing.executor_suite import spec

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]

METHODS = ("add", "pid", "fail", "wait", "missing")


class Counter:
    """What a cluster might share."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, by: int) -> int:
        self.count += by
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise BadDataError("CODE", "detail")

    def wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def missing_from_methods(self) -> None: ...


def test_calls_go_to_one_instance_in_its_own_process() -> None:
    with shared(Counter, "counter", methods=METHODS) as counter:
        assert [counter.add(1), counter.add(2), counter.add(by=3)] == [1, 3, 6]
        assert counter.pid() != os.getpid()


def test_workers_share_the_instance(ray_session: RaySession) -> None:
    executor = RayExecutor(inherited_env=ray_session.inherited_env)
    with (
        shared(Counter, "counter", methods=METHODS) as counter,
        executor.pool(lambda: counter, lambda found, by: found.add(by), spec()) as pool,
    ):
        assert not [one.error for one in pool.map_unordered([1] * 100) if one.error]
        assert counter.add(0) == 100


def test_it_waits_for_no_cpu(ray_session: RaySession) -> None:
    executor = RayExecutor(inherited_env=ray_session.inherited_env)
    with (
        executor.pool(lambda: None, lambda _, task: task, spec(actors=4)),
        shared(Counter, "counter", methods=METHODS) as counter,
    ):
        assert counter.add(1) == 1


def test_errors_are_raised_as_they_are() -> None:
    with shared(Counter, "counter", methods=METHODS) as counter:
        with pytest.raises(BadDataError, match="CODE: detail") as caught:
            counter.fail()
        assert caught.value.reason == "CODE"
        assert counter.add(1) == 1


def test_only_named_methods_are_there() -> None:
    with shared(Counter, "counter", methods=METHODS) as counter:
        with pytest.raises(AttributeError, match="the shared counter has no"):
            counter.missing_from_methods()
        with pytest.raises(AttributeError, match="'Counter' object has no attribute 'missing'"):
            counter.missing()  # type: ignore[attr-defined]


def test_an_error_of_the_factory_is_raised_as_it_is() -> None:
    def refuse() -> Counter:
        raise InvalidError("no catalog", "make one")

    with (
        pytest.raises(InvalidError, match="no catalog") as caught,
        shared(refuse, "counter", methods=METHODS),
    ):
        pass
    assert caught.value.hint == "make one"


def test_a_call_without_an_answer_has_an_unknown_outcome() -> None:
    with (
        shared(Counter, "counter", methods=METHODS, call_timeout_s=0.5) as counter,
        pytest.raises(UnavailableError, match=r"no answer in 0\.5 s; outcome unknown"),
    ):
        counter.wait(3)


def test_a_killed_instance_is_made_anew_and_the_call_in_flight_is_not_repeated() -> None:
    with shared(Counter, "counter", methods=METHODS) as counter:
        counter.add(5)
        first = counter.pid()
        killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
        killer.start()
        with pytest.raises(UnavailableError, match="died during the call; outcome unknown"):
            counter.wait(30)
        assert counter.add(1) == 1  # a new instance
        assert counter.pid() != first


def test_its_twin_in_this_process_is_the_instance_itself() -> None:
    with unshared(Counter, "counter") as counter:
        assert type(counter) is Counter


def test_jobs_of_a_cluster_share_an_instance_by_its_name(ray_session: RaySession) -> None:
    name = f"counter of {os.getpid()}"
    executor = RayExecutor(inherited_env=ray_session.inherited_env)
    with shared_by_all(Counter, name, methods=METHODS) as first:
        assert first.add(1) == 1
        with executor.pool(lambda: first, lambda found, by: found.add(by), spec()) as pool:
            assert not [one.error for one in pool.map_unordered([1] * 10) if one.error]
    # The one who made it has left; who comes later finds what it counted.
    with shared_by_all(Counter, name, methods=METHODS) as second:
        assert second.add(1) == 12
        assert second.pid() != os.getpid()
    ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
