from __future__ import annotations

import os
import threading

import pytest

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.executor import Executor, PoolSpec
from lakehouse_ray.runtime.pool import RayExecutor, default_worker_env
from lakehouse_ray.runtime.session import RaySession
from lakehouse_ray.testing.executor_suite import ExecutorTests, double, no_component, pause, spec

pytestmark = pytest.mark.integration


@pytest.fixture
def ray_executor(ray_session: RaySession) -> RayExecutor:
    return RayExecutor(inherited_env=ray_session.inherited_env)


class TestRayExecutor(ExecutorTests):
    @pytest.fixture
    def executor(self, ray_executor: RayExecutor) -> Executor:
        return ray_executor


def read_environment(_: None, names: list[str]) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def worker_environment(executor: Executor, names: list[str]) -> list[str | None]:
    with executor.pool(no_component, read_environment, spec(actors=1)) as pool:
        (one,) = pool.map_unordered([names])
    assert one.result is not None
    return one.result


def test_workers_inherit_the_environment_ray_was_started_with(ray_executor: RayExecutor) -> None:
    expected = default_worker_env(1)
    assert worker_environment(ray_executor, list(expected)) == list(expected.values())
    assert os.environ.get("POLARS_MAX_THREADS") is None  # the driver's own is as it was


def test_workers_get_an_environment_that_differs_from_the_inherited_one(
    ray_session: RaySession,
) -> None:
    executor = RayExecutor(
        worker_env={"POLARS_MAX_THREADS": "7"}, inherited_env=ray_session.inherited_env
    )
    assert worker_environment(executor, ["POLARS_MAX_THREADS"]) == ["7"]


def test_a_pool_larger_than_the_cluster_goes_on_with_what_comes_up(
    ray_executor: RayExecutor,
) -> None:
    with ray_executor.pool(no_component, pause, PoolSpec(5, 1, 0)) as pool:
        assert len(list(pool.map_unordered([0.1] * 80))) == 80  # two seconds of two workers
        assert pool.stats().workers == 2
        assert pool.stats().workers_pending == 3


def test_a_worker_that_no_node_can_hold_is_refused_at_once(ray_executor: RayExecutor) -> None:
    with (
        pytest.raises(UnavailableError, match="no node can hold a worker of 64 CPUs; the cluster"),
        ray_executor.pool(no_component, double, PoolSpec(1, 64, 0)),
    ):
        pass


def test_workers_start_on_nodes_with_the_label_alone(ray_session: RaySession) -> None:
    def pool_on(labels: dict[str, str], start_timeout_s: float) -> list[int | None]:
        executor = RayExecutor(
            inherited_env=ray_session.inherited_env,
            start_timeout_s=start_timeout_s,
            node_labels=labels,
        )
        with executor.pool(no_component, double, PoolSpec(1, 1, 0)) as pool:
            return [done.result for done in pool.map_unordered([21])]

    assert pool_on({"ray.io/node-id": ray_session.node_id}, 60) == [42]
    with pytest.raises(UnavailableError, match=r"no worker of 1 CPUs .* came up"):
        pool_on({"lakehouse-ray/profile": "of-no-node"}, 1)


def test_more_memory_than_a_node_has_is_no_reason_to_wait(ray_executor: RayExecutor) -> None:
    with ray_executor.pool(no_component, double, PoolSpec(1, 1, 1 << 50)) as pool:
        assert len(list(pool.map_unordered(range(3)))) == 3


def test_a_pool_that_finds_no_room_says_what_the_cluster_has(
    ray_executor: RayExecutor, ray_session: RaySession
) -> None:
    hurried = RayExecutor(inherited_env=ray_session.inherited_env, start_timeout_s=1)
    with (
        ray_executor.pool(no_component, double, PoolSpec(1, 2, 0)),
        pytest.raises(UnavailableError, match=r"no worker of 1 CPUs .* came up .* 2 CPUs in all"),
        hurried.pool(no_component, double, PoolSpec(2, 1, 0)),
    ):
        pass


def test_a_result_that_does_not_pickle_is_an_error_of_its_task(ray_executor: RayExecutor) -> None:
    with ray_executor.pool(no_component, make_lock, spec()) as pool:
        (one,) = pool.map_unordered([1])
    assert type(one.error) is TypeError


def make_lock(_: None, task: int) -> object:
    return threading.Lock()


def test_the_error_tells_where_it_was_raised(ray_executor: RayExecutor) -> None:
    with ray_executor.pool(no_component, divide, spec()) as pool:
        (one,) = pool.map_unordered([0])
    assert isinstance(one.error, ZeroDivisionError)
    (note,) = one.error.__notes__
    assert "in worker " in note
    assert "in divide" in note


def divide(_: None, number: int) -> float:
    return 1 / number
