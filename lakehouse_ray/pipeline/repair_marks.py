"""What a repair tells the logs: objects to be read again, answers to be merged again, units to be built
again. All of it is committed before anything is taken out of a table.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence

import polars as pl

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.gold.log import read_builds
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.lake import BUILD_LOG, OBJECT_LOG
from lakehouse_ray.model.product import ALL_SYMBOLS, Product
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.venue import MARKETS
from lakehouse_ray.pipeline.commits import Committers
from lakehouse_ray.pipeline.remaking import CLOCKS_APART_US, wanted_rows
from lakehouse_ray.storage.files import FileEntry
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import log_request, plain_rows, read_object_log

# Of a decoder that never was: an object read by it is read again.
NO_DECODER = 0
# Rows that no unit was ever made from: it is built again.
NOT_BUILT = -1
# What tells answers of REST apart in the ledger.
_ANSWER = ("key", "version", "unit_id")
_SYMBOLS_NAMED_MAX = 20


class Marks:
    """Objects that have to be read again from bronze, units that have to be built again."""

    def __init__(self, writer: Writer, run_id: str, repaired: Table) -> None:
        self._writer = writer
        # A run commits each id once: those of another table's repair are others.
        self._id = f"repair-{repaired.name}"
        self._run_id = run_id
        # By table and partition.
        self._rows: dict[tuple[str, str, str], list[pl.DataFrame]] = defaultdict(list)
        self._answered = frame_schema(OBJECT_LOG).to_frame().select(_ANSWER)
        self.objects = 0
        self.answers = 0
        self.missing: list[str] = []
        self.commands: list[str] = []

    @property
    def logs(self) -> list[Table]:
        """Those that something has to be told."""
        names = {name for name, _, _ in self._rows}
        return [log for log in (OBJECT_LOG, BUILD_LOG) if log.name in names]

    def gather_since(self, dataset: Dataset, shape: Table, since_us: int) -> None:
        """Objects that were merged into a table since."""
        if shape.live:
            return
        for market in dict.fromkeys((*dataset.archive, *MARKETS)):
            log = read_object_log(self._writer.catalog, market, dataset.name, None)
            late = pl.col("seen_at").dt.epoch("us") >= since_us
            self._mark_answers(dataset, market, _last_answers(log).filter(late))
            for (interval,), part in log.partition_by("interval", as_dict=True).items():
                name = None if interval is None else str(interval)
                if dataset.table(name).name == shape.name:
                    built = _last_built(part, dataset)
                    self._mark(dataset, market, name, built.filter(late))

    def gather_objects(self, dataset: Dataset, shape: Table, lost: Sequence[FileEntry]) -> None:
        series: dict[tuple[str, str | None], list[FileEntry]] = defaultdict(list)
        for file in lost:
            values = {
                partition.column: value
                for partition, value in zip(shape.partitions, file.region.partition, strict=True)
                if partition.transform == "identity"
            }
            interval = values.get("interval")
            series[str(values["market"]), None if interval is None else str(interval)].append(file)
        for (market, interval), files in series.items():
            log = read_object_log(self._writer.catalog, market, dataset.name, interval)
            built = _last_built(log, dataset)
            touched = built.filter(pl.any_horizontal(_touches(file) for file in files))
            self._mark(dataset, market, interval, touched)

    def gather_answers(self, dataset: Dataset, shape: Table, lost: Sequence[FileEntry]) -> None:
        """Answers of REST of the files' symbols that came since the files' times."""
        for one in wanted_rows(shape, lost):
            log = read_object_log(self._writer.catalog, one.market, dataset.name, one.interval)
            symbol = pl.col("symbol").is_between(pl.lit(one.first_symbol), pl.lit(one.last_symbol))
            came = pl.col("period_start").dt.epoch("us") >= one.first_us - CLOCKS_APART_US
            self._mark_answers(dataset, one.market, _last_answers(log).filter(symbol & came))

    def _mark_answers(self, dataset: Dataset, market: str, answers: pl.DataFrame) -> None:
        rows = answers.join(self._answered, on=_ANSWER, how="anti")
        if rows.is_empty():
            return
        self._answered = pl.concat([self._answered, rows.select(_ANSWER)])
        self.answers += rows.height
        paths = rows["path"].unique().to_list()
        self.missing += [path for path in paths if not self._writer.store.exists(path)]
        told = self._later(rows).with_columns(state=pl.lit("received"), fetched=pl.lit(False))
        self._rows[OBJECT_LOG.name, market, dataset.name].append(told)

    def _later(self, events: pl.DataFrame) -> pl.DataFrame:
        """Events told by this run after those that there are, whatever the clocks of others said."""
        now = pl.lit(self._writer.clock.now_us()).cast(pl.Datetime("us", "UTC"))
        after = pl.col("seen_at") + pl.duration(microseconds=1)
        return events.with_columns(
            seen_at=pl.max_horizontal(now, after), run_id=pl.lit(self._run_id)
        )

    def _mark(
        self, dataset: Dataset, market: str, interval: str | None, touched: pl.DataFrame
    ) -> None:
        paths = touched["path"].to_list()
        self.missing += [path for path in paths if not self._writer.store.exists(path)]
        if touched.is_empty():
            return
        self.objects += touched.height
        rows = self._later(touched.drop("_start", "_end")).with_columns(
            decoder_version=pl.lit(NO_DECODER, pl.Int32),
            unit_id=pl.lit("repair"),
            fetched=pl.lit(False),
        )
        self._rows[OBJECT_LOG.name, market, dataset.name].append(rows)
        self.commands.append(_command(dataset, market, interval, touched["symbol"].to_list()))

    def gather_units(self, product: Product, shape: Table, lost: Sequence[FileEntry] | None) -> int:
        """All periods of the symbols that the files may hold; returns how many units that is.

        lost: None: all units.
        """
        regions = [file.region for file in lost or ()]
        by_symbol = lost is not None and shape.sort[0] == "symbol"
        now_us = self._writer.clock.now_us()
        rows: dict[str, list[dict[str, object]]] = defaultdict(list)
        for unit, last in read_builds(self._writer.catalog, product).items():
            own = any(r.lead_min <= unit.symbol <= r.lead_max for r in regions)
            if by_symbol and unit.symbol != ALL_SYMBOLS and not own:
                continue
            rows[unit.market].append(
                {
                    "product": product.name, "market": unit.market, "interval": unit.interval,
                    "symbol": unit.symbol, "period": unit.period, "version": product.version,
                    "fingerprint": "", "content": "", "rows_read": NOT_BUILT, "rows": last.rows,
                    "output_sequence": last.output_sequence, "run_id": self._run_id,
                    "built_at": now_us,
                }
            )  # fmt: skip
        for market, units in rows.items():
            frame = plain_rows(BUILD_LOG, units)
            self._rows[BUILD_LOG.name, product.name, market].append(frame)
        return sum(map(len, rows.values()))

    def commit(self, committers: Committers) -> None:
        logs = {log.name: log for log in (OBJECT_LOG, BUILD_LOG)}
        for number, ((name, *partition), frames) in enumerate(self._rows.items()):
            rows = pl.concat(frames)
            request = log_request(
                logs[name], self._writer.store, rows, tuple(partition), f"{self._id}-{number}"
            )
            committers.commit(logs[name], [request])


def _last_built(log: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """The last event of each object by which it is in silver, and the times that it may have rows of."""
    start = pl.col("period_start")
    end = pl.when(pl.col("freq") == "monthly").then(start.dt.offset_by("1mo"))
    return (
        log.filter(state="built")
        .filter(pl.col("freq").is_in(["daily", "monthly"]))
        .group_by("key", maintain_order=True)
        .last()
        .select(log.columns)
        .with_columns(
            _start=start.dt.epoch("us"),
            _end=end.otherwise(start.dt.offset_by("1d")).dt.epoch("us") + dataset.slack_us,
        )
    )


def _last_answers(log: pl.DataFrame) -> pl.DataFrame:
    """The last event of each fill that has answers in bronze; what was refused gave no rows."""
    last = log.filter(freq="rest").group_by(_ANSWER, maintain_order=True).last()
    return last.filter(pl.col("state") != "quarantined").select(log.columns)


def _touches(file: FileEntry) -> pl.Expr:
    region = file.region
    return (
        pl.col("symbol").is_between(pl.lit(region.lead_min), pl.lit(region.lead_max))
        & (pl.col("_start") <= region.time_max_us)
        & (pl.col("_end") >= region.time_min_us)
    )


def _command(dataset: Dataset, market: str, interval: str | None, symbols: list[str]) -> str:
    words = ["lakehouse", "ingest", "--market", market, "--dataset", dataset.name]
    if interval is not None:
        words += ["--interval", interval]
    named = sorted(set(symbols))
    if 0 < len(named) <= _SYMBOLS_NAMED_MAX:
        words += ["--symbols", ",".join(named)]
    return shlex.join(words)
