"""Mending what is lost of a table: data files that are gone, cut, or damaged.

The rows of an archive's object are in bronze as bytes. So a lost file of silver is taken out of its
table, after the ledger was told that every object which may have had rows in it has to be read
again: the next ingestion merges them from bronze, as after a change of the decoder. Likewise for derived
tables: their log is told that the units which may have had rows in the file are not built. What is made
from nothing else cannot be mended, and is left as it is.
"""

from __future__ import annotations

import shlex
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl
from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import LakehouseError, NotFoundError
from lakehouse_ray.gold.log import read_builds
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import BUILD_LOG, OBJECT_LOG
from lakehouse_ray.model.product import ALL_SYMBOLS, Product
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.pipeline.commits import Committers, open_committers
from lakehouse_ray.query.verify_advice import remake
from lakehouse_ray.query.views import TABLES
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import FileEntry, data_files, index_files
from lakehouse_ray.storage.groups import DAMAGE, Footers, GroupReader, lost_file, relative_path
from lakehouse_ray.storage.ledger import log_request, plain_rows, read_object_log
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.paths import table_folder

# Of a decoder that never was: an object read by it is read again.
NO_DECODER = 0
# Rows that no unit was ever made from: it is built again.
NOT_BUILT = -1
# Clocks of machines that write to one lake.
CLOCKS_APART_US = 3_600_000_000
_SYMBOLS_NAMED_MAX = 20

_DATASETS = {table.name: dataset for dataset in DATASETS.values() for table in dataset.tables}
_PRODUCTS = {product.table.name: product for product in PRODUCTS.values()}


@dataclass
class Repair:
    """What became of one table's lost files.

    lost: By path below the store's root. rows: They had.
    mended: Whether they were taken out of the table (in a plan: can be).
    refused: Why not.
    set_back_to: Its metadata is lost, and this is the time of the version before; one commit is lost.
    objects: Of bronze, whose rows are merged again. units: Of a derived table, built again. then: The commands that make the rows anew.
    """

    table: str
    lost: list[str] = field(default_factory=list)
    rows: int = 0
    mended: bool = False
    refused: str = ""
    set_back_to: str = ""
    objects: int = 0
    units: int = 0
    then: list[str] = field(default_factory=list)


@dataclass
class RepairReport:
    """All tables of which something is lost."""

    dry_run: bool = False
    run_id: str = ""
    seconds: float = 0.0
    tables: int = 0
    repairs: list[Repair] = field(default_factory=list)

    @property
    def then(self) -> list[str]:
        """The commands that make rows anew, each once, ingestions first."""
        commands = [c for one in self.repairs if one.mended for c in one.then]
        return sorted(dict.fromkeys(commands), key=lambda command: " build " in command)

    def as_dict(self) -> dict[str, object]:
        """For `--json`: stable names."""
        return {
            "v": 1,
            "dry_run": self.dry_run,
            "run_id": self.run_id,
            "seconds": round(self.seconds, 3),
            "tables": self.tables,
            "repairs": [vars(repair) for repair in self.repairs],
        }


def repair(writer: Writer, *, deep: bool = False, dry_run: bool = False) -> RepairReport:
    """Take lost files out of their tables, where their rows can be made anew. Safe to repeat.

    deep: Also read every byte of every file.

    Raises LakehouseError where catalog or store do not answer.
    """
    started_s = time.monotonic()
    report = RepairReport(dry_run, f"{writer.clock.now_us():x}-{uuid.uuid4().hex[:8]}")
    path = writer.access.sqlite_path
    if path is None or path.is_file():
        for name in sorted(TABLES):
            _table(writer, TABLES[name], report, deep)
    report.seconds = time.monotonic() - started_s
    return report


def _table(writer: Writer, shape: Table, report: RepairReport, deep: bool) -> None:
    told = Repair(shape.name)
    try:
        table = writer.catalog.find(shape.name)
        if table is None:
            return
        report.tables += 1
        lost = lost_files(writer.store, shape, table, deep=deep)
    except (LakehouseError, OSError, ValueError) as error:
        report.repairs.append(told)
        _set_back(writer, shape, told, report, error)
        return
    if not lost:
        return
    report.repairs.append(told)
    told.lost = [relative_path(writer.store, file.path) for file in lost]
    told.rows = sum(file.rows for file in lost)
    marks = _Marks(writer, report.run_id)
    if shape.name in _PRODUCTS:
        product = _PRODUCTS[shape.name]
        told.units = marks.gather_units(product, shape, lost)
        told.then = [f"lakehouse build {product.name}"]
    elif shape.name not in _DATASETS:
        told.refused = f"its rows are made from nothing else that is kept; {remake(shape.name)}"
        return
    else:
        marks.gather_objects(_DATASETS[shape.name], shape, lost)
        told.objects, told.then = marks.objects, marks.commands
        if marks.missing:
            told.refused = (
                f"{len(marks.missing):,} raw objects of these rows are not in bronze, such as "
                f"{marks.missing[0]}; restore them from a backup"
            )
            return
        if not marks.objects:
            told.refused = (
                "no object of the archive gave its rows: they came by REST or stream; restore it "
                "from a backup"
            )
            return
    told.mended = True
    if not report.dry_run:
        told.mended = _take_out(writer, shape, lost, marks, report.run_id)


