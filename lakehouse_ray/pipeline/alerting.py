"""The end of a run: who is told of its alerts, and what Prometheus is told.

    gold.alerts not in gold.alert_deliveries -> one document -> webhook -> gold.alert_deliveries

At least once: what was raised and not taken, or taken by a run that was killed before it could say
so, is sent by the next run. Nothing here fails the run, whose work is done and committed: what went
wrong is a warning in its report, and a metric.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

import polars as pl
import structlog

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.model.alerts import ALERT_DELIVERIES
from lakehouse_ray.pipeline.alert_document import AlertDocument, make_document, sign
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.metrics_export import publish
from lakehouse_ray.query.alerts import waiting
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import log_request
from lakehouse_ray.storage.partitions import split_rows

log = structlog.get_logger()

# What one document may tell of: some 25 MB while it is made. What is beyond comes with the next run.
ALERTS_MAX = 50_000


def tell(writer: Writer, report: AssessmentReport) -> None:
    """Send alerts that nobody has been told of, and publish metrics, as far as settings say so."""
    if writer.settings.alerts.webhook_url.get_secret_value():
        _warned(report, "alerts could not be sent", lambda: deliver(writer, report))
    telemetry = writer.settings.telemetry
    if telemetry.textfile or telemetry.pushgateway_url:
        _warned(report, "metrics could not be published", lambda: publish(writer, report))


def _warned(report: AssessmentReport, what: str, work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - what was assessed stays: reported, not raised
        # The words of others' errors may hold an address with a secret.
        detail = str(error) if isinstance(error, LakehouseError) else type(error).__name__
        report.warnings.append(f"{what}: {detail}")
        log.warning(what, error=detail)


def deliver(writer: Writer, report: AssessmentReport) -> None:
    """Send what waits in one document, and keep that it was taken.

    Raises LakehouseError where it was not; the next run sends it.
    """
    found, number = waiting(Reader(writer.settings).lake, ALERTS_MAX)
    report.alerts_waiting = number
    if found.is_empty():
        return
    document = make_document(found, writer.settings.telemetry.lake, report.run_id)
    attempts = asyncio.run(send(writer, document))
    _remember(writer, report.run_id, document, attempts)
    report.alerts_sent = found.height
    report.alerts_waiting = number - found.height


async def send(writer: Writer, document: AlertDocument) -> int:
    """Have the webhook take a document; returns the attempts. Raises LakehouseError where it does not."""
    alerts = writer.settings.alerts
    url = alerts.webhook_url.get_secret_value()
    secret, token = alerts.webhook_secret.get_secret_value(), alerts.webhook_token
    common = {
        "Content-Type": "application/json",
        "webhook-id": document.id,
        "Idempotency-Key": document.id,
    }
    if token.get_secret_value():
        common["Authorization"] = f"Bearer {token.get_secret_value()}"

    def headers() -> dict[str, str]:
        now_s = writer.clock.now_us() // 1_000_000
        signature = sign(secret, document.id, now_s, document.body) if secret else ""
        return {
            **common,
            "webhook-timestamp": str(now_s),
            **({"webhook-signature": signature} if signature else {}),
        }

    client = writer.outbound_client()
    try:
        called = f"the webhook at {urlsplit(url).hostname}"
        return await client.send("POST", url, document.body, headers, called=called)
    finally:
        await client.close()


def _remember(writer: Writer, run_id: str, document: AlertDocument, attempts: int) -> None:
    now = pl.lit(writer.clock.now_us(), dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
    rows = document.alerts.with_columns(
        document_id=pl.lit(document.id),
        attempts=pl.lit(attempts),
        run_id=pl.lit(run_id),
        delivered_at=now,
    ).select(pl.col(n).cast(kind) for n, kind in frame_schema(ALERT_DELIVERIES).items())
    requests = [
        log_request(ALERT_DELIVERIES, writer.store, part, partition, uuid.uuid4().hex[:16])
        for partition, part in split_rows(ALERT_DELIVERIES, rows)
    ]
    # One commit, so here: an actor of its own would take longer to start.
    with open_committers(writer, (ALERT_DELIVERIES,), run_id, local=True) as committers:
        committers.commit(ALERT_DELIVERIES, requests)
