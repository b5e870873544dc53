"""Live rows into the hot tables, as a capture hands them over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl
import structlog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.pipeline.commits import Committers
from lakehouse_ray.silver.hot import build_hot, hot_table
from lakehouse_ray.storage.expiry import give_up

_log = structlog.get_logger()

# Of one table.
_APPENDS_PER_EXPIRY = 60


def hot_tables_of(datasets: Iterable[Dataset]) -> tuple[Table, ...]:
    """Tables whose committers appending live rows of these data sets needs."""
    return (*(hot_table(dataset) for dataset in datasets), QUARANTINE)


def give_up_snapshots(writer: Writer, table: Table) -> None:
    """Expire old snapshots of a hot table: each append makes one, and each makes the next slower."""
    found = writer.catalog.find(table.name)
    if found is None:
        return
    kept_ms = round(writer.settings.hot.snapshots_kept_s * 1000)
    reader_ms = round(writer.settings.maintain.reader_age_s * 1000)
    try:
        give_up(found, kept_ms, reader_ms, writer.clock, attempts_max=1)
    except UnavailableError as error:
        # Rows came in at that moment: it is tried again.
        _log.info("snapshots stay for now", table=table.name, reason=str(error))


class HotWriter:
    """Appends live rows and makes them visible. Not for several threads.

    committers: Of the tables of `hot_tables_of`.
    """

    def __init__(self, writer: Writer, committers: Committers, run_id: str) -> None:
        self._writer = writer
        self._committers = committers
        self._run_id = run_id
        self._appends: Counter[Table] = Counter()
        self.rows = 0
        self.rows_refused = 0

    def append(self, frames: Mapping[str, pl.DataFrame], request_id: str) -> None:
        """Append rows by the name of their data set; each table is one commit.

        frames: Of any markets, symbols and intervals, see `silver.given_rows.checked_rows`.
        request_id: Of the rows. Asked again in this run nothing is added; in a later one rows are
            there twice until they are folded, which no view shows.

        Raises UnavailableError where a commit's outcome stays unknown: append the same again.
        """
        store, now_us = self._writer.store, self._writer.clock.now_us()
        for name, frame in frames.items():
            built = build_hot(
                store, DATASETS[name], frame, request_id, run_id=self._run_id, now_us=now_us
            )
            if not built.hot.empty:
                self._committers.commit(built.table, [built.hot])
                self._appends[built.table] += 1
                if self._appends[built.table] % _APPENDS_PER_EXPIRY == 0:
                    give_up_snapshots(self._writer, built.table)
            if built.quarantine:
                self._committers.commit(QUARANTINE, built.quarantine)
            self.rows += built.rows
            self.rows_refused += built.rows_refused
