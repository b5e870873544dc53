"""Tells the webhook of runs that went wrong, and of data sets of which nothing new is published.

At least once: what is in the history and not in `bronze.schedule_alerts` is sent by whoever keeps to
the schedules next.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
import polars as pl

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.model.schedules import SCHEDULE_ALERTS, UNWELL, Schedule
from lakehouse_ray.model.timespan import HOUR_US, format_time, to_us
from lakehouse_ray.model.workflows import IngestWorkflow
from lakehouse_ray.pipeline.alert_document import AlertDocument
from lakehouse_ray.pipeline.alerting import send
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.storage.ledger import log_request, plain_rows
from lakehouse_ray.storage.partitions import split_rows

SCHEMA = "lakehouse.schedule-alerts/1"
# The rest comes with the next look.
_ALERTS_MAX = 100
_EVERY_S = 30.0
_STATES = ", ".join(f"'{state}'" for state in UNWELL)
_UNWELL = f"""
SELECT run_id, schedule, state, error, ended_at FROM bronze.runs
ANTI JOIN {SCHEDULE_ALERTS.name} AS told ON told.fingerprint = 'run:' || run_id
WHERE state IN ({_STATES}) ORDER BY ended_at, run_id LIMIT {_ALERTS_MAX}
"""
_LATEST = """
SELECT market, dataset, max(first_seen) AS last, bool_and(freq = 'monthly') AS monthly
FROM bronze.objects WHERE freq IN ('daily', 'monthly') GROUP BY market, dataset
"""


@dataclass(frozen=True)
class ScheduleAlert:
    fingerprint: str
    rule: str
    summary: str
    since_us: int
    labels: Mapping[str, str]


class ScheduleAlerts:
    """Looks now and then, in a thread of its own, since a webhook may take a minute to answer."""

    def __init__(
        self,
        writer: Writer,
        schedules: Mapping[str, Schedule],
        runner: str,
        tell: Callable[[str], None],
    ) -> None:
        self._writer = writer
        self._schedules = schedules
        self._runner = runner
        self._tell = tell
        self._next_s = 0.0
        self._thread: threading.Thread | None = None
        self._told: set[str] = set()

    def look(self) -> None:
        """Begin to look for alerts and to send them, unless that was done just now."""
        now_s = self._writer.clock.monotonic_s()
        if now_s < self._next_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._next_s = now_s + _EVERY_S
        self._thread = threading.Thread(target=self._deliver, name="alerts", daemon=True)
        self._thread.start()

    def _deliver(self) -> None:
        try:
            self.deliver()
        except LakehouseError as error:
            self._tell(f"alerts could not be sent: {error}")

    def deliver(self) -> int:
        """Send what waits in one document. Returns how many alerts that were.

        Raises LakehouseError where it was not taken.
        """
        found = self._waiting()
        for alert in found:
            if alert.fingerprint not in self._told:
                self._told.add(alert.fingerprint)
                self._tell(f"alert: {alert.summary}")
        if not found or not self._writer.settings.alerts.webhook_url.get_secret_value():
            return 0
        lake = self._writer.settings.telemetry.lake
        document = make_schedule_document(found, lake)
        attempts = asyncio.run(send(self._writer, document))
        now_us = self._writer.clock.now_us()
        rows = plain_rows(
            SCHEDULE_ALERTS,
            [
                {
                    "fingerprint": alert.fingerprint, "rule": alert.rule,
                    "summary": alert.summary, "document_id": document.id,
                    "attempts": attempts, "runner": self._runner, "delivered_at": now_us,
                }
                for alert in found
            ],
        )  # fmt: skip
        requests = [
            log_request(SCHEDULE_ALERTS, self._writer.store, part, key, uuid.uuid4().hex)
            for key, part in split_rows(SCHEDULE_ALERTS, rows)
        ]
        with open_committers(
            self._writer, (SCHEDULE_ALERTS,), self._runner, local=True
        ) as committers:
            committers.commit(SCHEDULE_ALERTS, requests)
        return len(found)

    def _waiting(self) -> list[ScheduleAlert]:
        lake = Reader(self._writer.settings).lake
        runs = [
            ScheduleAlert(
                f"run:{row['run_id']}",
                "run",
                f"{row['run_id']} {row['state']}: {row['error'] or 'no reason was told'}"[:500],
                to_us(row["ended_at"]),
                {"schedule": row["schedule"], "state": row["state"]},
            )
            for row in lake.sql(_UNWELL).pl().to_dicts()
        ]
        told = set(
            lake.sql(f"SELECT fingerprint FROM {SCHEDULE_ALERTS.name} WHERE rule = 'stalled'")
            .pl()["fingerprint"]
            .to_list()
        )
        stalled = self._stalled(lake.sql(_LATEST).pl())
        return [*runs, *(one for one in stalled if one.fingerprint not in told)]

    def _stalled(self, latest: pl.DataFrame) -> list[ScheduleAlert]:
        """Of data sets that a schedule ingests, those that have brought nothing new for too long."""
        how, now_us = self._writer.settings.scheduler, self._writer.clock.now_us()
        asked = {
            (one.workflow.market, one.workflow.dataset)
            for one in self._schedules.values()
            if isinstance(one.workflow, IngestWorkflow)
        }
        found = []
        for market, dataset, last, monthly in latest.iter_rows():
            hours = how.monthly_stalled_h if monthly else how.daily_stalled_h
            last_us = to_us(last)
            if (market, dataset) not in asked or not hours or now_us - last_us <= hours * HOUR_US:
                continue
            since = format_time(last_us)
            found.append(
                ScheduleAlert(
                    f"stalled:{market}/{dataset}/{since}",
                    "stalled",
                    f"{market} {dataset}: no new file since {since}, {hours:g} h allowed",
                    last_us,
                    {"market": market, "dataset": dataset},
                )
            )
        return found


def make_schedule_document(alerts: list[ScheduleAlert], lake: str) -> AlertDocument:
    """One document about alerts, in the shape of those of quality (docs/alerts.md)."""
    prints = "\n".join([SCHEMA, lake, *sorted(alert.fingerprint for alert in alerts)])
    id_ = hashlib.sha256(prints.encode()).hexdigest()[:32]
    text = "\n".join(
        [f"Lakehouse {lake}: {len(alerts)} of schedules", *(f"- {a.summary}" for a in alerts[:15])]
    )
    document = {
        "version": "4",
        "status": "firing",
        "receiver": "lakehouse",
        "groupLabels": {"lake": lake},
        "commonLabels": {"alertname": "LakehouseSchedule", "lake": lake},
        "alerts": [
            {
                "status": "firing",
                "labels": {
                    "alertname": "LakehouseSchedule", "lake": lake, "rule": alert.rule,
                    **alert.labels,
                },
                "annotations": {"summary": alert.summary},
                "startsAt": format_time(alert.since_us),
                "fingerprint": hashlib.sha256(alert.fingerprint.encode()).hexdigest()[:32],
            }
            for alert in alerts
        ],
        "text": text,
        "content": text[:2000],
        "lakehouse": {"schema": SCHEMA, "id": id_, "total": len(alerts)},
    }  # fmt: skip
    return AlertDocument(id_, orjson.dumps(document), pl.DataFrame())
