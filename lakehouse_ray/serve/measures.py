"""What one process of the service says of itself to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
        for name, doc, read in (
            ("lakehouse_questions_in_flight", "Worked on or waiting.",
             lambda: service.workers.in_flight + service.sql_workers.in_flight),
            ("lakehouse_answers_remembered_bytes", "Memory of answers.",
             lambda: service.memory.size),
            ("lakehouse_answers_remembered_hits", "Questions answered from memory.",
             lambda: service.memory.hits),
            ("lakehouse_answers_remembered_misses", "Questions that had to be worked on.",
             lambda: service.memory.misses),
        ):  # fmt: skip
            Gauge(name, doc, registry=self._registry).set_function(read)

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
             lambda: hub.watchers.watching),
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
