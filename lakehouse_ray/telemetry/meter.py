"""Counting while the work is done: who measures names a shape, and not who is told.

A process always counts for itself. What else is to know (Ray's exporter) is added by `listen`.
"""

from __future__ import annotations

import threading
from typing import Protocol, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)

from lakehouse_ray.telemetry.metrics import MetricShape

M = TypeVar("M", Counter, Gauge, Histogram)

_HERE = "127.0.0.1"


class Meter(Protocol):
    """Takes measurements. Safe for several threads; raises nothing that would end the work."""

    def add(self, shape: MetricShape, amount: float, labels: tuple[str, ...]) -> None:
        """Of a counter. amount: Not negative."""

    def set(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        """Of a gauge."""

    def observe(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        """Of a histogram."""


class ProcessMeter:
    """Counts in this process, by the Prometheus client; the registry shows it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def add(self, shape: MetricShape, amount: float, labels: tuple[str, ...]) -> None:
        self._of(shape, Counter, labels).inc(amount)

    def set(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        self._of(shape, Gauge, labels).set(value)

    def observe(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        self._of(shape, Histogram, labels).observe(value)

    def text(self) -> bytes:
        """In Prometheus' format 0.0.4."""
        return generate_latest(self.registry)

    def _of(self, shape: MetricShape, kind: type[M], labels: tuple[str, ...]) -> M:
        with self._lock:
            made = self._made.get(shape.name)
            if made is None:
                more = {"buckets": shape.buckets} if shape.buckets else {}
                made = kind(shape.name, shape.doc, shape.labels, registry=self.registry, **more)  # type: ignore[arg-type]
                self._made[shape.name] = made
        assert isinstance(made, kind), f"{shape.name} is a {shape.kind}"
        return made.labels(*labels) if shape.labels else made


class Meters:
    """Tells several meters the same."""

    def __init__(self, *meters: Meter) -> None:
        self._meters: tuple[Meter, ...] = meters

    def listen(self, meter: Meter) -> None:
        self._meters = (*self._meters, meter)

    def leave(self, meter: Meter) -> None:
        self._meters = tuple(one for one in self._meters if one is not meter)

    def add(self, shape: MetricShape, amount: float, labels: tuple[str, ...]) -> None:
        if amount > 0:
            for meter in self._meters:
                meter.add(shape, amount, labels)

    def set(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        for meter in self._meters:
            meter.set(shape, value, labels)

    def observe(self, shape: MetricShape, value: float, labels: tuple[str, ...]) -> None:
        for meter in self._meters:
            meter.observe(shape, value, labels)


# One of a process, as its log is.
PROCESS = ProcessMeter()
METERS = Meters(PROCESS)


def add(shape: MetricShape, amount: float = 1.0, *labels: str) -> None:
    METERS.add(shape, amount, labels)


def set_to(shape: MetricShape, value: float, *labels: str) -> None:
    METERS.set(shape, value, labels)


def observe(shape: MetricShape, value: float, *labels: str) -> None:
    METERS.observe(shape, value, labels)


def show(port: int) -> int:
    """Show what this process counts at a port of this machine, as long as it lives; 0: any.

    Returns the port. Raises OSError where it is taken.
    """
    server, _ = start_http_server(port, _HERE, PROCESS.registry)
    return int(server.server_port)
