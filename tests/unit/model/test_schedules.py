from __future__ import annotations

import itertools
from typing import Any

import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.schedules import Cron, make_schedule
from lakehouse_ray.model.timespan import format_time, parse_time

KLINES = {"market": "spot", "dataset": "klines", "interval": "1h"}


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("15 6 * * *", ["2024-02-29T06:15:00Z", "2024-03-01T06:15:00Z"]),
        ("0 0 1 * *", ["2024-03-01T00:00:00Z", "2024-04-01T00:00:00Z"]),
        # No clock is put forward in UTC: 02:30 comes on the day on which Europe has none.
        ("30 2 31 3 *", ["2024-03-31T02:30:00Z", "2025-03-31T02:30:00Z"]),
        ("0 0 * * MON", ["2024-03-04T00:00:00Z", "2024-03-11T00:00:00Z"]),
        ("*/20 0 0 * * *", ["2024-02-29T00:00:00Z", "2024-02-29T00:00:20Z"]),
    ],
)
def test_planned_times_are_those_of_cron_in_utc(text: str, times: list[str]) -> None:
    found = Cron(text).after(parse_time("2024-02-28T23:59:59"))
    assert [format_time(us) for us in itertools.islice(found, 2)] == times


def test_the_moment_itself_is_not_after_it_and_fractions_of_a_second_lose_none() -> None:
    moment = parse_time("2024-01-01T06:15")
    cron = Cron("* * * * *")
    assert next(cron.after(moment)) == moment + 60_000_000
    assert next(cron.after(moment - 1)) == moment
    assert next(cron.after(moment + 1)) == moment + 60_000_000


@pytest.mark.parametrize("text", ["", "x", "* * * *", "61 * * * *", "0 0 30 2 *", "@daily"])
def test_an_expression_that_cannot_be_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidError) as refused:
        Cron(text)
    assert "five fields" in refused.value.hint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "../x"}, "no name"),
        ({"name": "-x"}, "no name"),
        ({"cron": "x"}, "schedule daily: cron"),
        ({"workflow": "rm"}, "schedule daily"),
        ({"parameters": {**KLINES, "market": "nyse"}}, "schedule daily"),
        ({"parameters": {**KLINES, "out": "/etc/passwd"}}, "schedule daily"),
        ({"parameters": {**KLINES, "workflow": "build"}}, ""),
    ],
)
def test_what_cannot_be_run_is_no_schedule(given: dict[str, Any], said: str) -> None:
    values: dict[str, Any] = {
        "name": "daily", "cron": "15 6 * * *", "workflow": "ingest", "parameters": KLINES,
    }  # fmt: skip
    made = make_schedule(**values)
    assert made.workflow.arguments() == [
        "ingest", "--market=spot", "--dataset=klines", "--interval=1h",
    ]  # fmt: skip
    assert made.parameters() == KLINES
    if not said:
        # The workflow is the schedule's, whatever its parameters say.
        assert make_schedule(**{**values, **given}).workflow.workflow == "ingest"
        return
    with pytest.raises(InvalidError, match=said):
        make_schedule(**{**values, **given})
