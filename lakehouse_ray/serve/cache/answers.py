"""Answers by their key: from memory, from Redis, from the store, or by work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from lakehouse_ray.serve.cache.flights import Flights, Gone
from lakehouse_ray.serve.cache.level import SMALL_BYTES_MAX, Level
from lakehouse_ray.serve.cache.memory import AnswerMemory
from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.formats import Format

# Answers that wait to be kept elsewhere; beyond, they are not. They are small, or on disk.
_WAITING_MAX = 16


class Answers:
    """For one event loop.

    A key names all that an answer depends on (`answers.key_of`), so what is found is never stale.
    """

    def __init__(self, memory: AnswerMemory, levels: Sequence[Level]) -> None:
        """levels: Asked one after the other, the nearest first."""
        self.memory = memory
        self.levels = levels
        self.flights: Flights[Written] = Flights()
        self.unkept = 0
        self._keeping: set[asyncio.Task[None]] = set()

    async def get(
        self,
        key: str,
        form: Format,
        work: Callable[[Gone], Awaitable[Written]],
        hold: Callable[[Written], None],
        gone: Gone,
        *,
        small: bool = False,
    ) -> Written:
        """Return the answer under a key.

        work: Makes it, where it is nowhere; given what returns when nobody waits for it any more.
        hold: Told of an answer before it is handed out; may raise. gone: Returns when the client
            has hung up. small: Whether it has `SMALL_BYTES_MAX` at most: where such answers are
            never kept it is not looked for, which costs a request to a bucket.

        Raises what `work` and `hold` raise, or GoneAwayError.
        """
        found = self.memory.get(key)
        if found is not None:
            return found

        levels = [one for one in self.levels if not small or one.takes(SMALL_BYTES_MAX)]

        async def obtain(deserted: Gone) -> Written:
            for level in levels:
                kept = await level.get(key, form)
                if kept is not None:
                    hold(kept)
                    self.memory.put(key, kept)
                    return kept
            made = await work(deserted)
            hold(made)
            self.memory.put(key, made)
            self._keep(levels, key, made)
            return made

        return await self.flights.join(key, obtain, gone)

    def _keep(self, levels: Sequence[Level], key: str, made: Written) -> None:
        """Put an answer where others find it, while its client is answered."""
        for level in levels:
            if not level.takes(made.whole.size):
                continue
            if len(self._keeping) >= _WAITING_MAX:
                self.unkept += 1
                continue
            task = asyncio.ensure_future(level.put(key, made))
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

    async def close(self) -> None:
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for level in self.levels:
            await level.close()
