"""Tables in numbers for a monitor: how much, when last written to, and how far their rows go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Snapshot

from lakehouse_ray.kernels.cadence import observed_pause_us
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.query.pins import FindTable
from lakehouse_ray.query.views import TABLES
from lakehouse_ray.storage.catalog import MAINTENANCE_PROPERTY
from lakehouse_ray.storage.files import index_files
from lakehouse_ray.telemetry.metrics import (
    NEWEST_ROW_AT,
    TABLE_BYTES,
    TABLE_COMMIT_AT,
    TABLE_FILES,
    TABLE_ROWS,
    MetricShape,
    Samples,
)

_DATASETS = {
    table.name: dataset.name for dataset in DATASETS.values() for table in dataset.stored_tables
}
_SUMMED = (
    (TABLE_ROWS, "total-records"), (TABLE_BYTES, "total-files-size"), (TABLE_FILES, "total-data-files"),
)  # fmt: skip


class TableMetrics:
    """Reads what changed since it last looked. Not for several threads."""

    def __init__(self, find: FindTable) -> None:
        self._find = find
        self._seen: dict[str, int] = {}
        self._newest: dict[str, dict[tuple[str, ...], float]] = {}
        self._commits: dict[str, list[int]] = {}

    def look(self) -> Iterator[tuple[MetricShape, Samples]]:
        """Raises LakehouseError where the catalog or the store does not answer."""
        found: dict[MetricShape, dict[tuple[str, ...], float]] = {
            shape: {} for shape in (TABLE_COMMIT_AT, NEWEST_ROW_AT, *(s for s, _ in _SUMMED))
        }
        for name, shape in TABLES.items():
            table = self._find(name)
            snapshot = None if table is None else table.current_snapshot()
            if table is None or snapshot is None:
                continue
            commits = [one.timestamp_ms for one in table.metadata.snapshots if _brings_rows(one)]
            # One that was looked after since may remember nothing else.
            found[TABLE_COMMIT_AT][(name,)] = max(commits, default=snapshot.timestamp_ms) / 1000
            if name in _DATASETS:
                self._commits[name] = [at_ms * 1000 for at_ms in commits]
            for metric, key in _SUMMED:
                told = snapshot.summary.get(key) if snapshot.summary else None
                if told is not None:
                    found[metric][(name,)] = float(told)
            if name in _DATASETS and self._seen.get(name) != snapshot.snapshot_id:
                self._newest[name] = _newest(shape, table)
                self._seen[name] = snapshot.snapshot_id
        for labels, at_s in _pairs(self._newest.values()):
            found[NEWEST_ROW_AT][labels] = max(at_s, found[NEWEST_ROW_AT].get(labels, 0.0))
        yield from found.items()

    def pause_us(self, now_us: int) -> int | None:
        """The usual pause between publications of the last week, as it was last looked; None where
        there was none."""
        since_us = now_us - 7 * DAY_US
        times = {at_us for table in self._commits.values() for at_us in table if at_us >= since_us}
        return observed_pause_us(times)


def _brings_rows(snapshot: Snapshot) -> bool:
    """Whether rows came with it: not where files were written together, moved or taken away."""
    summary = snapshot.summary
    if summary is None or summary.get(MAINTENANCE_PROPERTY):
        return False
    return int(summary.get("added-records") or 0) > 0


def _newest(shape: Table, table: IcebergTable) -> dict[tuple[str, ...], float]:
    """The time of the newest row by market, data set and interval: from the bounds of its files."""
    places = {p.column: i for i, p in enumerate(shape.partitions) if p.transform == "identity"}
    newest: dict[tuple[str, ...], float] = {}
    for entry in index_files(shape, table):
        key = entry.region.partition
        interval = str(key[places["interval"]]) if "interval" in places else ""
        labels = str(key[places["market"]]), _DATASETS[shape.name], interval
        newest[labels] = max(newest.get(labels, 0.0), entry.region.time_max_us / 1e6)
    return newest


def _pairs(
    tables: Iterable[dict[tuple[str, ...], float]],
) -> Iterator[tuple[tuple[str, ...], float]]:
    for table in tables:
        yield from table.items()
