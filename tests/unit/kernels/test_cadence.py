"""How often a lake is published."""

from __future__ import annotations

import random

import pytest

from lakehouse_ray.kernels.cadence import observed_pause_us, planned_pause_us
from lakehouse_ray.model.schedules import Cron
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, SECOND_US, parse_time

NOW_US = parse_time("2024-03-01T12:00:30")


@pytest.mark.parametrize(
    ("texts", "pause_us"),
    [
        (["15 6 * * *"], DAY_US),
        (["5 * * * *"], HOUR_US),
        # Whoever comes most often says how old the lake may be.
        (["15 6 * * *", "5 * * * *"], HOUR_US),
        # On working days: over a weekend.
        (["0 6 * * MON-FRI"], 3 * DAY_US),
        (["0 6,8 * * *"], 22 * HOUR_US),
        ([], None),
    ],
)
def test_what_is_planned_has_its_longest_pause(texts: list[str], pause_us: int | None) -> None:
    assert planned_pause_us([Cron(text) for text in texts], NOW_US) == pause_us


def test_commits_of_one_run_are_one_publication() -> None:
    days = [NOW_US + day * DAY_US + n * 10 * SECOND_US for day in range(7) for n in range(30)]
    random.Random(1).shuffle(days)
    assert observed_pause_us(days) == DAY_US - 290 * SECOND_US


def test_an_outage_among_pauses_changes_nothing() -> None:
    hours = [NOW_US + n * HOUR_US for n in (*range(20), *range(60, 80))]
    assert observed_pause_us(hours) == HOUR_US


def test_what_was_published_once_or_never_ceases_has_no_pause() -> None:
    assert observed_pause_us([]) is None
    assert observed_pause_us([NOW_US]) is None
    assert observed_pause_us(range(NOW_US, NOW_US + 30 * MINUTE_US, SECOND_US)) is None
