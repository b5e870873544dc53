"""Watching a job through a head that comes and goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from support.jobs import MemoryJobs
from support.ticking import TickingClock

from lakehouse_ray.errors import NotFoundError, UnavailableError
from lakehouse_ray.runtime.job_watch import JobWatch
from lakehouse_ray.runtime.jobs import Job


class Moments(MemoryJobs):
    """A job that is as told at each look: a state, or None for a head that is silent; the last
    stays. tails: What each connection says; it breaks where it says BREAK."""

    BREAK = "\0"

    def __init__(self, states: Sequence[str | None], tails: Sequence[Sequence[str | None]] = ()):
        super().__init__()
        self.states, self.tails = list(states), list(tails)

    def find(self, job_id: str) -> Job | None:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state is None:
            raise UnavailableError("Ray's jobs cannot be asked: ConnectionError")
        return None if state == "GONE" else Job(job_id, state)  # type: ignore[arg-type]

    def tail(self, job_id: str) -> Iterator[str | None]:
        for line in self.tails.pop(0) if self.tails else [self.BREAK]:
            if line == self.BREAK:
                raise UnavailableError("broken")
            yield line


class Adrift(Moments):
    """Jobs whose machine is away: at each look for it, by turns."""

    def __init__(self, away: Sequence[bool | None], states: Sequence[str | None] = ("RUNNING",)):
        super().__init__(states)
        self.away = list(away)

    def is_adrift(self, job_id: str) -> bool:
        found = self.away.pop(0) if len(self.away) > 1 else self.away[0]
        if found is None:
            raise UnavailableError("Ray answered 500: no agent")
        return found


def watch(jobs: Moments, silence_s_max: float = 10) -> JobWatch:
    return JobWatch(jobs, "a", TickingClock(), silence_s_max)


def test_an_end_is_waited_for_through_a_head_that_is_away_for_a_while() -> None:
    assert watch(Moments(["PENDING", None, None, "RUNNING", "FAILED"])).wait(60).state == "FAILED"


def test_what_has_not_ended_in_time_goes_on() -> None:
    with pytest.raises(UnavailableError, match=r"within 5 s: RUNNING\. It goes on"):
        watch(Moments(["RUNNING"])).wait(5)


def test_a_head_that_stays_silent_is_given_up() -> None:
    for act in (lambda one: one.wait(3600), lambda one: list(one.lines())):
        with pytest.raises(UnavailableError, match="not answered for 10 s"):
            act(watch(Moments(["RUNNING", None], [["x", Moments.BREAK]])))


def test_a_head_that_began_anew_knows_no_job() -> None:
    with pytest.raises(NotFoundError, match="any more"):
        watch(Moments(["RUNNING", "GONE"])).wait(60)


def test_each_line_is_told_once_whatever_breaks() -> None:
    tails = (
        ["1", "", None, Moments.BREAK],
        [Moments.BREAK],
        ["1", "", "3", Moments.BREAK],
        ["1", "", "3", "4"],
    )
    jobs = Moments(["RUNNING"] * 5 + ["SUCCEEDED"], tails)
    assert list(watch(jobs).lines()) == ["1", "", "3", "4"]


def test_a_job_whose_machine_is_gone_is_given_up_with_what_to_do() -> None:
    for act in (lambda one: one.wait(3600), lambda one: list(one.lines())):
        with pytest.raises(UnavailableError, match=r"ran a is gone.*lakehouse jobs stop a"):
            act(watch(Adrift([False, True])))


def test_a_machine_that_is_away_for_a_moment_or_cannot_be_asked_for_loses_no_job() -> None:
    states = ["RUNNING"] * 120 + ["SUCCEEDED"]
    away = [True, True, None, False, True, True, True, None, True, False]
    assert watch(Adrift(away, states)).wait(3600).state == "SUCCEEDED"
    # Ray says itself what became of it, mostly.
    assert watch(Adrift([True], ["RUNNING"] * 30 + ["FAILED"])).wait(3600).state == "FAILED"
