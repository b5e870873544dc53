"""The exchange's clock, on a machine whose clock is moved by hand."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.replay_clock import ReplayClock

START_US = 1_723_161_255_000_000


class Machine:
    def __init__(self) -> None:
        self.us = START_US

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.us / 1e6

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps on the machine's clock")


def test_it_is_the_machines_clock_unless_told_otherwise() -> None:
    machine = Machine()
    clock = ReplayClock(machine=machine)
    machine.us += 1_500_000
    assert clock.now_us() == machine.us
    assert clock.monotonic_s() == pytest.approx(1.5)


def test_speed_counts_from_when_it_was_set() -> None:
    machine = Machine()
    clock = ReplayClock(10_000_000, speed=100, machine=machine)
    machine.us += 1_000_000
    assert clock.now_us() == 110_000_000
    clock.set_speed(2)
    machine.us += 1_000_000
    assert clock.now_us() == 112_000_000
    clock.set_speed(0)
    machine.us += 5_000_000
    assert clock.now_us() == 112_000_000
    clock.advance(0.25)
    assert clock.now_us() == 112_250_000


def test_it_never_goes_back() -> None:
    clock = ReplayClock(10_000_000, speed=0, machine=Machine())
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(InvalidError):
            clock.advance(wrong)
    with pytest.raises(InvalidError):
        clock.advance_to(9_999_999)
    for wrong in (-0.1, float("inf"), True):
        with pytest.raises(InvalidError):
            clock.set_speed(wrong)


def test_diligence_is_measured_by_the_faster_of_both_clocks() -> None:
    machine = Machine()
    clock = ReplayClock(speed=0, machine=machine)
    machine.us += 3_000_000
    assert clock.paced_s() == pytest.approx(3)
    clock.set_speed(10)
    machine.us += 1_000_000
    assert clock.paced_s() == pytest.approx(13)
    clock.advance(60)
    assert clock.paced_s() == pytest.approx(73)


def test_who_waits_is_woken_when_the_clock_is_moved() -> None:
    clock = ReplayClock(0, speed=0)

    async def wait() -> list[int]:
        woken: list[int] = []

        async def one(moment_us: int) -> None:
            await clock.wait_until(moment_us)
            woken.append(moment_us)

        waits = [asyncio.create_task(one(moment)) for moment in (2_000_000, 1_000_000, 0)]
        await asyncio.sleep(0)
        threading.Thread(target=clock.advance, args=(1,)).start()
        await waits[1]
        assert woken == [0, 1_000_000]
        clock.set_speed(1000)
        await waits[0]
        return woken

    assert asyncio.run(wait()) == [0, 1_000_000, 2_000_000]


def test_a_thread_sleeps_by_this_clock() -> None:
    clock = ReplayClock(0, speed=0)
    threading.Timer(0.01, clock.advance, (3600,)).start()
    clock.sleep(3600)
    assert clock.now_us() == 3_600_000_000
