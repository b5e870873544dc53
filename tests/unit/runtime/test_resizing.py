"""Pools that grow and shrink: decisions as functions of their state, at the size of any cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.runtime.resizing import Bounds, Governor, PoolState, Resize, resize
from lakehouse_ray.runtime.scaling import Load, Rules, judge

RULES = Rules()
CALM = Load(0.5, 0.5, 50)
LONG_QUEUE = Load(0.5, 0.5, 10_000_000)
NO_WORK = Load(0.0, 0.1, 0)


def pool(
    up: int,
    load: Load,
    *,
    idle: int = 0,
    pending: int = 0,
    in_flight: int | None = None,
    depth: int = 3,
    room: int = 0,
) -> PoolState:
    flying = (up - idle) * depth if in_flight is None else in_flight
    return PoolState(up, idle, pending, flying, depth, load, room)


@pytest.mark.parametrize(
    ("load", "direction", "rule"),
    [
        (Load(0.71, 0.1, 0), "up", "cpu"),
        (Load(0.1, 0.81, 0), "up", "memory"),
        (Load(0.1, 0.1, 101), "up", "queue"),
        (Load(0.70, 0.80, 100), "stay", "none"),
        (Load(0.34, 0.39, 9), "down", "idle"),
        (Load(0.35, 0.1, 0), "stay", "none"),
        (Load(0.1, 0.40, 0), "stay", "none"),
        (Load(0.1, 0.1, 10), "stay", "none"),
    ],
)
def test_the_products_rules(load: Load, direction: str, rule: str) -> None:
    found = judge(load, RULES)
    assert (found.direction, found.rule) == (direction, rule)


@pytest.mark.parametrize(
    ("cpus", "up", "grown"),
    [(1, 1, 0), (2, 1, 1), (64, 8, 4), (64, 62, 2), (1000, 400, 200), (1000, 1000, 0)],
)
def test_a_long_queue_takes_free_cpus_by_half_at_a_time(cpus: int, up: int, grown: int) -> None:
    found = resize(pool(up, LONG_QUEUE, room=cpus - up), Bounds(1, 10_000), RULES)
    assert found.start == grown
    assert (found.end, found.cancel) == (0, 0)
    if grown:
        assert found.rule == "queue"
        assert found.reason.startswith("10,000,000 wait (over 100)")


@pytest.mark.parametrize("cpus", [1, 2, 64, 1000])
def test_a_pool_reaches_every_cpu_of_a_cluster_and_stops_there(cpus: int) -> None:
    up, looks = 1, 0
    while grown := resize(pool(up, LONG_QUEUE, room=cpus - up), Bounds(1, 10_000), RULES).start:
        up, looks = up + grown, looks + 1
    assert up == cpus
    assert looks <= 18  # 1.5 ** 17 > 900


@pytest.mark.parametrize("cpus", [2, 64, 1000])
def test_an_idle_pool_shrinks_to_its_least_and_stops_there(cpus: int) -> None:
    up = cpus
    while ended := resize(pool(up, NO_WORK, idle=up), Bounds(1, cpus), RULES).end:
        up -= ended
    assert up == 1


def test_bounds_end_the_growth() -> None:
    assert resize(pool(10, LONG_QUEUE, room=50), Bounds(1, 12), RULES).start == 2
    assert resize(pool(10, LONG_QUEUE, pending=2, room=50), Bounds(1, 12), RULES).start == 0


def test_no_more_workers_than_the_work_can_use() -> None:
    load = Load(0.9, 0.1, 4)
    found = resize(pool(10, load, room=50), Bounds(1, 100), RULES)
    assert (found.start, found.rule) == (2, "cpu")  # 30 in flight and 4 waiting: 12 workers of 3


def test_busy_cpus_with_nothing_waiting_need_no_worker() -> None:
    assert not resize(pool(10, Load(1.0, 0.9, 0), room=50), Bounds(1, 100), RULES)


def test_workers_with_a_task_are_never_ended() -> None:
    found = resize(pool(10, NO_WORK, idle=1, in_flight=9), Bounds(1, 10), RULES)
    assert found.end == 1
    assert not resize(pool(10, NO_WORK, idle=0, in_flight=10), Bounds(1, 10), RULES)


def test_workers_that_wait_for_a_node_are_given_up_where_little_is_left() -> None:
    found = resize(pool(2, Load(0.9, 0.1, 3), pending=6), Bounds(1, 8), RULES)
    assert (found.cancel, found.rule) == (5, "surplus")  # 6 in flight, 3 waiting: 3 workers


def test_workers_that_wait_for_a_node_stay_while_much_is_left() -> None:
    assert not resize(pool(2, LONG_QUEUE, pending=6), Bounds(1, 8), RULES)


loads = st.builds(Load, st.floats(0, 2), st.floats(0, 2), st.integers(0, 10_000).map(float))


@st.composite
def states(draw: st.DrawFn) -> PoolState:
    up = draw(st.integers(1, 1000))
    idle = draw(st.integers(0, up))
    depth = draw(st.integers(1, 9))
    busy = up - idle
    flying = draw(st.integers(busy, busy * depth)) if busy else 0
    pending, room = draw(st.integers(0, 100)), draw(st.integers(0, 1000))
    return PoolState(up, idle, pending, flying, depth, draw(loads), room)


@given(states(), st.integers(1, 10), st.integers(0, 2000))
def test_a_decision_is_within_bounds_room_and_need(state: PoolState, least: int, more: int) -> None:
    bounds = Bounds(least, least + more)
    found = resize(state, bounds, RULES)
    assert min(found.start, found.end, found.cancel) >= 0
    assert [found.start, found.end, found.cancel].count(0) >= 2  # one thing at a time
    if found.start:
        assert found.start <= state.room
        assert state.up + state.pending + found.start <= bounds.most
    if found.end:
        assert found.end <= state.idle
        assert state.up - found.end >= least
    if found.cancel:
        assert found.cancel <= state.pending
    assert bool(found) == bool(found.reason)


@given(states())
def test_it_never_swings(state: PoolState) -> None:
    """After workers came or went, the same load does not ask for the opposite."""
    first = resize(state, Bounds(1, 5000), RULES)
    after = PoolState(
        state.up - first.end,
        state.idle - first.end,
        state.pending + first.start - first.cancel,
        state.in_flight,
        state.depth,
        state.load,
        state.room - first.start,
    )
    second = resize(after, Bounds(1, 5000), RULES)
    assert not (first.start and (second.end or second.cancel))
    assert not (first.end and second.start)
    assert not (first.cancel and second.cancel)


def test_a_governor_waits_before_it_ends_workers_and_forgets_a_moment_of_rest() -> None:
    governor = Governor(Bounds(1, 8), RULES, every_s=5, down_after_s=30)
    idle, busy = pool(8, NO_WORK, idle=8), pool(8, CALM)
    assert governor.decide(0, idle) == Resize()
    assert governor.decide(29, idle) == Resize()
    assert governor.decide(30, idle).end == 4
    assert governor.decide(31, busy) == Resize()
    assert governor.decide(35, idle) == Resize()
    assert governor.decide(64, idle) == Resize()
    assert governor.decide(65, idle).end == 4


def test_a_governor_grows_at_once() -> None:
    governor = Governor(Bounds(1, 8), RULES)
    assert governor.decide(0, pool(2, LONG_QUEUE, room=4)).start == 1


def test_a_governor_looks_at_intervals() -> None:
    governor = Governor(Bounds(1, 8), RULES, every_s=5)
    assert [governor.due(s) for s in (0, 1, 4.9, 5, 9, 10.5, 15, 15.5)] == [
        True, False, False, True, False, True, False, True,
    ]  # fmt: skip
