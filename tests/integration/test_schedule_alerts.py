"""Runs that went wrong and data sets that stand still, told to a real receiver at least once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.receiver import Answer, receiver

from lakehouse_ray.assembly.schedules import open_run_log
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.model.lake import OBJECT_LOG
from lakehouse_ray.model.schedules import Schedule, make_schedule
from lakehouse_ray.model.timespan import HOUR_US
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.schedule_alerts import ScheduleAlerts
from lakehouse_ray.settings import load_settings
from lakehouse_ray.storage.ledger import events, log_request

pytestmark = pytest.mark.integration

BARS = {"market": "spot", "dataset": "klines", "interval": "1h"}
ONE = {"one": make_schedule("one", "0 6 * * *", "ingest", BARS)}


def alerts_of(writer: Writer, schedules: dict[str, Schedule]) -> ScheduleAlerts:
    return ScheduleAlerts(writer, schedules, "me", lambda line: None)


def test_what_went_wrong_is_told_until_it_is_taken_and_then_no_more(tmp_path: Path) -> None:
    with receiver() as hook:
        alerts = {"webhook_url": hook.url(), "webhook_attempts_max": 1}
        writer = Writer(load_settings({"home": str(tmp_path), "alerts": alerts}))
        now_us = writer.clock.now_us()
        ended = {
            "schedule": "one", "at": now_us, "planned_at": now_us, "runner": "me", "epoch": 1,
            "sequence": 1,
        }  # fmt: skip
        open_run_log(writer, "me").add(
            [
                {**ended, "run_id": "one-1", "state": "failed", "error": "no room"},
                {**ended, "run_id": "one-2", "state": "succeeded"},
            ],
            None,
        )
        seen = {
            "market": "spot", "dataset": "klines", "symbol": "AAA", "interval": "1h",
            "freq": "daily", "period_start": now_us, "key": "k", "url": "u",
            "last_modified": now_us, "size": 1, "state": "built", "decoder_version": 1,
            "unit_id": "u", "run_id": "r", "seen_at": now_us - 49 * HOUR_US, "fetched": True,
        }  # fmt: skip
        request = log_request(OBJECT_LOG, writer.store, events([seen]), ("spot", "klines"), "x")
        with open_committers(writer, (OBJECT_LOG,), "r", local=True) as committers:
            committers.commit(OBJECT_LOG, [request])

        hook.answers.append(Answer(400))
        with pytest.raises(LakehouseError):
            alerts_of(writer, ONE).deliver()
        assert alerts_of(writer, ONE).deliver() == 2
        told = [one["annotations"]["summary"] for one in hook.received[-1].document["alerts"]]
        assert told[0] == "one-1 failed: no room"
        assert told[1].startswith("spot klines: no new file since ")
        # The same document, so that a receiver can tell what it has had.
        ids = {one.headers["webhook-id"] for one in hook.received}
        assert len(ids) == 1
        assert alerts_of(writer, ONE).deliver() == 0
        assert len(hook.received) == 2


def test_a_data_set_that_no_schedule_brings_may_stand_still(tmp_path: Path) -> None:
    writer = Writer(load_settings({"home": str(tmp_path)}))
    assert alerts_of(writer, {}).deliver() == 0
