"""Live rows of closed hours on their way from the hot tables to the main ones.

    hot files that end before a moment -> rows -> the main tables -> the files dropped

Files are folded as a whole and never rewritten. First the rows are committed to the main tables,
then their files are dropped: in between they are in both, and views show them once (`query.live`).
Whoever dies there leaves work that is found done when it is repeated.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby

import polars as pl
from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import HOUR_US
from lakehouse_ray.pipeline.commits import Committers, open_committers
from lakehouse_ray.pipeline.fold_report import FoldReport
from lakehouse_ray.pipeline.hot_rows import give_up_snapshots
from lakehouse_ray.pipeline.measured import measures_of
from lakehouse_ray.pipeline.row_merging import RowMerger, tables_of
from lakehouse_ray.pipeline.run_measures import RunMeasures
from lakehouse_ray.silver.given_rows import rows_schema
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import FileEntry, index_files
from lakehouse_ray.storage.groups import DAMAGE, Footers, GroupReader
from lakehouse_ray.storage.objects import ObjectStore


def closed_until_us(writer: Writer) -> int:
    """The end of the last hour whose live rows are due to be folded."""
    settle_us = round(writer.settings.hot.settle_s * 1_000_000)
    return (writer.clock.now_us() - settle_us) // HOUR_US * HOUR_US


def _never() -> bool:
    return False


def fold(
    writer: Writer,
    until_us: int | None = None,
    *,
    dry_run: bool = False,
    stopped: Callable[[], bool] = _never,
) -> FoldReport:
    """Fold live rows of all data sets; running it again changes nothing.

    until_us: None: `closed_until_us`. dry_run: Count files and rows, and write nothing.
    stopped: Asked before each batch; what is left then is folded the next time.

    Raises LakehouseError where the lake cannot be written; what was folded until then stays.
    """
    started_s = time.monotonic()
    report = FoldReport(
        closed_until_us(writer) if until_us is None else until_us,
        f"{writer.clock.now_us():x}-{uuid.uuid4().hex[:8]}",
    )
    measures = measures_of("fold", report, writer.clock)
    with nullcontext() if dry_run else measures:
        for dataset in DATASETS.values():
            hot = dataset.hot_table
            found = None if hot is None else writer.catalog.find(hot.name)
            if hot is not None and found is not None:
                one = _Fold(writer, dataset, hot, found, report, stopped, measures)
                one.run(dry_run=dry_run)
    report.seconds = time.monotonic() - started_s
    return report


class _Fold:
    """One data set's fold."""

    def __init__(
        self,
        writer: Writer,
        dataset: Dataset,
        hot: Table,
        found: IcebergTable,
        report: FoldReport,
        stopped: Callable[[], bool],
        measures: RunMeasures,
    ) -> None:
        self._stopped = stopped
        self._writer = writer
        self._dataset = dataset
        self._hot = hot
        self._found = found
        self._report = report
        self._run_id = report.run_id
        self._measures = measures

    def run(self, *, dry_run: bool) -> None:
        entries = list(index_files(self._hot, self._found))
        closed = [e for e in entries if e.region.time_max_us < self._report.until_us]
        self._report.files_left += len(entries) - len(closed)
        if dry_run:
            self._report.files += len(closed)
            self._report.rows += sum(entry.rows for entry in closed)
            return
        if closed:
            tables = (self._hot, *tables_of(self._dataset))
            with open_committers(self._writer, tables, self._run_id, local=True) as committers:
                merger = RowMerger(self._writer, committers, self._run_id)
                for batch in batches(closed, self._writer.settings.hot.batch_rows):
                    if self._stopped():
                        break
                    self._fold(batch, merger, committers)
                    self._measures.advanced()
                self._report.merged.add(merger.report)
        give_up_snapshots(self._writer, self._hot)

    def _fold(self, batch: Sequence[FileEntry], merger: RowMerger, committers: Committers) -> None:
        rows, read, lost = read_rows(self._writer.store, self._hot, batch)
        self._report.unreadable += lost
        if not read:
            return
        merger.merge(self._dataset, rows.select(rows_schema(self._dataset).names()))
        paths = tuple(entry.path for entry in read)
        name = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]
        (outcome,) = committers.commit(self._hot, [CommitRequest(name, (), paths)])
        if outcome.committed:
            self._report.files += len(read)
            self._report.rows += rows.height
        # Else another fold has dropped some of them, and what it left is folded the next time.


def batches(entries: Sequence[FileEntry], rows_max: int) -> Iterator[list[FileEntry]]:
    """Cut files into batches of one partition and about so many rows, the oldest first."""
    ordered = sorted(entries, key=lambda e: (str(e.region.partition), e.region.time_min_us, e.path))
    for _, members in groupby(ordered, key=lambda e: e.region.partition):
        batch: list[FileEntry] = []
        rows = 0
        for entry in members:
            if batch and rows + entry.rows > rows_max:
                yield batch
                batch, rows = [], 0
            batch.append(entry)
            rows += entry.rows
        yield batch


def read_rows(
    store: ObjectStore, table: Table, entries: Sequence[FileEntry]
) -> tuple[pl.DataFrame, list[FileEntry], list[str]]:
    """Return the rows of files, the files that could be read, and why others could not."""
    frames: list[pl.DataFrame] = []
    read: list[FileEntry] = []
    lost: list[str] = []
    with GroupReader(store) as reader:
        for entry in entries:
            try:
                groups = Footers(store).groups(table, [entry])
                frames += [reader.read(table, group, table.names) for group in groups]
            except DAMAGE as error:
                lost.append(f"{entry.path}: {error}")
                continue
            read.append(entry)
    return (pl.concat(frames) if frames else pl.DataFrame()), read, lost
