"""How many replicas answer: the product's rules of scaling as a policy of Ray Serve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lakehouse_ray.runtime.scaling import Load, Rules, judge

# What each replica tells of itself; Ray Serve asks for it by `record_autoscaling_stats`.
CPU, MEMORY, WAITING, OPEN = "cpu_share", "memory_share", "waiting", "open_websockets"


def wanted_replicas(now: int, least: int, most: int, load: Load, rules: Rules) -> int:
    """Return how many replicas there are to be, of `now`.

    load: Shares of the busiest replica, questions that wait for any.

    Up by half, at least by one, so that a rush is met in a few steps; down by one, since what is
    taken away too soon is missed at once.
    """
    direction = judge(load, rules).direction
    step = {"up": math.ceil(now / 2), "down": -1, "stay": 0}[direction]
    wanted = now + step
    return max(least, min(most, max(wanted, 1)))


def load_of(metrics: Mapping[str, Mapping[Any, float]], ongoing: float, at_work_max: float) -> Load:
    """The load that replicas tell of.

    ongoing: Requests in all replicas, worked on or waiting, as Ray Serve counts them.
    at_work_max: How many of these can be worked on.
    """
    told = sum(_values(metrics, WAITING))
    # A websocket is a request that goes on and waits for nothing.
    ongoing -= sum(_values(metrics, OPEN))
    return Load(
        max(_values(metrics, CPU), default=0.0),
        max(_values(metrics, MEMORY), default=0.0),
        max(told, ongoing - at_work_max, 0.0),
    )


def _values(metrics: Mapping[str, Mapping[Any, float]], name: str) -> Iterable[float]:
    return list((metrics.get(name) or {}).values())


class ScalingPolicy:
    """What Ray Serve calls, in its controller."""

    def __init__(self, statements: int, **rules: float) -> None:
        """statements: Questions that one replica works on at once."""
        self._statements = statements
        self._rules = Rules(**rules)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        now = context.target_num_replicas
        at_work = self._statements * max(context.current_num_replicas, 1)
        load = load_of(context.aggregated_metrics or {}, context.total_num_requests, at_work)
        wanted = wanted_replicas(
            now,
            context.capacity_adjusted_min_replicas,
            context.capacity_adjusted_max_replicas,
            load,
            self._rules,
        )
        return wanted, {}
