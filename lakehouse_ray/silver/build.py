"""Building silver from the objects of one unit.

Symbol by symbol: open, decode, merge with what the table has, write. Nothing is visible until the
request that comes back is committed; a repeated build of the same objects changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.work import RawObject, Unit
from lakehouse_ray.silver.quarantine import Refusals
from lakehouse_ray.silver.unit_work import Built, FetchMore, Means, UnitWork
from lakehouse_ray.sources.source import ObjectDecoder
from lakehouse_ray.storage.files import FileEntry
from lakehouse_ray.storage.objects import ObjectStore


class SilverBuilder:
    """Builds units with one store and one set of decoding rules. Keeps nothing between units."""

    def __init__(
        self,
        store: ObjectStore,
        decoder: ObjectDecoder,
        datasets: dict[str, Dataset],
        *,
        csv_bytes_in_memory: int,
    ) -> None:
        self._means = Means(store, decoder, csv_bytes_in_memory)
        self._datasets = datasets

    def build(
        self,
        unit: Unit,
        raw: Sequence[RawObject],
        seen: Sequence[FileEntry],
        fetch_more: FetchMore,
        *,
        run_id: str,
        now_us: int,
    ) -> Built:
        """Return the files of a unit, written but not visible.

        raw: The unit's objects but for its candidates, whatever became of them.
        seen: Files of the table that overlap the unit's regions.
        fetch_more: Brings candidates that turn out to be needed.
        """
        dataset = self._datasets[unit.dataset]
        by_symbol: dict[str, list[RawObject]] = defaultdict(list)
        for item in raw:
            by_symbol[item.result.task.symbol].append(item)
        refusals = Refusals(unit.market, unit.dataset, unit.interval, run_id, now_us)
        with ExitStack() as stack:
            work = UnitWork(self._means, dataset, unit, seen, fetch_more, refusals, stack)
            for symbol in unit.symbols:
                work.add_symbol(symbol, by_symbol[symbol])
            work.rewrite_files()
        return work.built()