def _set_back(
    writer: Writer, shape: Table, told: Repair, report: RepairReport, error: Exception
) -> None:
    """Point the catalog to the metadata of before, where that is whole. One commit is lost by it.

    Of no older one is it sure that it ever was the table: who loses a race leaves metadata, too.
    """
    catalog = writer.catalog
    location, previous = catalog.locations(shape.name)
    try:
        if previous is None or not _is_lost(writer, location):
            raise ValueError("there is no version before it, or it leads to files that are lost")
        before = catalog.read_at(previous)
        for _ in data_files(before):
            pass  # every manifest is read
    except (OSError, ValueError) as none:
        told.refused = f"its metadata cannot be read: {error}; {none}; restore it from a backup"
        return
    since_us = before.metadata.last_updated_ms * 1000
    told.set_back_to = format_time(since_us)
    marks = _Marks(writer, report.run_id)
    if shape.name in _PRODUCTS:
        product = _PRODUCTS[shape.name]
        told.units = marks.gather_units(product, shape, None)
        told.then = [f"lakehouse build {product.name}"]
    elif shape.name in _DATASETS:
        marks.gather_since(_DATASETS[shape.name], shape, since_us - CLOCKS_APART_US)
        told.objects, told.then = marks.objects, marks.commands
        if marks.missing:
            told.refused = f"raw objects are not in bronze, such as {marks.missing[0]}"
            return
    told.mended = True
    if not report.dry_run:
        with open_committers(writer, marks.logs, report.run_id, local=True) as committers:
            marks.commit(committers)
        told.mended = catalog.set_back(shape.name, location, previous)


def _is_lost(writer: Writer, location: str) -> bool:
    """Whether a file of metadata is surely gone, or torn; not only out of reach for a moment."""
    try:
        writer.store.get(relative_path(writer.store, location))
    except NotFoundError:
        return True
    try:
        writer.catalog.read_at(location)
    except ValueError:
        return True
    return False


def lost_files(
    store: ObjectStore, shape: Table, table: IcebergTable, *, deep: bool
) -> list[FileEntry]:
    """Files of the current snapshot that are gone, or have another size than the table says.

    deep: And those whose pages do not fit their checksums.
    """
    # First what the table has, then what is stored: files of later commits are no matter.
    files = sorted(index_files(shape, table), key=lambda f: f.path)
    sizes = dict(store.walk(table_folder(shape.name)))
    return [
        file
        for file in files
        if sizes.get(relative_path(store, file.path)) != file.size_bytes
        or (deep and _damaged(store, shape, file))
    ]


def _damaged(store: ObjectStore, shape: Table, file: FileEntry) -> bool:
    try:
        with GroupReader(store) as reader:
            for group in Footers(store).groups(shape, [file]):
                reader.read(shape, group, shape.names)
    except DAMAGE as error:
        # Raises where it is the store that does not answer.
        lost_file(store, file.path, error)
        return True
    return False


def _take_out(
    writer: Writer, shape: Table, lost: Sequence[FileEntry], marks: _Marks, run_id: str
) -> bool:
    """First the log, then the table: whoever dies in between finds the files lost again."""
    removed = tuple(file.path for file in lost)
    tables = [shape, *marks.logs]
    with open_committers(writer, tables, run_id, local=True) as committers:
        marks.commit(committers)
        request = CommitRequest("repair", (), removed, (), frozenset(removed))
        (outcome,) = committers.commit(shape, [request])
    return outcome.committed


class _Marks:
    """Objects that have to be read again from bronze, units that have to be built again."""

    def __init__(self, writer: Writer, run_id: str) -> None:
        self._writer = writer
        self._run_id = run_id
        # By table and partition.
        self._rows: dict[tuple[str, str, str], list[pl.DataFrame]] = defaultdict(list)
        self.objects = 0
        self.missing: list[str] = []
        self.commands: list[str] = []

    @property
    def logs(self) -> list[Table]:
        """Those that something has to be told."""
        names = {name for name, _, _ in self._rows}
        return [log for log in (OBJECT_LOG, BUILD_LOG) if log.name in names]

    def gather_since(self, dataset: Dataset, shape: Table, since_us: int) -> None:
        """Objects that were merged into a table since."""
        for market in dataset.archive:
            log = read_object_log(self._writer.catalog, market, dataset.name, None)
            for (interval,), part in log.partition_by("interval", as_dict=True).items():
                name = None if interval is None else str(interval)
                if dataset.table(name).name == shape.name:
                    built = _last_built(part, dataset)
                    late = pl.col("seen_at").dt.epoch("us") >= since_us
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

    def _mark(
        self, dataset: Dataset, market: str, interval: str | None, touched: pl.DataFrame
    ) -> None:
        paths = touched["path"].to_list()
        self.missing += [path for path in paths if not self._writer.store.exists(path)]
        if touched.is_empty():
            return
        self.objects += touched.height
        rows = touched.drop("_start", "_end").with_columns(
            decoder_version=pl.lit(NO_DECODER, pl.Int32),
            seen_at=pl.lit(self._writer.clock.now_us()).cast(pl.Datetime("us", "UTC")),
            run_id=pl.lit(self._run_id),
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
                logs[name], self._writer.store, rows, tuple(partition), f"repair-{number}"
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
