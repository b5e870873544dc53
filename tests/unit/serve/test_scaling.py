"""The rules of scaling: up when busy, down when all is low, else stay."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.runtime.scaling import Load, Rules
from lakehouse_ray.serve.scaling import ScalingPolicy, wanted_replicas

RULES = Rules()
shares = st.floats(0, 1)
counts = st.integers(1, 64)


@pytest.mark.parametrize(
    ("now", "load", "wanted"),
    [
        (2, Load(0.71, 0.1, 0), 3),
        (2, Load(0.1, 0.81, 0), 3),
        (2, Load(0.1, 0.1, 101), 3),
        (8, Load(0.9, 0.1, 0), 12),
        (16, Load(0.9, 0.1, 0), 16),
        (2, Load(0.70, 0.80, 100), 2),
        (2, Load(0.34, 0.39, 9), 1),
        (2, Load(0.36, 0.1, 0), 2),
        (2, Load(0.1, 0.41, 0), 2),
        (2, Load(0.1, 0.1, 10), 2),
        (1, Load(0, 0, 0), 1),
    ],
)
def test_the_products_rules(now: int, load: Load, wanted: int) -> None:
    assert wanted_replicas(now, 1, 16, load, RULES) == wanted


@given(counts, counts, counts, shares, shares, st.integers(0, 1000))
def test_always_within_bounds(
    now: int, least: int, more: int, cpu: float, memory: float, waiting: int
) -> None:
    most = least + more
    assert least <= wanted_replicas(now, least, most, Load(cpu, memory, waiting), RULES) <= most


@given(counts, shares, shares, st.integers(0, 1000))
def test_more_load_never_wants_fewer(now: int, cpu: float, memory: float, waiting: int) -> None:
    load = Load(cpu, memory, waiting)
    wanted = wanted_replicas(now, 1, 200, load, RULES)
    for worse in (Load(1, memory, waiting), Load(cpu, 1, waiting), Load(cpu, memory, 1000)):
        assert wanted_replicas(now, 1, 200, worse, RULES) >= wanted


def context(cpu: float, waiting: float, requests: float, websockets: float = 0) -> SimpleNamespace:
    return SimpleNamespace(
        target_num_replicas=2,
        current_num_replicas=2,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
        total_num_requests=requests,
        aggregated_metrics={
            "cpu_share": {"a": cpu, "b": 0.1},
            "memory_share": {"a": 0.2},
            "waiting": {"a": waiting, "b": 0.0},
            "open_websockets": {"a": websockets},
        },
    )


@pytest.mark.parametrize(
    ("cpu", "waiting", "requests", "wanted"),
    [(0.1, 0, 0, 1), (0.9, 0, 0, 3), (0.1, 101, 0, 3), (0.1, 0, 8 + 101, 3), (0.1, 0, 8 + 50, 2)],
)
def test_the_policy_sees_processors_and_queues(
    cpu: float, waiting: float, requests: float, wanted: int
) -> None:
    """Two replicas work on eight questions at once; what is beyond these waits."""
    assert ScalingPolicy(4)(context(cpu, waiting, requests)) == (wanted, {})


def test_a_replica_that_tells_nothing_is_no_reason_to_grow() -> None:
    silent = context(0, 0, 8)
    silent.aggregated_metrics = None
    assert ScalingPolicy(4)(silent)[0] == 1


def test_open_websockets_wait_for_nothing() -> None:
    assert ScalingPolicy(4)(context(0.1, 0, 8 + 101, websockets=101))[0] == 1
