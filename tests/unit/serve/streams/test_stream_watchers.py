"""Looking at tables: once for all who listen, never missing a commit, and not when nobody does."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.serve.streams.watchers import Watchers


class Table:
    """A table whose version a test sets; counts how often it is looked for."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.looks = 0
        self.broken = False
        self.each_look_is_a_commit = False

    def find(self, name: str) -> Any:
        self.looks += 1
        if self.broken:
            raise UnavailableError(f"{name} is away")
        if self.each_look_is_a_commit:
            self.version = self.looks
        snapshot = None if self.version is None else SimpleNamespace(snapshot_id=self.version)
        return SimpleNamespace(current_snapshot=lambda: snapshot)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of a table, which tells nobody
            await asyncio.sleep(0.001)


def test_all_listeners_hear_of_a_commit_from_one_look() -> None:
    async def watch() -> None:
        table, heard = Table(), [0, 0, 0]
        watcher = Watchers(table.find, 0.01).of("silver.trades")

        def hear(place: int) -> Any:
            def told() -> None:
                heard[place] += 1

            return told

        listeners = [hear(place) for place in range(3)]
        for told in listeners:
            await watcher.listen(told)
        assert (watcher.snapshot_id, table.looks) == (None, 1)
        table.version = 5
        await until(lambda: heard == [1, 1, 1])
        assert (watcher.snapshot_id, watcher.commits) == (5, 1)
        for told in listeners:
            watcher.leave(told)
        await asyncio.sleep(0.03)
        looks = table.looks
        table.version = 6
        await asyncio.sleep(0.05)
        assert table.looks == looks
        await watcher.listen(listeners[0])
        assert watcher.snapshot_id == 6
        watcher.leave(listeners[0])

    asyncio.run(watch())


def test_who_begins_at_the_same_time_misses_no_commit() -> None:
    """Whoever saw another version than the watcher has now was told so."""

    async def watch() -> None:
        table = Table()
        table.each_look_is_a_commit = True
        watcher = Watchers(table.find, 0.01).of("silver.trades")
        told: list[asyncio.Event] = [asyncio.Event(), asyncio.Event()]
        seen: list[int | None] = [None, None]

        async def begin(place: int) -> None:
            await watcher.listen(told[place].set)
            seen[place] = watcher.snapshot_id

        await asyncio.gather(begin(0), begin(1))
        for place in (0, 1):
            assert told[place].is_set() or seen[place] == watcher.snapshot_id
        await asyncio.gather(*(event.wait() for event in told))
        for event in told:
            watcher.leave(event.set)

    asyncio.run(watch())


def test_a_table_that_was_away_is_looked_at_again() -> None:
    async def watch() -> None:
        table, told = Table(), asyncio.Event()
        watcher = Watchers(table.find, 0.005).of("silver.trades")
        await watcher.listen(told.set)
        table.broken = True
        looks = table.looks
        await until(lambda: table.looks > looks + 2)
        table.version, table.broken = 9, False
        async with asyncio.timeout(20):
            await told.wait()
        watcher.leave(told.set)

    asyncio.run(watch())
