from __future__ import annotations

import threading

import pytest

from lakehouse_ray.runtime.executor import Executor, LocalExecutor, PoolSpec
from lakehouse_ray.testing.executor_suite import ExecutorTests, double, spec


class TestLocalExecutor(ExecutorTests):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Executor:
        return LocalExecutor()


class Store:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_a_local_component_is_closed_at_the_end() -> None:
    store = Store()

    def read(component: Store, task: int) -> bool:
        return component.closed

    with LocalExecutor().pool(lambda: store, read, spec()) as pool:
        assert [one.result for one in pool.map_unordered([1])] == [False]
    assert store.closed


def test_a_call_that_asks_the_process_to_exit_is_an_error_of_its_task() -> None:
    def leave(_: None, task: int) -> None:
        raise SystemExit(task)

    with LocalExecutor().pool(lambda: None, leave, spec()) as pool:
        (one,) = pool.map_unordered([3])
    assert "SystemExit(3)" in str(one.error)


@pytest.mark.parametrize("wrong", [{"actors": 0}, {"depth": 0}, {"attempts_max": 0}, {"cpus": -1}])
def test_a_pool_without_workers_calls_or_attempts_is_our_own_mistake(wrong: dict[str, int]) -> None:
    with pytest.raises(AssertionError):
        PoolSpec(**{"actors": 1, "cpus": 1, "memory_bytes": 0, **wrong})


def test_no_idle_thread_outlives_the_pool() -> None:
    with LocalExecutor().pool(lambda: None, double, spec()) as pool:
        list(pool.map_unordered(range(10)))
    assert not [t for t in threading.enumerate() if t.name == "lakehouse-work"]
