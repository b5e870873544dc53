"""Answers from level to level: found, made once, kept; and levels that do not work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs
from support.ticking import TickingClock

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.serve.cache.answers import Answers
from lakehouse_ray.serve.cache.breaker import Breaker
from lakehouse_ray.serve.cache.level import SMALL_BYTES_MAX, Counts
from lakehouse_ray.serve.cache.memory import AnswerMemory
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.formats import Format, hold_rows
from lakehouse_ray.serve.problems import GoneAwayError


class FakeLevel:
    """A place elsewhere. size_min, size_max: What it takes."""

    name = "fake"
    up = True

    def __init__(self, size_max: int = 1 << 20, size_min: int = 0) -> None:
        self.counts = Counts()
        self.kept: dict[str, Written] = {}
        self.asked = 0
        self.size_min, self.size_max = size_min, size_max
        self.closed = False

    def takes(self, size_bytes: int) -> bool:
        return self.size_min <= size_bytes <= self.size_max

    async def get(self, key: str, form: Format) -> Written | None:
        self.asked += 1
        await asyncio.sleep(0)
        return self.kept.get(key)

    async def put(self, key: str, stored: Written) -> None:
        self.kept[key] = stored

    async def close(self) -> None:
        self.closed = True


def answer(text: str = "x", size: int = 1) -> Written:
    return Written(hold_rows(text.encode() * size, Format.JSON, 1))


async def never() -> None:
    await asyncio.Event().wait()


def no_hold(_: Written) -> None:
    pass


class Work:
    """Counts how often it is begun; ends when it is let."""

    def __init__(self, made: Written | Exception) -> None:
        self.made = made
        self.begun = 0
        self.deserted = False
        self.go = asyncio.Event()

    async def __call__(self, gone: Callable[[], Awaitable[object]]) -> Written:
        self.begun += 1
        left = asyncio.ensure_future(gone())
        go = asyncio.ensure_future(self.go.wait())
        await asyncio.wait({left, go}, return_when=asyncio.FIRST_COMPLETED)
        self.deserted = left.done()
        for one in (left, go):
            one.cancel()
        if self.deserted:
            raise GoneAwayError("nobody waits")
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_equal_questions_at_the_same_time_are_worked_on_once() -> None:
    async def run() -> None:
        level = FakeLevel()
        answers = Answers(AnswerMemory(1 << 20), [level])
        work = Work(answer())
        asked = [
            asyncio.ensure_future(answers.get("k", Format.JSON, work, no_hold, never))
            for _ in range(10)
        ]
        await settled()
        other = Work(answer("y"))
        other.go.set()
        assert await answers.get("l", Format.JSON, other, no_hold, never) == answer("y")
        work.go.set()
        assert await asyncio.gather(*asked) == [answer()] * 10
        assert (work.begun, level.asked, answers.flights.joined) == (1, 2, 9)
        # Now it is in memory, and elsewhere for others.
        assert await answers.get("k", Format.JSON, work, no_hold, never) == answer()
        await settled()
        assert set(level.kept) == {"k", "l"}
        elsewhere = Answers(AnswerMemory(1 << 20), [level])
        assert await elsewhere.get("k", Format.JSON, work, no_hold, never) == answer()
        assert (work.begun, elsewhere.memory.counts.written_bytes) == (1, 1)

    asyncio.run(run())


def test_work_ends_when_the_last_who_waits_has_gone() -> None:
    async def run() -> None:
        answers = Answers(AnswerMemory(1 << 20), [])
        work = Work(answer())
        leave = [asyncio.Event() for _ in range(3)]
        asked = [
            asyncio.ensure_future(answers.get("k", Format.JSON, work, no_hold, left.wait))
            for left in leave
        ]
        await settled()
        # The one that began it goes; the others wait on.
        leave[0].set()
        with pytest.raises(GoneAwayError):
            await asked[0]
        assert not work.deserted
        leave[1].set()
        asked[2].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        # Who asks now begins anew: the other work is being stopped.
        again = asyncio.ensure_future(answers.get("k", Format.JSON, work, no_hold, never))
        await settled()
        assert (work.deserted, work.begun) == (True, 2)
        work.go.set()
        assert await again == answer()

    asyncio.run(run())


def test_an_error_is_told_to_all_who_wait_and_is_not_remembered() -> None:
    async def run() -> None:
        level = FakeLevel()
        answers = Answers(AnswerMemory(1 << 20), [level])
        work = Work(InvalidError("no"))
        work.go.set()
        asked = [answers.get("k", Format.JSON, work, no_hold, never) for _ in range(3)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [str(one) for one in found] == ["no"] * 3
        assert level.kept == {}
        good = Work(answer())
        good.go.set()
        assert await answers.get("k", Format.JSON, good, no_hold, never) == answer()

    asyncio.run(run())


def test_an_answer_goes_where_it_fits() -> None:
    async def run() -> None:
        small, large = FakeLevel(10), FakeLevel(1000)
        answers = Answers(AnswerMemory(1 << 20), [small, large])
        held: list[Written] = []
        for key, size in (("s", 10), ("l", 11), ("x", 1001)):
            work = Work(answer(size=size))
            work.go.set()
            await answers.get(key, Format.JSON, work, held.append, never)
        await settled()
        assert (set(small.kept), set(large.kept)) == ({"s"}, {"s", "l"})
        assert len(held) == 3
        await answers.close()
        assert small.closed
        assert large.closed

    asyncio.run(run())


class Down:
    """Something outside that fails until it is mended."""

    def __init__(self, clock: TickingClock) -> None:
        self.breaker = Breaker("it", clock, pause_s=1, pause_s_max=8)
        self.down = True
        self.asked = 0

    def ask(self) -> None:
        if self.breaker.allows():
            self.asked += 1
            if self.down:
                self.breaker.failed("refused")
            else:
                self.breaker.succeeded()


def test_what_has_failed_is_asked_less_and_less_and_again_when_it_works() -> None:
    clock = TickingClock()
    outside = Down(clock)
    with capture_logs() as told:
        for _ in range(600):
            clock.sleep(0.1)
            outside.ask()
        # At once, then after 1, 2, 4, 8, 8, … seconds.
        assert outside.asked == 10
        assert not outside.breaker.closed
        outside.down = False
        clock.sleep(8)
        outside.ask()
        assert outside.breaker.closed
        asked = outside.asked
        for _ in range(50):
            outside.ask()
        assert outside.asked == asked + 50
        outside.down = True
        outside.ask()
        clock.sleep(1)  # the pause begins small again
        outside.ask()
        assert outside.asked == asked + 52
    assert [entry["log_level"] for entry in told] == ["warning", "info", "warning"]


def test_failures_of_those_that_were_asked_before_count_once() -> None:
    clock = TickingClock()
    breaker = Breaker("it", clock, pause_s=1, pause_s_max=8)
    with capture_logs() as told:
        for _ in range(20):
            breaker.failed("slow")
    assert len(told) == 1
    clock.sleep(1)
    # One tries; the others go on without.
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_the_least_lately_used_is_forgotten_first() -> None:
    one = answer(size=1 << 10)
    memory = AnswerMemory(8 << 10)
    for name in "abcd":
        memory.put(name, one)
    assert memory.get("a") is not None
    memory.put("e", one)
    assert [name for name in "abcde" if memory.get(name)] == ["a", "c", "d", "e"]
    assert memory.size == 8 << 10
    assert (memory.counts.hits, memory.counts.misses) == (5, 1)


def test_what_is_put_twice_counts_once_and_what_is_too_large_not_at_all() -> None:
    memory = AnswerMemory(8 << 10)
    memory.put("a", answer(size=5))
    memory.put("a", answer(size=10))
    memory.put("b", answer(size=2 << 10))
    assert (memory.size, memory.get("b")) == ((1 << 10) + 10, None)
    nothing = AnswerMemory(0)
    nothing.put("a", answer())
    assert nothing.get("a") is None


def test_many_tiny_answers_are_bounded_too() -> None:
    memory = AnswerMemory(64 << 10)
    for number in range(10_000):
        memory.put(str(number), answer())
    assert sum(memory.get(str(number)) is not None for number in range(10_000)) < 64


def test_an_answer_that_is_small_is_not_looked_for_where_only_large_ones_are_kept() -> None:
    async def run() -> None:
        large, every = FakeLevel(1 << 30, SMALL_BYTES_MAX + 1), FakeLevel()
        answers = Answers(AnswerMemory(0), [large, every])
        work = Work(answer())
        work.go.set()
        await answers.get("k", Format.JSON, work, no_hold, never, small=True)
        assert (large.asked, every.asked) == (0, 1)
        await settled()
        assert (set(large.kept), set(every.kept)) == (set(), {"k"})
        await answers.get("l", Format.JSON, work, no_hold, never)
        assert (large.asked, every.asked) == (1, 2)

    asyncio.run(run())
