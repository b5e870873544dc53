"""What a worker does of a real-time update: it asks, and puts the answers into bronze."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lakehouse_ray.assembly.logs import configure_logs
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.bronze.fill_plan import FillUnit, Planned
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.pipeline.execution import check_store
from lakehouse_ray.sources.rest import Fetched
from lakehouse_ray.storage.answers import Kept, Pack, keep
from lakehouse_ray.storage.paths import run_of_marker
from lakehouse_ray.telemetry.logs import at_work


@dataclass(frozen=True)
class Ended:
    """What became of one fill of a unit.

    reason, detail: Why it was given up before its end; empty: all there is was had.
    left_open: Rows that were left for later.
    """

    fill: Fill
    reason: str = ""
    detail: str = ""
    requests: int = 0
    left_open: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AskedUnit:
    """What a worker hands back of a unit. pack: None where nothing was answered."""

    unit: FillUnit
    pack: Pack | None
    ended: tuple[Ended, ...]


@dataclass(frozen=True)
class UnitTask:
    unit: FillUnit


class FillWorker:
    """What a worker has: the exchange's REST, and bronze."""

    def __init__(self, writer: Writer, account: KeptBudget) -> None:
        self._writer = writer
        self._account = account

    def process(self, task: UnitTask) -> AskedUnit:
        """Ask for a unit's fills, several beside each other, and put the answers into bronze."""
        fetched = asyncio.run(self._fetch(task.unit))
        ended = tuple(
            Ended(
                one.fill,
                one.reason,
                one.detail,
                len(one.answers),
                one.rows.left_open,
                tuple(one.rows.notes),
            )
            for one in fetched
        )
        answered = [
            Kept(one.fill, one.answers, one.spoiled)
            for one in fetched
            if one.answers or one.spoiled is not None
        ]
        pack = None
        if answered:
            pack = keep(self._writer.store, answered, self._writer.clock.now_us())
        return AskedUnit(task.unit, pack, ended)

    async def _fetch(self, unit: FillUnit) -> list[Fetched]:
        client = self._writer.rest_client()
        places = asyncio.Semaphore(self._writer.settings.update.requests_in_flight)
        rest = self._writer.rest(client, self._account)

        async def one(planned: Planned) -> Fetched:
            async with places:
                return await rest.fetch(planned.fill)

        try:
            return list(await asyncio.gather(*(one(planned) for planned in unit.fills)))
        finally:
            await client.close()


@dataclass(frozen=True)
class Setup:
    """Makes a worker; pickles. account: Of the cluster, or of this process."""

    writer: Writer
    account: KeptBudget
    marker: str

    def __call__(self) -> FillWorker:
        check_store(self.writer, self.marker)
        configure_logs(self.writer.settings, run_id=run_of_marker(self.marker) or "")
        return FillWorker(self.writer, self.account)


def process(worker: FillWorker, task: UnitTask) -> AskedUnit:
    with at_work("unit", unit=task.unit.name):
        return worker.process(task)
