"""Alerts of an assessment at a real receiver: taken once, refused, late, lost and made up for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.bars import BarLake, bars
from support.commands import MANY_BYTES, environment
from support.failing import Crashed, FailingCommitter, FailingWriter, crash
from support.forked import completed
from support.receiver import Answer, Receiver, receiver
from support.recorded import publish

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.alerts import ALERT_DELIVERIES
from lakehouse_ray.model.assessment import ALERTS
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, parse_time
from lakehouse_ray.pipeline import alerting
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
from lakehouse_ray.settings import load_settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import index_files
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import log_request
from lakehouse_ray.storage.partitions import split_rows
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

pytestmark = pytest.mark.integration

CANARY = "T0KEN-c4n4ry"
HOOK = f"/services/{CANARY}?key={CANARY}"
KEY = b"0123456789abcdef01234567"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def lake(tmp_path: Path) -> BarLake:
    """Four days of hours of two symbols; AAA has a hole of six hours on the second."""
    lake = BarLake(tmp_path)
    whole = bars("AAA", "2024-05-20", 4, holes=0)
    hole = (pl.col("open_time").dt.day() == 21) & pl.col("open_time").dt.hour().is_between(6, 11)
    lake.put(whole.filter(~hole), bars("BBB", "2024-05-20", 4, holes=0))
    return lake


def writer(
    lake: BarLake, hook: Receiver | None, kind: type[Writer] = Writer, **more: Any
) -> Writer:
    alerts = {
        "webhook_url": hook.url(HOOK) if hook else "",
        "webhook_secret": SECRET,
        "webhook_token": CANARY,
        "webhook_timeout_s": 1.0,
        "webhook_attempts_max": 3,
        "webhook_budget_s": 3.0,
        **more,
    }
    return kind(
        load_settings(
            {"home": lake.home, "compute": {"local_bytes_max": MANY_BYTES}, "alerts": alerts}
        ).resolved()
    )


def run(
    lake: BarLake, hook: Receiver | None, *, again: bool = False, **more: Any
) -> AssessmentReport:
    return assess(writer(lake, hook, **more), AssessmentRequest(again=again))


def ask(lake: BarLake, query: str) -> list[tuple[Any, ...]]:
    with Reader(lake.writer().settings).lake.sql(query) as result:
        return result.pl().rows()


def told(report: AssessmentReport) -> tuple[int, int]:
    return report.alerts_sent, report.alerts_waiting


def test_an_alert_is_sent_once_and_signed(lake: BarLake, hook: Receiver) -> None:
    report = run(lake, hook)
    assert (*told(report), report.warnings) == (1, 0, [])
    (request,) = hook.received
    assert (request.method, request.path) == ("POST", HOOK)
    assert request.headers["Authorization"] == f"Bearer {CANARY}"
    # As a receiver checks it, by the specification alone.
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
    mac = hmac.new(KEY, signed + request.body, hashlib.sha256).digest()
    assert request.headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    assert request.headers["webhook-id"] == request.document["lakehouse"]["id"]
    (alert,) = request.document["alerts"]
    assert (alert["labels"]["symbol"], alert["labels"]["day"]) == ("AAA", "2024-05-21")
    assert "AAA 2024-05-21" in request.document["text"]
    assert told(run(lake, hook)) == told(run(lake, hook, again=True)) == (0, 0)
    assert len(hook.received) == 1
    assert ask(lake, "select symbol, rule, listed, attempts from gold.alert_deliveries") == [
        ("AAA", "score", True, 1)
    ]


def test_a_hole_that_goes_on_is_told_once_and_again_when_it_has_doubled(
    tmp_path: Path, hook: Receiver
) -> None:
    """Every day brings bars of BBB and none of AAA, but for one at the end."""
    lake = BarLake(tmp_path)
    start = datetime(2024, 5, 1, tzinfo=UTC)
    told = []
    for days in range(1, 6):
        end = start + timedelta(days=days)
        ends = bars("AAA", "2024-04-30", 1, holes=0), bars("AAA", f"{end:%Y-%m-%d}", 1, holes=0)
        if days == 1:
            lake.put(*ends, bars("BBB", "2024-04-30", 12, holes=0))
        else:
            rows = pl.concat([*ends, bars("BBB", "2024-04-30", 12, holes=0)])
            lake.rewrite("silver.klines_coarse", lambda _, rows=rows: rows)  # type: ignore[misc]
        report = run(lake, hook)
        told.append(report.alerts_sent)
        assert report.alerts == report.alerts_sent
        # What was told is told again by nothing that is done again.
        assert not report.alerts or run(lake, hook, again=True).alerts == 0
    assert told == [1, 1, 0, 1, 0]
    listed = [alert for request in hook.received for alert in request.document["alerts"]]
    assert [alert["annotations"]["days"] for alert in listed] == ["1", "2", "4"]
    assert {alert["labels"]["day"] for alert in listed} == {"2024-05-01"}
    assert listed[-1]["annotations"]["last_day"] == "2024-05-04"
    # To the receiver it is one alert, in three documents.
    assert len({alert["fingerprint"] for alert in listed}) == 1
    assert len({request.headers["webhook-id"] for request in hook.received}) == 3


def test_alerts_of_single_days_of_before_are_not_told_again_as_one(
    tmp_path: Path, hook: Receiver
) -> None:
    """As earlier versions wrote them: a row per day, without its last day."""
    lake = BarLake(tmp_path)
    lake.put(bars("AAA", "2024-05-01", 1, holes=0), bars("AAA", "2024-05-21", 1, holes=0))
    assert told(run(lake, hook)) == (1, 0)

    def by_day(rows: pl.DataFrame) -> pl.DataFrame:
        days = pl.datetime_ranges("day", "last_day", "1d")
        blank = [pl.lit(None).cast(rows.schema[n]).alias(n) for n in _ADDED if n in rows.columns]
        return rows.with_columns(day=days).explode("day").with_columns(blank)

    for table in (ALERTS, ALERT_DELIVERIES):
        rewrite_log(lake, table, by_day)
    assert ask(lake, "select count(*), sum(days) from gold.alerts") == [(19, 19)]
    report = run(lake, hook, again=True)
    assert (report.alerts, *told(report)) == (0, 0, 0)
    assert len(hook.received) == 1


_ADDED = ("last_day", "days", "worst_day")


def rewrite_log(
    lake: BarLake, table: Table, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    """Write a log anew as `change` makes it."""
    writer = lake.writer()
    files = tuple(entry.path for entry in index_files(table, writer.catalog.find(table.name)))
    changed = change(lake.rows(table.name).cast(dict(frame_schema(table)))).sort(table.sort)
    for key, rows in split_rows(table, changed):
        request = log_request(table, writer.store, rows, key, uuid.uuid4().hex)
        request = CommitRequest(request.id, request.added, files)
        (outcome,) = writer.committer_factory(table, uuid.uuid4().hex)().commit([request])
        assert outcome.committed


def test_without_an_address_nothing_is_sent_and_the_first_run_with_one_makes_up_for_it(
    lake: BarLake, hook: Receiver
) -> None:
    report = run(lake, None)
    assert (report.alerts, told(report)) == (1, (0, 0))
    assert told(run(lake, hook)) == (1, 0)


def test_a_receiver_that_does_not_take_it_is_told_of_and_gets_it_from_the_next_run(
    lake: BarLake,
    hook: Receiver,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    hook.answers = [Answer(500)] * 3
    report = run(lake, hook)
    assert (report.assessed, report.failed) == (2, 0)
    assert told(report) == (0, 1)
    (warning,) = report.warnings
    assert "answers 500 Internal Server Error; gave up after 3 attempts" in warning
    heard = capfd.readouterr()
    assert CANARY not in warning + caplog.text + heard.out + heard.err
    assert CANARY not in json.dumps(report.as_dict(), default=str)
    # The same alerts: the same name, by which a receiver knows what it has had.
    hook.answers = [Answer(503)]
    assert told(run(lake, hook)) == (1, 0)
    assert len({request.headers["webhook-id"] for request in hook.received}) == 1
    assert ask(lake, "select attempts from gold.alert_deliveries") == [(2,)]


def test_a_run_that_ends_between_raising_and_sending_is_made_up_for(
    lake: BarLake, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(alerting, "waiting", lambda *_: crash())
        with pytest.raises(Crashed):
            run(lake, hook)
    assert hook.received == []
    report = run(lake, hook)
    assert (report.assessed, told(report)) == (0, (1, 0))


def test_a_run_that_ends_between_sending_and_noting_it_sends_the_same_again(
    lake: BarLake, hook: Receiver
) -> None:
    dying = writer(lake, hook, FailingWriter)
    around = {"gold.alert_deliveries": lambda c: FailingCommitter(c, 1, before=crash)}
    object.__setattr__(dying, "around", around)
    with pytest.raises(Crashed):
        assess(dying, AssessmentRequest())
    assert told(run(lake, hook)) == (1, 0)
    first, second = hook.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [a["fingerprint"] for a in first.document["alerts"]] == [
        a["fingerprint"] for a in second.document["alerts"]
    ]


def test_more_alerts_than_a_document_tells_of_come_with_the_next_run(
    lake: BarLake, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "ALERTS_MAX", 3)
    # No day has a score of 1.1: each of the eight is in an alert.
    strict = writer(lake, hook)
    object.__setattr__(
        strict, "settings", strict.settings.model_copy(update={"quality": _always(strict)})
    )
    sent = [told(assess(strict, AssessmentRequest())) for _ in range(4)]
    query = "select count(*), cast(sum(days) as bigint) from gold.alerts where rule = 'score'"
    ((total, days),) = ask(lake, query)
    assert (total, days) == (6, 8)
    assert sent == [(3, 3), (3, 0), (0, 0), (0, 0)]
    prints = [a["fingerprint"] for r in hook.received for a in r.document["alerts"]]
    assert len(prints) == len(set(prints)) == total


def _always(strict: Writer) -> Any:
    return strict.settings.quality.model_copy(update={"threshold": 1.1})


def test_thresholds_beside_the_score_raise_alerts_of_their_own(
    lake: BarLake, hook: Receiver
) -> None:
    def jump(rows: pl.DataFrame) -> pl.DataFrame:
        odd = (pl.col("symbol") == "BBB") & (pl.col("open_time").dt.day() == 22)
        factor = pl.when(odd & (pl.col("open_time").dt.hour() == 12)).then(50.0).otherwise(1.0)
        return rows.with_columns(pl.col("high", "close") * factor)

    lake.rewrite("silver.klines_coarse", jump)
    report = run(lake, hook, anomalies_max=0)
    found = ask(
        lake,
        "select symbol, rule, value > threshold from gold.alerts where rule = 'anomalies' "
        "and symbol = 'BBB' and day(day) = 22",
    )
    assert found == [("BBB", "anomalies", True)]
    assert report.alerts == report.alerts_sent == hook.received[0].document["lakehouse"]["total"]


def test_bars_that_differ_from_finer_ones_are_an_alert_whatever_the_score(
    lake: BarLake, hook: Receiver
) -> None:
    # Two random walks: not one hour is the sum of its minutes.
    lake.put(bars("AAA", "2024-05-20", 1, interval="1m", holes=0))
    run(lake, hook)
    found = "select day(day), value, threshold from gold.alerts where rule = 'differing'"
    assert ask(lake, found) == [(20, 1.0, 0.05)]
    assert hook.received[0].document["lakehouse"]["by_rule"]["differing"] == 1


def test_rows_that_the_source_has_and_the_lake_lost_are_an_alert_whatever_the_score(
    tmp_path: Path, hook: Receiver
) -> None:
    lake, root = BarLake(tmp_path / "home"), tmp_path / "archive"
    for day in (1, 2, 3):
        start = parse_time(f"2024-07-0{day}")
        rows = [
            f"{time // 1000},1,2,0.5,1.5,10,{(time + HOUR_US) // 1000 - 1},15,3,5,7,0"
            for time in range(start, start + DAY_US, HOUR_US)
        ]
        key = f"data/spot/daily/klines/AUSDT/1h/AUSDT-1h-2024-07-0{day}.zip"
        publish(root, key, rows)
        if day == 2:
            (root / key).write_bytes((root / key).read_bytes()[:-40])
    with ReplicaExchange(FolderArchive(root)) as exchange:
        settings = {
            "home": lake.home,
            "binance": {"archive_url": exchange.url},
            "compute": {"local_bytes_max": MANY_BYTES},
        }
        selection = Selection(DATASETS["klines"], "spot", "1h")
        ingest(Writer(load_settings(settings).resolved()), IngestRequest(selection))
    assert told(run(lake, hook, own_loss_rows_max=24))[0] == 1
    strict = run(lake, hook, own_loss_rows_max=23, again=True)
    assert (strict.alerts, *told(strict)) == (1, 1, 0)
    (alert,) = hook.received[-1].document["alerts"]
    assert alert["labels"]["rule"] == "own_loss"
    assert alert["annotations"]["summary"] == (
        "spot klines 1h AUSDT 2024-07-02: 24 rows lost here, 23 allowed (own loss)"
    )


def command(lake: BarLake, hook: Receiver, *more: str, **settings: str) -> Any:
    env = environment(
        HOME=lake.home,
        COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES,
        ALERTS__WEBHOOK_URL=hook.url(HOOK),
        ALERTS__WEBHOOK_ATTEMPTS_MAX="1",
        ALERTS__WEBHOOK_TIMEOUT_S="2",
        LOG__LEVEL="debug",
        **settings,
    )
    done = completed("quality", "--json", "--debug", *more, env=env, text=True)
    assert CANARY not in done.stdout + done.stderr
    return done


def test_the_command_ends_as_it_would_have_with_a_receiver_that_is_down(
    lake: BarLake, hook: Receiver
) -> None:
    hook.answers = [Answer(500)]
    done = command(lake, hook)
    assert done.returncode == 5, done.stderr
    assert "warning: alerts could not be sent: the webhook at 127.0.0.1" in done.stderr
    said = json.loads(done.stdout)["run"]
    assert (said["alerts_sent"], said["alerts_waiting"]) == (0, 1)
    assert len(said["warnings"]) == 1
    assert command(lake, hook, "--symbols", "BBB").returncode == 0
    assert len(hook.received) == 2
