"""One look at each table that somebody listens to, however many do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.query.pins import FindTable

_log = structlog.get_logger()


class Watcher:
    """Looks at a table every now and then, from the first listener to the last.

    snapshot_id: What was seen last; None: no rows. commits: How often it was another one.
    """

    def __init__(self, find: FindTable, name: str, every_s: float) -> None:
        self._find = find
        self._name = name
        self._every_s = every_s
        self._listeners: list[Callable[[], None]] = []
        self._looking: asyncio.Task[None] | None = None
        self.snapshot_id: int | None = None
        self.commits = 0

    @property
    def idle(self) -> bool:
        return not self._listeners

    async def listen(self, told: Callable[[], None]) -> None:
        """Call `told` after each commit. Returns when the table has been looked at.

        Raises LakehouseError where it cannot be.
        """
        if self._looking is None:
            seen = await asyncio.to_thread(self._look)
            # Another one may have been quicker, and knows what it saw.
            if self._looking is None:
                self.snapshot_id = seen
                self._looking = asyncio.ensure_future(self._watch())
        self._listeners.append(told)

    def leave(self, told: Callable[[], None]) -> None:
        self._listeners.remove(told)
        if self.idle and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                now = await asyncio.to_thread(self._look)
            except Exception as error:  # noqa: BLE001 - the next look may find it well again
                _log.warning("a table cannot be watched", table=self._name, reason=str(error))
                continue
            if now != self.snapshot_id:
                self.snapshot_id = now
                self.commits += 1
                for told in list(self._listeners):
                    told()

    def _look(self) -> int | None:
        return snapshot_of(self._find(self._name))


def snapshot_of(table: IcebergTable | None) -> int | None:
    snapshot = table.current_snapshot() if table is not None else None
    return snapshot.snapshot_id if snapshot is not None else None


class Watchers:
    """All watchers of a process, by table."""

    def __init__(self, find: FindTable, every_s: float) -> None:
        self._find = find
        self._every_s = every_s
        self._known: dict[str, Watcher] = {}

    @property
    def watching(self) -> int:
        return sum(not watcher.idle for watcher in self._known.values())

    def of(self, name: str) -> Watcher:
        if name not in self._known:
            self._known[name] = Watcher(self._find, name, self._every_s)
        return self._known[name]
