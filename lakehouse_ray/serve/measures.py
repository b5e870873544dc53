"""What one process of the service says of itself to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lakehouse_ray.serve.cache.answers import Answers
from lakehouse_ray.serve.cache.level import Counts
from lakehouse_ray.serve.service import Service
from lakehouse_ray.serve.streams.hub import Hub

# Of the standard, and our own.
_CODES = (1000, 1001, 1005, 1006, 1008, 1009, 1011, 1012, 4008, 4010)
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Measures:
    """Each process counts for itself; what asks several of them tells them by `instance`."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lakehouse_requests", "Requests that ended.", ["route", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "lakehouse_request_seconds", "From the request to the end of its answer.", ["route"],
            buckets=_BUCKETS_S, registry=self._registry,
        )  # fmt: skip
        Gauge(
            "lakehouse_questions_in_flight", "Worked on or waiting.", registry=self._registry
        ).set_function(lambda: service.workers.in_flight + service.sql_workers.in_flight)
        self._registry.register(_Remembered(service.answers))

        self._events = Counter(
            "lakehouse_stream_events", "Events sent to websockets.", ["stream"],
            registry=self._registry,
        )  # fmt: skip
        self._closed = Counter(
            "lakehouse_stream_connections_closed", "Websockets that ended, by code.", ["code"],
            registry=self._registry,
        )  # fmt: skip

    def watch(self, hub: Hub) -> None:
        """Also tell of the open websockets of a hub."""
        for name, doc, read in (
            ("lakehouse_stream_connections", "Open websockets.", lambda: hub.connections),
            ("lakehouse_stream_tables_watched", "Tables looked at for commits.",
             lambda: hub.courses.watching),
        ):  # fmt: skip
            Gauge(name, doc, registry=self._registry).set_function(read)

    def event(self, kind: str) -> None:
        self._events.labels(kind).inc()

    def closed(self, code: int) -> None:
        # A client may close with any number; only known ones become labels.
        self._closed.labels(str(code) if code in _CODES else "other").inc()

    def __call__(self, route: str, method: str, status: int, seconds: float) -> None:
        # A method may be any word; only known ones become labels.
        spelled = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self._requests.labels(route, spelled, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


_COUNTED = (
    ("hits", "Questions answered from this level."),
    ("misses", "Questions whose answer this level did not have."),
    ("skipped", "Times this level was not asked, being down or busy."),
    ("errors", "Times this level failed or was too slow."),
    ("damaged", "Values of this level that were no answers; they are misses too."),
    ("read_bytes", "Bytes of answers read from this level."),
    ("written_bytes", "Bytes of answers written to this level."),
)


class _Remembered(Collector):
    """Remembered answers, by level: memory, redis, store."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def collect(self) -> Iterator[Metric]:
        answers = self._answers
        levels: list[tuple[str, Counts]] = [("memory", answers.memory.counts)]
        levels += [(level.name, level.counts) for level in answers.levels]
        for field, doc in _COUNTED:
            family = CounterMetricFamily(
                f"lakehouse_answers_remembered_{field}", doc, labels=["level"]
            )
            for name, counts in levels:
                family.add_metric([name], getattr(counts, field))
            yield family
        up = GaugeMetricFamily(
            "lakehouse_answers_remembered_up",
            "Whether a level answered when it was last asked.",
            labels=["level"],
        )
        for level in answers.levels:
            up.add_metric([level.name], float(level.up))
        yield up
        yield GaugeMetricFamily(
            "lakehouse_answers_remembered_bytes", "Memory of answers.", answers.memory.size
        )
        yield CounterMetricFamily(
            "lakehouse_answers_shared",
            "Questions answered by the work of an equal one at the same time.",
            answers.flights.joined,
        )
        yield CounterMetricFamily(
            "lakehouse_answers_unkept",
            "Answers kept in memory alone, as too many waited to be written.",
            answers.unkept,
        )
