"""What a process counts, told to Ray's exporter, which runs on each node of a cluster.

Ray puts `ray_` before the names and knows the process by `WorkerId`. It shows a gauge as long as its
process lives, and a counter on after its end: what was counted is never taken back. A sum of a
histogram is estimated from its buckets (2.60).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.util import metrics

from lakehouse_ray.telemetry.meter import METERS
from lakehouse_ray.telemetry.metrics import MetricShape


class RayMeter:
    """A `telemetry.meter.Meter` of a process that is connected to Ray."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}

    def add(self, shape: MetricShape, amount: float, labels: tuple[str, ...]) -> None:
        self._of(shape).inc(float(amount), _tags(shape, labels))

    def set(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        self._of(shape).set(float(value), _tags(shape, labels))

    def observe(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        self._of(shape).observe(float(value), _tags(shape, labels))

    def _of(self, shape: MetricShape) -> Any:
        with self._lock:
            if shape.name not in self._made:
                self._made[shape.name] = _make(shape)
            return self._made[shape.name]


def _make(shape: MetricShape) -> Any:
    if shape.kind == "counter":
        return metrics.Counter(shape.name, shape.doc, shape.labels)
    if shape.kind == "gauge":
        return metrics.Gauge(shape.name, shape.doc, shape.labels)
    return metrics.Histogram(shape.name, shape.doc, list(shape.buckets), shape.labels)


def _tags(shape: MetricShape, labels: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(shape.labels, labels, strict=True))


@functools.cache
def _of_worker() -> RayMeter:
    meter = RayMeter()
    METERS.listen(meter)
    return meter


def measure_on_ray() -> None:
    """Tell Ray what this worker counts, as long as it lives. Safe to repeat."""
    _of_worker()


@contextmanager
def measured_on_ray() -> Iterator[None]:
    """Tell Ray what this driver counts, as long as it is connected."""
    meter = RayMeter()
    METERS.listen(meter)
    try:
        yield
    finally:
        METERS.leave(meter)
