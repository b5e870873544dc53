"""How often a lake is published: as it is planned, or as it has been so far."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, pairwise
from statistics import median

from lakehouse_ray.model.schedules import Cron
from lakehouse_ray.model.timespan import MINUTE_US

# Enough for the pauses of a week or a month to be among them.
_TIMES = 100
# A run commits again and again: what comes sooner is the same publication.
_PAUSE_US = 5 * MINUTE_US


def planned_pause_us(crons: Iterable[Cron], now_us: int) -> int | None:
    """The longest pause of the schedule whose longest is the shortest; None where none comes twice."""
    longest = []
    for cron in crons:
        times = list(islice(cron.after(now_us), _TIMES))
        if len(times) > 1:
            longest.append(max(after - before for before, after in pairwise(times)))
    return min(longest, default=None)


def observed_pause_us(times_us: Iterable[int]) -> int | None:
    """The median pause between publications; None where there was one alone, or no pause.

    times_us: Of commits, in any order. One long outage among many pauses changes nothing.
    """
    pauses = [after - before for before, after in pairwise(sorted(times_us))]
    between = [pause for pause in pauses if pause >= _PAUSE_US]
    return round(median(between)) if between else None
