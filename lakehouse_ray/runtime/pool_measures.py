"""What a pool says of itself to Prometheus, through Ray's own exporter.

Ray puts `ray_` before each name and shows them at the metrics port of the driver's node.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from lakehouse_ray.telemetry.metrics import POOL_DECISIONS, POOL_UNITS_WAITING, POOL_WORKERS


class PoolMeasures:
    """Of one pool. workload: What it does, a word."""

    def __init__(self, workload: str) -> None:
        self._workload = workload
        self._workers = Gauge(POOL_WORKERS.name, POOL_WORKERS.doc, POOL_WORKERS.labels)
        self._waiting = Gauge(
            POOL_UNITS_WAITING.name, POOL_UNITS_WAITING.doc, POOL_UNITS_WAITING.labels
        )
        self._decisions = Counter(POOL_DECISIONS.exposed, POOL_DECISIONS.doc, POOL_DECISIONS.labels)

    def size(self, up: int, pending: int, waiting: float) -> None:
        for state, count in (("up", up), ("pending", pending)):
            self._workers.set(count, {"workload": self._workload, "state": state})
        self._waiting.set(waiting, {"workload": self._workload})

    def decided(self, action: str, rule: str) -> None:
        """action: grown, shrunk or cancelled. rule: Of `runtime.scaling`, or surplus."""
        tags = {"workload": self._workload, "action": action, "rule": rule}
        self._decisions.inc(1, tags)
