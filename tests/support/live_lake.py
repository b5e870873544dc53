"""A lake whose rows come live, by REST and from the archive, without any exchange."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
from support.failing import FailingWriter

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.model.timespan import MINUTE_US
from lakehouse_ray.pipeline.commits import TableCommitter, open_committers
from lakehouse_ray.pipeline.hot_rows import HotWriter, hot_tables_of
from lakehouse_ray.pipeline.row_merging import RowMerger, RowsMerged, tables_of
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.settings import load_settings
from lakehouse_ray.storage.ledger import log_request, plain_rows

_numbers = itertools.count()
Around = Mapping[str, Callable[[TableCommitter], TableCommitter]]


class LiveLake:
    """One lake in a folder."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def writer(self, around: Around | None = None) -> Writer:
        """around: What stands around the committers of tables."""
        kind = Writer if around is None else FailingWriter
        writer = kind(load_settings({"home": self.home}).resolved())
        if around is not None:
            object.__setattr__(writer, "around", around)
        return writer

    def connect(self) -> Lake:
        return lh.connect(self.home)

    def append(self, dataset: Dataset, frame: pl.DataFrame) -> HotWriter:
        """Live rows into the hot table."""
        writer, run = self.writer(), f"live-{next(_numbers)}"
        with open_committers(writer, hot_tables_of([dataset]), run, local=True) as committers:
            hot = HotWriter(writer, committers, run)
            hot.append({dataset.name: frame}, "rows")
            return hot

    def gap(
        self, dataset: str, symbol: str, start_us: int, end_us: int, *, interval: str = ""
    ) -> None:
        """What a capture writes where messages did not come: here one a minute."""
        writer, run = self.writer(), f"gap-{next(_numbers)}"
        row = {
            "market": "spot", "dataset": dataset, "symbol": symbol, "interval": interval,
            "start_time": start_us, "end_time": end_us, "missing": (end_us - start_us) // MINUTE_US,
            "why": "the connection was lost", "run_id": run, "found_at": end_us,
        }  # fmt: skip
        rows = plain_rows(STREAM_GAPS, [row])
        request = log_request(STREAM_GAPS, writer.store, rows, ("spot", dataset), run)
        with open_committers(writer, [STREAM_GAPS], run, local=True) as committers:
            committers.commit(STREAM_GAPS, [request])

    def merge(self, dataset: Dataset, frame: pl.DataFrame) -> RowsMerged:
        """Rows into the main tables."""
        writer, run = self.writer(), f"merge-{next(_numbers)}"
        with open_committers(writer, tables_of(dataset), run, local=True) as committers:
            merger = RowMerger(writer, committers, run)
            merger.merge(dataset, frame)
            return merger.report
