from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.runtime.dispatch import Dispatch, Ticket


def fill(
    dispatch: Dispatch[str, int], tasks: list[int], now_s: float = 0
) -> list[Ticket[str, int]]:
    """Start what there is room for, as the pool does; takes from `tasks`."""
    started = []
    while ticket := dispatch.start_retry(now_s):
        started.append(ticket)
    while tasks and dispatch.room():
        started.append(dispatch.start_fresh(tasks.pop(0), now_s))
    return started


def two_workers(depth: int = 2, attempts_max: int = 3) -> Dispatch[str, int]:
    dispatch: Dispatch[str, int] = Dispatch(depth, attempts_max)
    dispatch.add("a")
    dispatch.add("b")
    return dispatch


def test_the_worker_with_the_fewest_tasks_takes_the_next() -> None:
    started = fill(two_workers(), [1, 2, 3, 4, 5])
    assert [ticket.worker for ticket in started] == ["a", "b", "a", "b"]


def test_tasks_of_a_lost_worker_go_before_fresh_ones() -> None:
    dispatch = two_workers(depth=1)
    _, second = fill(dispatch, [1, 2])
    assert dispatch.lose("a", "a died") == []
    assert not dispatch.room()
    dispatch.finish(second)
    (again,) = fill(dispatch, [3])
    assert (again.task, again.worker, again.attempts, again.losses) == (1, "b", 2, ("a died",))


def test_a_task_out_of_attempts_is_given_up_with_every_loss() -> None:
    dispatch = two_workers(depth=1, attempts_max=2)
    fill(dispatch, [1])
    dispatch.lose("a", "a died")
    fill(dispatch, [])
    (given_up,) = dispatch.lose("b", "b died")
    assert (given_up.task, given_up.attempts, given_up.losses) == (1, 2, ("a died", "b died"))
    assert not dispatch.busy


def test_siblings_of_a_late_task_keep_their_attempts() -> None:
    dispatch = two_workers(attempts_max=1)
    first, _, third, _ = fill(dispatch, [1, 2, 3, 4])
    (given_up,) = dispatch.lose("a", "late", [first])
    assert given_up.task == first.task
    dispatch.add("c")
    (again,) = fill(dispatch, [])
    assert (again.task, again.attempts, again.losses) == (third.task, 2, ())


def test_a_last_chance_runs_alone() -> None:
    dispatch = two_workers(attempts_max=2)
    _, second, _, fourth = fill(dispatch, [1, 2, 3, 4])
    dispatch.lose("a", "a died")
    assert fill(dispatch, [5, 6]) == []  # b is kept free for them
    dispatch.finish(second)
    assert fill(dispatch, [5, 6]) == []
    dispatch.finish(fourth)
    (alone,) = fill(dispatch, [5, 6])
    assert alone.alone
    dispatch.add("c")
    (other,) = fill(dispatch, [5, 6])
    assert (other.worker, other.alone) == ("c", True)
    assert fill(dispatch, [5, 6]) == []


def test_what_is_dropped_keeps_its_worker_busy_and_is_never_run_again() -> None:
    dispatch = two_workers(depth=1)
    fill(dispatch, [1, 2])
    dispatch.drop_all()
    assert not dispatch.busy
    assert not dispatch.room()
    assert dispatch.lose("a", "a died") == []
    assert dispatch.start_retry(0) is None


def test_late_tasks_are_found_by_worker() -> None:
    dispatch = two_workers(depth=1)
    fill(dispatch, [1], now_s=0)
    fill(dispatch, [2], now_s=5)
    assert dispatch.oldest_start_s() == 0
    assert dispatch.late(now_s=9, deadline_s=10) == {}
    assert [t.task for t in dispatch.late(now_s=10, deadline_s=10)["a"]] == [1]
    assert len(dispatch.late(now_s=15, deadline_s=10)) == 2


events = st.lists(
    st.tuples(st.sampled_from(["finish", "lose", "late", "add"]), st.integers(0, 7)), max_size=80
)


@given(events, st.integers(1, 3), st.integers(1, 4))
def test_every_task_ends_once_whatever_happens_to_the_workers(
    happenings: list[tuple[str, int]], depth: int, attempts_max: int
) -> None:
    dispatch: Dispatch[str, int] = Dispatch(depth, attempts_max)
    workers = ["w0", "w1"]
    for worker in workers:
        dispatch.add(worker)
    tasks, ended = list(range(40)), []
    flying = fill(dispatch, tasks)
    for number, (event, which) in enumerate([*happenings, *[("finish", 0)] * 400]):
        mine = [t for t in flying if t.worker == workers[which % len(workers)]] if workers else []
        if event == "finish" and flying:
            ticket = flying.pop(which % len(flying))
            dispatch.finish(ticket)
            ended.append(ticket.task)
        elif event in ("lose", "late") and len(workers) > 1 and mine:
            worker = mine[0].worker
            blamed = mine[:1] if event == "late" else None
            workers.remove(worker)
            flying = [t for t in flying if t.worker != worker]
            ended.extend(g.task for g in dispatch.lose(worker, event, blamed))
        elif event == "add" and len(workers) < 3:
            workers.append(f"n{number}")
            dispatch.add(workers[-1])
        flying.extend(fill(dispatch, tasks))
        loads = [[t for t in flying if t.worker == worker] for worker in workers]
        assert all(len(load) <= depth for load in loads)
        assert all(len(load) == 1 for load in loads if any(t.alone for t in load))
        assert dispatch.in_flight == len(flying)
    assert sorted(ended) == list(range(40))
    assert not dispatch.busy
