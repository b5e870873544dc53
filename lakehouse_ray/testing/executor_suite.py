"""The contract of an `Executor`, one test per sentence. Every implementation subclasses it.

class TestMyExecutor(ExecutorTests):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Executor:
        return MyExecutor()
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse_ray.errors import BadDataError, InvalidError, UnavailableError
from lakehouse_ray.runtime.executor import Executor, Pool, PoolSpec


class ExecutorTests:
    """Promises of `Executor`, `Pool` and `PoolSpec`, whatever stands behind them."""

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Executor:
        raise NotImplementedError("a subclass says which executor it tests")

    @pytest.fixture(scope="class")
    @classmethod
    def doubling(cls, executor: Executor) -> Iterator[Pool[int, int]]:
        """A pool that several tests ask, since starting one takes longer than asking it."""
        with executor.pool(no_component, double, spec()) as pool:
            yield pool

    @pytest.fixture(scope="class")
    @classmethod
    def refusing(cls, executor: Executor) -> Iterator[Pool[int, int]]:
        with executor.pool(no_component, refuse_multiples_of_ten, spec()) as pool:
            yield pool

    def test_every_task_is_done_once(self, doubling: Pool[int, int]) -> None:
        done = list(doubling.map_unordered(range(1000)))
        assert sorted(one.result or 0 for one in done) == [2 * n for n in range(1000)]
        assert sorted(one.task for one in done) == list(range(1000))
        assert {(one.error, one.attempts) for one in done} == {(None, 1)}

    def test_no_tasks_give_no_results(self, doubling: Pool[int, int]) -> None:
        assert list(doubling.map_unordered([])) == []

    def test_results_come_in_the_order_they_finish(self, executor: Executor) -> None:
        with executor.pool(no_component, pause, spec()) as pool:
            done = [one.task for one in pool.map_unordered([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])]
        assert done[-1] == 1.0

    def test_tasks_are_read_lazily(self, executor: Executor) -> None:
        taken = 0

        def endless() -> Iterator[int]:
            nonlocal taken
            while True:
                taken += 1
                yield taken

        shape = spec(actors=2, depth=2)
        with executor.pool(no_component, double, shape) as pool:
            for given, _ in enumerate(pool.map_unordered(endless()), start=1):
                assert taken <= given + shape.in_flight_max
                if given == 50:
                    break

    def test_at_most_actors_times_depth_calls_run_at_once(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        shape = spec(actors=2, depth=2)
        with executor.pool(no_component, count_running, shape) as pool:
            seen = [one.result or 0 for one in pool.map_unordered([tmp_path] * 40)]
        assert max(seen) <= shape.in_flight_max

    def test_one_worker_runs_depth_calls_at_once(self, executor: Executor, tmp_path: Path) -> None:
        with executor.pool(no_component, meet_two_others, spec(actors=1, depth=3)) as pool:
            assert all(one.result for one in pool.map_unordered([tmp_path] * 3))

    def test_the_component_is_made_once_per_worker(self, executor: Executor) -> None:
        shape = spec(actors=2)
        with executor.pool(new_component, tell_component, shape) as pool:
            seen = {one.result for one in pool.map_unordered(range(50))}
            seen |= {one.result for one in pool.map_unordered(range(50))}
        assert 1 <= len(seen) <= shape.actors

    def test_an_error_keeps_its_type_and_spares_its_siblings(
        self, refusing: Pool[int, int]
    ) -> None:
        done = list(refusing.map_unordered(range(100)))
        errors = {one.task: one.error for one in done if one.error is not None}
        assert sorted(errors) == list(range(0, 100, 10))
        error = errors[30]
        assert type(error) is BadDataError
        assert (error.reason, str(error)) == ("CHECKSUM_MISMATCH", "CHECKSUM_MISMATCH: object 30")

    def test_an_error_of_work_is_final_at_once(self, refusing: Pool[int, int]) -> None:
        (one,) = refusing.map_unordered([10])
        assert (one.attempts, one.result) == (1, None)

    def test_an_error_that_does_not_pickle_still_tells_what_happened(
        self, executor: Executor
    ) -> None:
        with executor.pool(no_component, raise_unpicklable, spec(actors=1)) as pool:
            (one,) = pool.map_unordered(["a thing"])
        assert one.error is not None
        assert "a thing broke" in str(one.error)

    def test_an_error_of_setup_is_raised_as_it_is(self, executor: Executor) -> None:
        with (
            pytest.raises(InvalidError, match="no such store") as caught,
            executor.pool(refuse_setup, double, spec()),
        ):
            pass
        assert caught.value.hint == "name another"

    def test_an_error_of_the_tasks_comes_through(self, doubling: Pool[int, int]) -> None:
        def broken_plan() -> Iterator[int]:
            yield from range(10)
            raise InvalidError("the plan is wrong")

        with pytest.raises(InvalidError, match="the plan is wrong"):
            list(doubling.map_unordered(broken_plan()))

    def test_a_pool_may_be_asked_again(self, doubling: Pool[int, int]) -> None:
        for _ in range(3):
            assert len(list(doubling.map_unordered(range(20)))) == 20

    def test_closing_early_gives_up_the_rest(self, executor: Executor) -> None:
        with executor.pool(no_component, pause, spec()) as pool:
            first = pool.map_unordered([0.0, *[0.3] * 100])
            assert next(first).task == 0.0
            close(first)
            # Calls still run. The next question neither sees them nor waits for a hundred.
            started = time.monotonic()
            assert [one.task for one in pool.map_unordered([0.01, 0.01])] == [0.01, 0.01]
            assert time.monotonic() - started < 10

    def test_leaving_in_the_middle_ends_the_pool(self, executor: Executor) -> None:
        started = time.monotonic()
        with executor.pool(no_component, pause, spec()) as pool:
            next(pool.map_unordered([0.0, *[0.2] * 1000]))
        assert time.monotonic() - started < 30

    def test_a_call_over_its_deadline_is_given_up_and_spares_its_siblings(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        shape = spec(attempts_max=1, deadline_s=1.0)
        stuck = tmp_path / "stuck"
        tasks = [stuck, *[tmp_path / f"{n}" for n in range(20)]]
        with executor.pool(no_component, wait_if_stuck, shape) as pool:
            done = {one.task.name: one for one in pool.map_unordered(tasks)}
            (tmp_path / "release").touch()
        assert len(done) == 21
        late = done.pop("stuck")
        assert type(late.error) is UnavailableError
        assert "1 s" in str(late.error)
        assert all(one.error is None for one in done.values())

    def test_stats_say_how_the_pool_is(self, doubling: Pool[int, int]) -> None:
        list(doubling.map_unordered(range(20)))
        stats = doubling.stats()
        assert stats.workers >= 1
        assert (stats.in_flight, stats.requeued, stats.workers_lost) == (0, 0, 0)


def spec(
    *, actors: int = 2, depth: int = 2, attempts_max: int = 3, deadline_s: float = 60.0
) -> PoolSpec:
    """Three such pools fit on two CPUs."""
    return PoolSpec(actors, 0.25, 64 << 20, depth, attempts_max, deadline_s)


def close(results: Iterator[object]) -> None:
    """Close an iterator that a `Pool` gave; the contract lets it be closed."""
    results.close()  # type: ignore[attr-defined]


def no_component() -> None:
    return None


def new_component() -> str:
    return uuid.uuid4().hex


def refuse_setup() -> None:
    raise InvalidError("no such store", "name another")


def double(_: None, number: int) -> int:
    return 2 * number


def pause(_: None, seconds: float) -> int:
    threading.Event().wait(seconds)
    return os.getpid()


def tell_component(component: str, _: int) -> str:
    return component


def refuse_multiples_of_ten(_: None, number: int) -> int:
    if number % 10 == 0:
        raise BadDataError("CHECKSUM_MISMATCH", f"object {number}")
    return number


class ForgetfulError(Exception):
    """Keeps its arguments to itself, so it cannot be made again on the other side."""

    def __init__(self, thing: str, verb: str) -> None:
        super().__init__(f"{thing} {verb}")


def raise_unpicklable(_: None, thing: str) -> None:
    raise ForgetfulError(thing, "broke")


def count_running(_: None, folder: Path) -> int:
    """Return how many calls were seen at once, this one included."""
    mine = folder / uuid.uuid4().hex
    mine.touch()
    seen = 0
    for _poll in range(5):
        threading.Event().wait(0.005)
        seen = max(seen, len(os.listdir(folder)))
    mine.unlink()
    return seen


def meet_two_others(_: None, folder: Path) -> bool:
    """Whether three calls were at work at one moment; waits 20 s for it at most."""
    (folder / uuid.uuid4().hex).touch()
    for _poll in range(2000):
        if len(os.listdir(folder)) >= 3:
            return True
        threading.Event().wait(0.01)
    return False


def wait_if_stuck(_: None, path: Path) -> str:
    """Wait until somebody makes `release` beside it, 30 s at most, where the name is `stuck`."""
    for _poll in range(3000 if path.name == "stuck" else 0):
        if (path.parent / "release").exists():
            break
        threading.Event().wait(0.01)
    return path.name
