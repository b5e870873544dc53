"""What a process counts, told to Ray's exporter, which runs on each node of a cluster.

Ray puts `ray_` before the names and knows the process by `WorkerId`. It shows a counter on after the
end of its process: what was counted is never taken back. A gauge is forgotten two intervals of reporting
after it was last set (2.60), so each is set again and again as long as its process lives. A sum of a
histogram is estimated from its buckets.
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

# An interval is 10 s, unless `RAY_metrics_report_interval_ms` says otherwise.
_AGAIN_S = 2.0


class RayMeter:
    """A `telemetry.meter.Meter` of a process that is connected to Ray."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}
        self._gauges: dict[tuple[MetricShape, tuple[str, ...]], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="gauges", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Set no gauge again: Ray is about to end."""
        self._ended.set()
        self._thread.join()

    def add(self, shape: MetricShape, amount: float, labels: tuple[str, ...]) -> None:
        self._of(shape).inc(float(amount), _tags(shape, labels))

    def set(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        self._gauges[shape, labels] = value
        self._of(shape).set(float(value), _tags(shape, labels))

    def observe(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        self._of(shape).observe(float(value), _tags(shape, labels))

    def _repeat(self) -> None:
        while not self._ended.wait(_AGAIN_S):
            for shape, labels in list(self._gauges):
                value = self._gauges[shape, labels]
                self._of(shape).set(float(value), _tags(shape, labels))

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
        meter.close()
