"""Looking at tables: once for all who follow, never missing a commit, and not when nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.step_rows import Wanted
from lakehouse_ray.query.steps import State
from lakehouse_ray.serve.problems import DeadlineError
from lakehouse_ray.serve.streams.courses import Course

T = TypeVar("T")

METRICS = DATASETS["metrics"]
WANTED = Wanted(METRICS, "um", None, frozenset({"BTCUSDT"}))
NAME = "silver.metrics"


class Table:
    """A table whose version a test sets; counts how often it is looked for."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.looks = 0
        self.broken = False
        self.each_look_is_a_commit = False

    def find(self, name: str) -> Any:
        assert name == NAME
        self.looks += 1
        if self.broken:
            raise UnavailableError(f"{name} is away")
        if self.each_look_is_a_commit:
            self.version = self.looks
        snapshot = None if self.version is None else SimpleNamespace(snapshot_id=self.version)
        return SimpleNamespace(
            current_snapshot=lambda: snapshot,
            snapshot_by_id=lambda version: SimpleNamespace(sequence_number=version),
        )


async def nothing(work: Callable[[Any], T]) -> T:
    raise AssertionError("no step was asked for")


def course(table: Table) -> Course:
    return Course(table.find, METRICS, 0.01, nothing)


def version(state: State) -> int | None:
    return state.versions[NAME]


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of a table, which tells nobody
            await asyncio.sleep(0.001)


def test_all_who_follow_hear_of_a_commit_from_one_look() -> None:
    async def follow() -> None:
        table, heard = Table(), [0, 0, 0]
        way = course(table)

        def hear(place: int) -> Any:
            def told() -> None:
                heard[place] += 1

            return told

        listeners = [hear(place) for place in range(3)]
        for told in listeners:
            await way.listen(told, WANTED)
        begin = way.state
        assert (version(begin), table.looks) == (None, 1)
        table.version = 5
        await until(lambda: heard == [1, 1, 1])
        assert version(way.state) == 5
        # Who is where it was is handed the same step.
        step = way.after(begin)
        assert step is not None
        assert way.after(State(dict(begin.pins))) is step
        assert way.after(step.after) is None
        # Nobody goes back who is ahead of what was seen here.
        ahead = SimpleNamespace(
            snapshot_by_id=lambda version: SimpleNamespace(sequence_number=version)
        )
        assert way.after(State({NAME: Pin(METRICS.table(), ahead, 7)})) is None  # type: ignore[arg-type]
        for told in listeners:
            way.leave(told, WANTED)
        await asyncio.sleep(0.03)
        looks = table.looks
        table.version = 6
        await asyncio.sleep(0.05)
        assert table.looks == looks
        await way.listen(listeners[0], WANTED)
        assert version(way.state) == 6
        way.leave(listeners[0], WANTED)

    asyncio.run(follow())


def test_who_begins_at_the_same_time_misses_no_commit() -> None:
    """Every version that is looked at later is a step on the way of each."""

    async def follow() -> None:
        table = Table()
        table.each_look_is_a_commit = True
        way = course(table)
        states: list[State | None] = [None, None]
        told = [asyncio.Event(), asyncio.Event()]

        async def begin(place: int) -> None:
            await way.listen(told[place].set, WANTED)
            states[place] = way.state

        await asyncio.gather(begin(0), begin(1))
        await until(lambda: table.looks > 8)
        for state in states:
            assert state is not None
            seen = [version(state)]
            while (step := way.after(state)) is not None:
                state = step.after
                seen.append(version(state))
            # Of two who began at once one look is of nobody.
            last = seen[-1]
            assert last is not None
            assert last > 5
            assert seen[1:] == list(range(last - len(seen) + 2, last + 1))
        for event in told:
            way.leave(event.set, WANTED)

    asyncio.run(follow())


def test_what_takes_too_long_for_all_is_left_to_each() -> None:
    asked = 0

    async def too_long(work: Callable[[Any], T]) -> T:
        nonlocal asked
        asked += 1
        raise DeadlineError("it took longer than it may")

    async def follow() -> None:
        table, told = Table(), asyncio.Event()
        way = Course(table.find, METRICS, 0.01, too_long)
        await way.listen(told.set, WANTED)
        begin = way.state
        table.version = 3
        await told.wait()
        step = way.after(begin)
        assert step is not None
        found = await asyncio.gather(*(way.changes(step, WANTED) for _ in range(3)))
        assert found == [None, None, None]
        assert asked == 1
        way.leave(told.set, WANTED)

    asyncio.run(follow())


def test_a_table_that_was_away_is_looked_at_again() -> None:
    async def follow() -> None:
        table, told = Table(), asyncio.Event()
        way = course(table)
        await way.listen(told.set, WANTED)
        table.broken = True
        looks = table.looks
        await until(lambda: table.looks > looks + 2)
        table.version, table.broken = 9, False
        async with asyncio.timeout(20):
            await told.wait()
        way.leave(told.set, WANTED)

    asyncio.run(follow())
