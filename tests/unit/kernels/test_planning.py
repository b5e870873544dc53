"""Which planned times are run, against the policies said anew in arithmetic of minutes."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.kernels.planning import DUE_MAX, Plan, Skipped, plan
from lakehouse_ray.model.schedules import CatchUp, Cron
from lakehouse_ray.model.timespan import DAY_US, MINUTE_US, parse_time

START_US = parse_time("2024-03-01")
STEPS = {1: "* * * * *", 5: "*/5 * * * *", 60: "0 * * * *"}


def decide_all(
    cron: Cron, decided_us: int, now_us: int, catch_up: CatchUp, late_us: int, most: int
) -> tuple[list[int], list[Skipped]]:
    """Ask until nothing is left, as a runner whose runs end at once."""
    run: list[int] = []
    skipped: list[Skipped] = []
    while True:
        told = plan(cron, decided_us, now_us, catch_up, late_us_max=late_us, catch_up_max=most)
        if told == Plan():
            return run, skipped
        if told.skipped is not None:
            skipped.append(told.skipped)
            decided_us = told.skipped.last_us
        if told.run_us is not None:
            assert told.is_late == (now_us - told.run_us > late_us)
            run.append(told.run_us)
            decided_us = told.run_us


@given(
    st.sampled_from(sorted(STEPS)),
    st.integers(0, 3 * 24 * 60 * 60),
    st.integers(0, 2 * 24 * 60 * 60),
    st.sampled_from(get_args(CatchUp)),
    st.integers(0, 600),
    st.integers(1, 50),
)
def test_each_planned_time_is_run_or_skipped_as_its_policy_says(
    minutes: int, decided_s: int, down_s: int, catch_up: CatchUp, late_s: int, most: int
) -> None:
    decided_us = START_US + decided_s * 1_000_000
    now_us = decided_us + down_s * 1_000_000
    step_us = minutes * MINUTE_US
    due = [t for t in range(START_US, now_us + 1, step_us) if t > decided_us]
    expected = {
        "none": [t for t in due[-1:] if now_us - t <= late_s * 1_000_000],
        "last": due[-1:],
        "all": due[-most:],
    }[catch_up]

    run, skipped = decide_all(
        Cron(STEPS[minutes]), decided_us, now_us, catch_up, late_s * 1_000_000, most
    )

    assert run == expected
    passed = [t for s in skipped for t in range(s.first_us, s.last_us + 1, step_us)]
    assert sum(s.times for s in skipped) == len(passed)
    assert sorted(run + passed) == due


def test_a_runner_that_was_away_for_years_gets_there_in_pieces() -> None:
    cron, now_us = Cron("* * * * *"), START_US + 80 * DAY_US
    assert DUE_MAX < 80 * 1440

    run, skipped = decide_all(cron, START_US, now_us, "all", MINUTE_US, 2)

    assert run == [now_us - MINUTE_US, now_us]
    assert len(skipped) == 2
    assert sum(s.times for s in skipped) == 80 * 1440 - 2
    assert skipped[0].last_us + MINUTE_US == skipped[1].first_us


def test_a_clock_that_was_set_back_repeats_nothing() -> None:
    told = plan(
        Cron("* * * * *"), START_US + DAY_US, START_US, "all", late_us_max=0, catch_up_max=9
    )
    assert told == Plan()
