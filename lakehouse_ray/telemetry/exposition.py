"""Prometheus metrics of a command that ends before anybody could ask it.

A process that lives for a minute counts from nothing each time. So counters are what the lake's
tables have counted, and a family is a table of values that is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lakehouse_ray.telemetry.metrics import MetricShape, Samples

# A label with a value per symbol would make series without end: no label is.
SAMPLES_MAX = 10_000


class _Families(Collector):
    def __init__(self, families: list[tuple[MetricShape, Samples]], common: Mapping[str, str]):
        self._families = families
        self._common = common

    def collect(self) -> Iterator[Metric]:
        for shape, samples in self._families:
            make = CounterMetricFamily if shape.kind == "counter" else GaugeMetricFamily
            family = make(shape.name, shape.doc, labels=[*self._common, *shape.labels])
            for values, number in samples.items():
                family.add_metric([*self._common.values(), *values], number)
            yield family


def registry_of(
    families: Iterable[tuple[MetricShape, Samples]], common: Mapping[str, str]
) -> CollectorRegistry:
    """Return what the exporters take.

    common: Labels of every sample.

    Raises ValueError for more than `SAMPLES_MAX` samples: something grows that must not.
    """
    families = list(families)
    number = sum(len(samples) for _, samples in families)
    if number > SAMPLES_MAX:
        raise ValueError(f"{number:,} samples of metrics; {SAMPLES_MAX:,} are the most")
    registry = CollectorRegistry()
    registry.register(_Families(families, common))
    return registry


def write_textfile(path: Path, registry: CollectorRegistry) -> None:
    """Write the file in one step: who reads it sees the one before, or this one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)


def text_of(registry: CollectorRegistry) -> str:
    """The same as text, in Prometheus' format 0.0.4."""
    return generate_latest(registry).decode()
