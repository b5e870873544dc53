"""Which of the times that have come are run, and which are passed over. Pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from lakehouse_ray.model.schedules import CatchUp, Cron

# So many planned times are looked at together (1.6 s); more than any `catch_up_max`.
DUE_MAX = 100_000
KEPT_MAX = 1_000


@dataclass(frozen=True)
class Skipped:
    """Planned times in a row that are not run. first_us, last_us: Inclusive."""

    first_us: int
    last_us: int
    times: int


@dataclass(frozen=True)
class Plan:
    """What comes next of a schedule.

    skipped: Passed over, all before what is run.
    run_us: The planned time to run now; None: none is.
    is_late: It was missed, and is caught up.
    """

    skipped: Skipped | None = None
    run_us: int | None = None
    is_late: bool = False


def plan(
    cron: Cron,
    decided_us: int,
    now_us: int,
    catch_up: CatchUp,
    *,
    late_us_max: int,
    catch_up_max: int,
) -> Plan:
    """Decide on the planned times in `(decided_us, now_us]`.

    none: The latest is run, unless it is later than `late_us_max`. last: The latest is run. all: The
    latest `catch_up_max` (at most KEPT_MAX) are, from the oldest on, one per call. All others are
    skipped. What is decided is then up to `run_us`, or `skipped.last_us` where nothing is run.
    """
    assert 1 <= catch_up_max <= KEPT_MAX
    due = list(itertools.islice(_until(cron.after(decided_us), now_us), DUE_MAX))
    if not due:
        return Plan()
    if len(due) == DUE_MAX:
        # More may have come, but those that are kept are not among these, whatever the policy.
        return Plan(_skip(due[:-KEPT_MAX]))
    keep = catch_up_max if catch_up == "all" else 1
    run_us = due[-keep:][0]
    is_late = now_us - run_us > late_us_max
    if catch_up == "none" and is_late:
        return Plan(_skip(due))
    return Plan(_skip(due[:-keep]), run_us, is_late)


def _until(times: Iterator[int], end_us: int) -> Iterator[int]:
    return itertools.takewhile(lambda time_us: time_us <= end_us, times)


def _skip(times: list[int]) -> Skipped | None:
    return Skipped(times[0], times[-1], len(times)) if times else None
