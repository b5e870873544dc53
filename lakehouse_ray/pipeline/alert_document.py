"""What the webhook's receiver is sent: its fields, its name, its signature. docs/alerts.md.

The names are those of Prometheus Alertmanager's webhook (version 4), so that what reads that reads
this; `text` and `content` are what chat services show; the rest is ours, in `lakehouse`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import polars as pl

from lakehouse_ray.model.alerts import ALERT_KEY, RULES

SCHEMA = "lakehouse.alerts/2"
LISTED_MAX = 100
# Discord takes 2,000 characters; a line has some 100.
_LINES_MAX = 15
_CONTENT_CHARS_MAX = 2_000
_REASONS_CHARS_MAX = 1_000
_SECRET_PREFIX = "whsec_"
# What chat services read as markup or as a call to somebody.
_MARKUP = re.compile(r"[\x00-\x1f\x7f<>&@`*~|\\]")


@dataclass(frozen=True)
class AlertDocument:
    """id: The same for the same alerts, whoever sends them and when.

    alerts: What it tells of, with a column `listed`: else only in its totals.
    """

    id: str
    body: bytes
    alerts: pl.DataFrame


def make_document(alerts: pl.DataFrame, lake: str, run_id: str) -> AlertDocument:
    """One document about all of `alerts` (rows of `gold.alerts`, at least one), the worst listed.

    Some 1 kB per listed alert, `LISTED_MAX` of them.
    """
    worst = ["score", "day", *(name for name in ALERT_KEY if name != "day")]
    ordered = alerts.sort(worst, descending=[n == "day" for n in worst]).with_columns(
        listed=pl.int_range(pl.len()) < LISTED_MAX
    )
    shown = [_alert(row, lake) for row in ordered.head(LISTED_MAX).iter_rows(named=True)]
    prints = sorted(
        f"{fingerprint(row)} {row['last_day']:%Y-%m-%d}"
        for row in alerts.select(ALERT_KEY).iter_rows(named=True)
    )
    id_ = hashlib.sha256("\n".join([SCHEMA, lake, *prints]).encode()).hexdigest()[:32]
    text = _text(ordered, lake)
    document = {
        "version": "4",
        "groupKey": f'{{}}:{{lake="{_plain(lake)}"}}',
        "status": "firing",
        "receiver": "lakehouse",
        "externalURL": "",
        "groupLabels": {"lake": lake},
        "commonLabels": {"alertname": "LakehouseQuality", "lake": lake},
        "commonAnnotations": {},
        "truncatedAlerts": max(0, ordered.height - LISTED_MAX),
        "alerts": shown,
        "text": text,
        "content": text[:_CONTENT_CHARS_MAX],
        "lakehouse": {
            "schema": SCHEMA,
            "id": id_,
            "run_id": run_id,
            "total": ordered.height,
            "by_rule": _by_rule(ordered),
            "by_series": _by_series(ordered),
        },
    }
    return AlertDocument(id_, orjson.dumps(document), ordered)


def fingerprint(alert: Mapping[str, Any]) -> str:
    """Names an alert by what it is (`ALERT_KEY`), so that a receiver can tell what it has had.

    Not by its last day: what has gone on is the same alert, told again.
    """
    causes = ",".join(sorted((alert["codes"] or "").split(",")))
    parts = [
        value.isoformat() if isinstance(value, datetime) else value or ""
        for value in (alert[name] for name in ALERT_KEY if name not in ("last_day", "codes"))
    ] + [causes]
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]


def sign(secret: str, id_: str, timestamp_s: int, body: bytes) -> str:
    """Return `webhook-signature` of the Standard Webhooks specification: `v1,` and a HMAC-SHA256.

    secret: `whsec_` and base64, or any other text, which is taken as it is.
    """
    signed = f"{id_}.{timestamp_s}.".encode() + body
    digest = hmac.digest(_key(secret), signed, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    if secret.startswith(_SECRET_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _alert(row: Mapping[str, Any], lake: str) -> dict[str, Any]:
    names = ("rule", "market", "dataset", "interval", "symbol")
    labels = {name: row[name] for name in names if row[name]}
    code = (row["codes"] or "").partition(",")[0]
    return {
        "status": "firing",
        "labels": {
            "alertname": "LakehouseQuality",
            "lake": lake,
            **labels,
            "day": f"{row['day']:%Y-%m-%d}",
            **({"code": code} if code else {}),
        },
        "annotations": {
            "summary": _line(row),
            "description": (row["reasons"] or "")[:_REASONS_CHARS_MAX],
            "codes": row["codes"] or "",
            "score": f"{row['score']:.4f}",
            "value": f"{row['value']:g}",
            "threshold": f"{row['threshold']:g}",
            "last_day": f"{row['last_day']:%Y-%m-%d}",
            "days": f"{row['days']}",
            "worst_day": f"{row['worst_day']:%Y-%m-%d}",
        },
        "startsAt": row["raised_at"].isoformat().replace("+00:00", "Z"),
        # Alertmanager's spelling of "not ended".
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": fingerprint(row),
    }


def _line(row: Mapping[str, Any]) -> str:
    names = ("market", "dataset", "interval", "symbol")
    series = " ".join(_plain(row[name]) for name in names if row[name])
    code = (row["codes"] or "").replace(",", ", ").replace("_", " ")
    value, limit = row["value"], row["threshold"]
    said = {
        "score": f"score {value:.4f}, under {limit:g}",
        "own_loss": f"{value:,.0f} rows lost here, {limit:,.0f} allowed",
        "differing": f"{value:.1%} of the compared rows differ, {limit:.1%} allowed",
        "anomalies": f"{value:,.0f} anomalies, {limit:,.0f} allowed",
    }
    told = said.get(row["rule"], f"{row['rule']}: {value:g}, threshold {limit:g}")
    days = f"{row['day']:%Y-%m-%d}"
    if row["days"] > 1:
        days += f" to {row['last_day']:%Y-%m-%d} ({row['days']:,} days)"
        told = f"at worst {told}"
    return f"{series} {days}: {told}" + (f" ({code.lower()})" if code else "")


def _text(ordered: pl.DataFrame, lake: str) -> str:
    rules = ", ".join(f"{n:,} {rule.replace('_', ' ')}" for rule, n in _by_rule(ordered).items())
    noun = "alert" if ordered.height == 1 else "alerts"
    lines = [f"Lakehouse {_plain(lake)}: {ordered.height:,} new {noun} ({rules})"]
    lines += [f"- {_line(row)}" for row in ordered.head(_LINES_MAX).iter_rows(named=True)]
    if ordered.height > _LINES_MAX:
        lines.append(f"… and {ordered.height - _LINES_MAX:,} more: SELECT FROM gold.alerts")
    return "\n".join(lines)


def _by_rule(alerts: pl.DataFrame) -> dict[str, int]:
    counted = dict(alerts.group_by("rule").len().iter_rows())
    order: list[str] = [rule for rule in RULES if rule in counted]
    return {rule: int(counted.pop(rule)) for rule in order} | counted


def _by_series(alerts: pl.DataFrame) -> list[dict[str, Any]]:
    """The series with the most alerts; as many as alerts may be listed."""
    series = ["market", "dataset", "interval", "symbol"]
    counted = alerts.group_by(series).agg(
        alerts=pl.len(), first_day=pl.col("day").min(), last_day=pl.col("last_day").max()
    )
    most = counted.sort(["alerts", *series], descending=[True, False, False, False, False])
    return (
        most.head(LISTED_MAX)
        .with_columns(pl.col("first_day", "last_day").dt.strftime("%Y-%m-%d"))
        .to_dicts()
    )


def _plain(text: str) -> str:
    return _MARKUP.sub("", text)
