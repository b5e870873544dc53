"""Metrics of a run that ends: to the node exporter's folder, to a Pushgateway, or to both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import push_to_gateway

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.query.quality_metrics import quality_metrics
from lakehouse_ray.telemetry.exposition import registry_of, write_textfile
from lakehouse_ray.telemetry.metrics import (
    ALERTS_WAITING,
    ASSESSMENT_ENDED_AT,
    ASSESSMENT_RUN,
    ASSESSMENT_SECONDS,
    ASSESSMENT_SERIES,
    QUALITY_STATE,
    QUALITY_THRESHOLD,
    MetricShape,
    Samples,
)

# Pushing again replaces what was pushed under these and the lake's name.
JOB = "lakehouse"

SHAPES = (*QUALITY_STATE, *ASSESSMENT_RUN)


def publish(writer: Writer, report: AssessmentReport) -> None:
    """Tell Prometheus what the tables count and how the run went.

    Raises LakehouseError or OSError where that cannot be written or sent.
    """
    telemetry = writer.settings.telemetry
    threshold = writer.thresholds.score
    lake = Reader(writer.settings).lake
    families = [*quality_metrics(lake, threshold), *_of_run(writer, report, threshold)]
    registry = registry_of(families, {"lake": telemetry.lake})
    if telemetry.textfile:
        write_textfile(Path(telemetry.textfile), registry)
    if telemetry.pushgateway_url:
        push_to_gateway(
            telemetry.pushgateway_url,
            JOB,
            registry,
            grouping_key={"lake": telemetry.lake},
            handler=lambda **request: lambda: _push(writer, **request),
        )


def _of_run(
    writer: Writer, report: AssessmentReport, threshold: float
) -> Iterator[tuple[MetricShape, Samples]]:
    states = ("assessed", "current", "failed")
    yield ASSESSMENT_SERIES, {(state,): float(getattr(report, state)) for state in states}
    yield ASSESSMENT_ENDED_AT, {(): writer.clock.now_us() / 1e6}
    yield ASSESSMENT_SECONDS, {(): report.seconds}
    if writer.settings.alerts.webhook_url.get_secret_value():
        yield ALERTS_WAITING, {(): float(report.alerts_waiting)}
    yield QUALITY_THRESHOLD, {(): threshold}


def _push(
    writer: Writer,
    *,
    url: str,
    method: str,
    timeout: float | None,
    headers: list[tuple[str, str]],
    data: bytes,
) -> None:
    """What the library would send by itself: with redirects, the environment's proxies, once."""
    del timeout
    called = f"the Pushgateway at {urlsplit(url).hostname}"
    asyncio.run(_send(writer, method, url, data, lambda: dict(headers), called))


async def _send(
    writer: Writer,
    method: str,
    url: str,
    data: bytes,
    headers: Callable[[], dict[str, str]],
    called: str,
) -> None:
    client = writer.outbound_client()
    try:
        await client.send(method, url, data, headers, called=called)
    finally:
        await client.close()
