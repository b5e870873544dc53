"""What a webhook's receiver is sent, and by what it knows the sender."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.model.assessment import ALERTS
from lakehouse_ray.pipeline.alert_document import LISTED_MAX, make_document, sign
from lakehouse_ray.storage.frames import frame_schema

DAY = datetime(2024, 5, 21, tzinfo=UTC)


def alerts(number: int, **columns: Any) -> pl.DataFrame:
    rows = [
        {
            "market": "spot",
            "dataset": "klines",
            "symbol": "AAA",
            "interval": "1h",
            "day": DAY + timedelta(days=n),
            "score": 0.5 + n / 10_000,
            "threshold": 0.9,
            "codes": "ARCHIVE_HOLE",
            "reasons": "ARCHIVE_HOLE: 6 of 24 rows are missing",
            "run_id": "r1",
            "raised_at": DAY,
            "rule": "score",
            "value": 0.5 + n / 10_000,
            "last_day": DAY + timedelta(days=n),
            "days": 1,
            "worst_day": DAY + timedelta(days=n),
        }
        | columns
        for n in range(number)
    ]
    return pl.DataFrame(rows, schema=frame_schema(ALERTS))


def document(found: pl.DataFrame, lake: str = "main") -> Any:
    return orjson.loads(make_document(found, lake, "r2").body)


def test_a_signature_is_that_of_the_standard_webhooks_specification() -> None:
    # The example of the specification's reference libraries.
    signed = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_that_is_no_base64_is_taken_as_it_is() -> None:
    assert sign("whsec_*", "a", 1, b"") != sign("whsec_+", "a", 1, b"")
    assert sign("plain words", "a", 1, b"") != sign("plain word", "a", 1, b"")


def test_an_alert_is_told_in_the_words_of_alertmanager() -> None:
    told = document(alerts(1))
    assert (told["version"], told["status"], told["truncatedAlerts"]) == ("4", "firing", 0)
    (alert,) = told["alerts"]
    assert alert["labels"] == {
        "alertname": "LakehouseQuality",
        "lake": "main",
        "rule": "score",
        "market": "spot",
        "dataset": "klines",
        "interval": "1h",
        "symbol": "AAA",
        "day": "2024-05-21",
        "code": "ARCHIVE_HOLE",
    }
    assert alert["startsAt"] == "2024-05-21T00:00:00Z"
    assert told["text"] == (
        "Lakehouse main: 1 new alert (1 score)\n"
        "- spot klines 1h AAA 2024-05-21: score 0.5000, under 0.9 (archive hole)"
    )


def test_however_many_alerts_a_document_lists_the_worst_and_counts_all() -> None:
    shuffled = alerts(5_000).sample(fraction=1, shuffle=True, seed=1)
    made = make_document(shuffled, "main", "r2")
    told = orjson.loads(made.body)
    assert [a["labels"]["day"] for a in told["alerts"][:2]] == ["2024-05-21", "2024-05-22"]
    assert len(told["alerts"]) == LISTED_MAX == made.alerts["listed"].sum()
    assert told["truncatedAlerts"] == 5_000 - LISTED_MAX
    assert told["lakehouse"]["by_rule"] == {"score": 5_000}
    assert told["lakehouse"]["by_series"][0]["alerts"] == 5_000
    assert len(made.body) < 100_000
    assert len(told["content"]) <= 2_000


@given(st.integers(0, 1 << 30))
def test_the_same_alerts_have_the_same_name_in_whatever_order(seed: int) -> None:
    found = alerts(20)
    order = random.Random(seed).sample(range(20), 20)
    made, other = make_document(found, "main", "a"), make_document(found[order], "main", "b")
    assert made.id == other.id
    prints = [{a["fingerprint"] for a in orjson.loads(m.body)["alerts"]} for m in (made, other)]
    assert prints[0] == prints[1]
    assert len(prints[0]) == 20
    assert make_document(found[1:], "main", "a").id != made.id
    assert make_document(found, "other", "a").id != made.id


def test_a_symbol_calls_nobody_and_marks_nothing_up() -> None:
    text = document(alerts(1, symbol="<!channel>@everyone*币安`_240628"))["text"]
    assert "!channeleveryone币安_240628" in text
    assert not set("<>@*`") & set(text)


def test_a_day_without_a_reason_is_told_all_the_same() -> None:
    told = document(alerts(1, codes=None, reasons=None, rule="anomalies", value=130.0))
    assert "code" not in told["alerts"][0]["labels"]
    assert "130 anomalies" in told["text"]


def test_days_in_a_row_are_told_as_one_alert_by_their_first_and_last_day() -> None:
    last = DAY + timedelta(days=1542)
    told = document(alerts(1, last_day=last, days=1543, worst_day=DAY + timedelta(days=7)))
    (alert,) = told["alerts"]
    assert alert["annotations"]["summary"] == (
        "spot klines 1h AAA 2024-05-21 to 2028-08-10 (1,543 days): at worst score 0.5000, under 0.9 "
        "(archive hole)"
    )
    chosen = {name: alert["annotations"][name] for name in ("last_day", "days", "worst_day")}
    assert chosen == {"last_day": "2028-08-10", "days": "1543", "worst_day": "2024-05-28"}
    assert told["lakehouse"]["by_series"][0]["last_day"] == "2028-08-10"


def test_what_went_on_is_the_same_alert_in_another_document() -> None:
    first = alerts(1, codes="ARCHIVE_HOLE,DIFFERS")
    grown = alerts(1, codes="DIFFERS,ARCHIVE_HOLE", last_day=DAY + timedelta(days=1), days=2)
    made = [make_document(found, "main", "r") for found in (first, grown)]
    prints = {orjson.loads(m.body)["alerts"][0]["fingerprint"] for m in made}
    assert len(prints) == 1
    assert made[0].id != made[1].id
