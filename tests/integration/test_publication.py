"""For how long nothing may be published: what the service says of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.serve.lake_state import LakeState
from lakehouse_ray.serve.server import publish_within
from lakehouse_ray.settings import load_settings
from lakehouse_ray.telemetry.exposition import text_of

pytestmark = pytest.mark.integration

DAILY = {"name": "daily", "cron": "15 6 * * *", "workflow": "ingest",
         "parameters": {"market": "spot", "dataset": "klines", "interval": "1m"}}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = BarLake(tmp_path_factory.mktemp("published"))
    lake.put(bars("BTCUSDT", "2024-01-01", 1))
    return lake.home


@pytest.mark.parametrize(
    ("given", "due_s"),
    [
        ({}, None),  # it was filled once: nobody knows that more is to come
        ({"schedules": [DAILY]}, 2 * 86_400),
        ({"schedules": [DAILY, {**DAILY, "name": "hourly", "cron": "5 * * * *"}]}, 2 * 3_600),
        ({"schedules": [DAILY, {**DAILY, "name": "often", "cron": "* * * * *"}]}, 2 * 3_600),
        ({"schedules": [{**DAILY, "enabled": False}]}, None),
        ({"schedules": [DAILY], "telemetry": {"publish_within_s": 600}}, 600),
    ],
)
def test_it_follows_settings_and_schedules(
    home: Path, given: dict[str, Any], due_s: float | None
) -> None:
    settings = load_settings({"home": home, **given}).resolved()
    reader = Reader(settings)
    state = LakeState(
        reader.find, lambda: reader.lake, SystemClock(), name="main", threshold=0.9,
        publish_within_s=publish_within(settings),
    )  # fmt: skip
    text = text_of(state.look())
    found = re.findall(r'(?m)^lakehouse_publication_due_seconds\{lake="main"\} (\S+)$', text)
    assert [float(one) for one in found] == ([] if due_s is None else [due_s])


def test_a_schedule_that_cannot_be_is_said_when_the_service_starts(home: Path) -> None:
    settings = load_settings({"home": home, "schedules": [{**DAILY, "cron": "61 * * * *"}]})
    with pytest.raises(InvalidError, match="61"):
        publish_within(settings)
