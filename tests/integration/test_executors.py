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


@pytest.fixture(scope="module")
def ray_executor(ray_session: RaySession) -> RayExecutor:
    return RayExecutor(inherited_env=ray_session.inherited_env)


class TestRayExecutor(ExecutorTests):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, ray_executor: RayExecutor) -> Executor:
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
    with pytest.raises(
        UnavailableError, match=r"no node for a worker .*=of-no-node came within 1 s"
    ):
        pool_on({"lakehouse-ray/profile": "of-no-node"}, 1)


def nimble(session: RaySession) -> RayExecutor:
    return RayExecutor(
        inherited_env=session.inherited_env, look_every_s=0.1, down_after_s=0.5, workload="test"
    )


def test_a_pool_grows_where_much_waits_and_nodes_have_room(ray_session: RaySession) -> None:
    spec_ = PoolSpec(1, 1, 0, depth=1, actors_most=8, tasks=150)
    with nimble(ray_session).pool(no_component, pause, spec_) as pool:
        assert pool.stats().workers == 1
        assert len(list(pool.map_unordered([0.02] * 150))) == 150
        stats = pool.stats()
    assert stats.workers == 2  # the CPUs that there are
    (said,) = stats.decisions
    assert said.startswith("grown by 1 to 2: 1")
    assert said.endswith("wait (over 100) and nodes have room for 1 worker")


def test_a_pool_without_work_shrinks_and_ends_no_worker_that_has_some(
    ray_session: RaySession,
) -> None:
    spec_ = PoolSpec(2, 1, 0, depth=1, actors_most=2, tasks=2)
    with nimble(ray_session).pool(no_component, pause, spec_) as pool:
        done = list(pool.map_unordered([0.01, 2.5]))
        stats = pool.stats()
        assert [one.error for one in done] == [None, None]
        assert (stats.workers, stats.workers_lost, stats.requeued) == (1, 0, 0)
        assert stats.decisions[0].startswith("shrunk by 1 to 1: 1 worker of 2 without work: CPUs")
        assert len(list(pool.map_unordered([0.01] * 3))) == 3


def test_workers_that_wait_for_a_node_are_given_up_when_they_are_not_needed(
    ray_session: RaySession,
) -> None:
    spec_ = PoolSpec(6, 1, 0, depth=1, actors_most=6, tasks=3)
    with nimble(ray_session).pool(no_component, pause, spec_) as pool:
        assert len(list(pool.map_unordered([0.5] * 3))) == 3
        stats = pool.stats()
    assert (stats.workers, stats.workers_pending) == (2, 0)
    assert any(said.startswith("cancelled by ") for said in stats.decisions)


def test_a_pool_that_must_not_grow_keeps_its_size(ray_session: RaySession) -> None:
    with nimble(ray_session).pool(no_component, pause, PoolSpec(1, 1, 0, tasks=150)) as pool:
        assert len(list(pool.map_unordered([0.02] * 150))) == 150
        assert (pool.stats().workers, pool.stats().decisions) == (1, ())


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
    with ray_executor.pool(no_component, make_lock, spec(actors=1)) as pool:
        (one,) = pool.map_unordered([1])
    assert type(one.error) is TypeError


def make_lock(_: None, task: int) -> object:
    return threading.Lock()


def test_the_error_tells_where_it_was_raised(ray_executor: RayExecutor) -> None:
    with ray_executor.pool(no_component, divide, spec(actors=1)) as pool:
        (one,) = pool.map_unordered([0])
    assert isinstance(one.error, ZeroDivisionError)
    (note,) = one.error.__notes__
    assert "in worker " in note
    assert "in divide" in note


def divide(_: None, number: int) -> float:
    return 1 / number
