"""Moments of a clock that is set back."""

from __future__ import annotations

from support.ticking import TickingClock

from lakehouse_ray.clock import Onward

S = 1_000_000


def test_moments_of_a_clock_that_is_right_are_its_own() -> None:
    clock = TickingClock()
    onward = Onward(clock)
    for _ in range(5):
        assert onward.us(clock.now_us()) == clock.now_us()
        clock.sleep(0.25)


def test_moments_go_on_while_the_clock_is_behind_what_it_told() -> None:
    """An hour ahead for a moment, then right again: who waits must not wait for an hour."""
    clock = TickingClock()
    onward = Onward(clock)
    right_us = clock.now_us()
    ahead_us = onward.us(right_us + 3600 * S)
    found = []
    for _ in range(4):
        clock.sleep(0.5)
        found.append(onward.us(clock.now_us()))
    assert found == [ahead_us + n * S // 2 for n in range(1, 5)]
    clock.sleep(3600)
    assert onward.us(clock.now_us()) == clock.now_us(), "the clock has caught up"
