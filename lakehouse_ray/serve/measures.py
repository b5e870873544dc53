"""What one process of the service says of itself to Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lakehouse_ray.serve.cache.level import Counts
from lakehouse_ray.serve.service import Service
from lakehouse_ray.serve.streams.hub import Hub
from lakehouse_ray.telemetry.meter import Meter, Meters, ProcessMeter
from lakehouse_ray.telemetry.metrics import (
    ANSWERS_BYTES,
    ANSWERS_COUNTED,
    ANSWERS_SHARED,
    ANSWERS_UNKEPT,
    ANSWERS_UP,
    QUESTIONS_IN_FLIGHT,
    QUESTIONS_WAITING,
    REQUEST_SECONDS,
    REQUESTS,
    SOCKET_EVENTS,
    SOCKETS,
    SOCKETS_CLOSED,
    TABLES_WATCHED,
    MetricShape,
    Samples,
)

# Of the standard, and our own.
_CODES = (1000, 1001, 1005, 1006, 1008, 1009, 1011, 1012, 4008, 4010)


class Measures:
    """Each process counts for itself. Where several answer behind one address, `tell` has somebody
    tell them apart."""

    def __init__(self, service: Service) -> None:
        self._own = ProcessMeter()
        self._meters = Meters(self._own)
        self._states: list[_State] = [
            _State(QUESTIONS_IN_FLIGHT, lambda: {(): _in_flight(service)}),
            _State(QUESTIONS_WAITING, lambda: {(): float(service.waiting)}),
            *_remembered(service),
        ]
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}
        self._listener: Meter | None = None
        self._own.registry.register(_Asked(self._states))

    def watch(self, hub: Hub) -> None:
        """Also tell of the open websockets of a hub."""
        self._states.append(_State(SOCKETS, lambda: {(): float(hub.connections)}))
        self._states.append(_State(TABLES_WATCHED, lambda: {(): float(hub.courses.watching)}))

    def listen(self, meter: Meter) -> None:
        """Have somebody else told the same: what happens at once, the rest at each `tell`."""
        self._listener = meter
        self._meters.listen(meter)

    def tell(self) -> None:
        """Tell who listens how it is now."""
        if self._listener is None:
            return
        for state in self._states:
            for labels, value in state.read().items():
                if state.shape.kind == "gauge":
                    self._listener.set(state.shape, value, labels)
                    continue
                key = state.shape.name, labels
                if (grown := value - self._told.get(key, 0.0)) > 0:
                    self._listener.add(state.shape, grown, labels)
                    self._told[key] = value

    def event(self, kind: str) -> None:
        self._meters.add(SOCKET_EVENTS, 1, (kind,))

    def closed(self, code: int) -> None:
        # A client may close with any number; only known ones become labels.
        self._meters.add(SOCKETS_CLOSED, 1, (str(code) if code in _CODES else "other",))

    def __call__(self, route: str, method: str, status: int, seconds: float) -> None:
        # A method may be any word; only known ones become labels.
        spelled = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self._meters.add(REQUESTS, 1, (route, spelled, str(status)))
        self._meters.observe(REQUEST_SECONDS, seconds, (route,))

    def text(self) -> bytes:
        return generate_latest(self._own.registry)


@dataclass(frozen=True)
class _State:
    """A counter or gauge that something else keeps."""

    shape: MetricShape
    read: Callable[[], Samples]


class _Asked(Collector):
    """Reads states when it is asked."""

    def __init__(self, states: list[_State]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        for state in self._states:
            shape = state.shape
            kind = CounterMetricFamily if shape.kind == "counter" else GaugeMetricFamily
            family = kind(shape.name, shape.doc, labels=shape.labels)
            for labels, value in state.read().items():
                family.add_metric(labels, value)
            yield family


def _in_flight(service: Service) -> float:
    return float(service.workers.in_flight + service.sql_workers.in_flight)


def _counted(levels: Sequence[tuple[str, Counts]], field: str) -> Samples:
    return {(name,): float(getattr(counts, field)) for name, counts in levels}


def _remembered(service: Service) -> Iterator[_State]:
    """Remembered answers, by level: memory, redis, store."""
    answers = service.answers
    levels: list[tuple[str, Counts]] = [("memory", answers.memory.counts)]
    levels += [(level.name, level.counts) for level in answers.levels]
    for field, shape in ANSWERS_COUNTED.items():
        yield _State(shape, partial(_counted, levels, field))
    yield _State(ANSWERS_UP, lambda: {(level.name,): float(level.up) for level in answers.levels})
    yield _State(ANSWERS_BYTES, lambda: {(): float(answers.memory.size)})
    yield _State(ANSWERS_SHARED, lambda: {(): float(answers.flights.joined)})
    yield _State(ANSWERS_UNKEPT, lambda: {(): float(answers.unkept)})
