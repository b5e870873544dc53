"""Mending what is lost of a table: data files that are gone, cut, or damaged.

The rows of an archive's object are in bronze as bytes. So a lost file of silver is taken out of its
table, after the ledger was told that every object which may have had rows in it has to be read
again: the next ingestion merges them from bronze, as after a change of the decoder. Answers of REST are
told to be received once more, and merged at once, or by the next update. What frames of streams say of
the file's symbols and time is appended to the hot table before the file goes. Likewise for derived
tables: their log is told that the units which may have had rows in the file are not built. What is made
from nothing else cannot be mended, and is left as it is.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import LakehouseError, NotFoundError
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.realtime_report import UpdateReport
from lakehouse_ray.pipeline.realtime_update import resume_answers
from lakehouse_ray.pipeline.refetching import Refetched, refetch
from lakehouse_ray.pipeline.remaking import (
    CLOCKS_APART_US,
    DATASET_OF,
    Frames,
    append_again,
    find_frames,
    is_remade,
    wanted_rows,
)
from lakehouse_ray.pipeline.repair_marks import Marks
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.verify_advice import FETCH_AGAIN, remake
from lakehouse_ray.query.views import TABLES
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import FileEntry, data_files, index_files
from lakehouse_ray.storage.groups import DAMAGE, Footers, GroupReader, lost_file, relative_path
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.paths import table_folder

_OF_BOOKS = "live rows of books are not made anew: they depend on all changes since a snapshot"
_PRODUCTS = {product.table.name: product for product in PRODUCTS.values()}


@dataclass
class Repair:
    """What became of one table's lost files.

    lost: By path below the store's root. rows: They had.
    mended: Whether they were taken out of the table (in a plan: can be).
    refused: Why not.
    set_back_to: Its metadata is lost, and this is the time of the version before; one commit is lost.
    objects: Of the archive, whose rows are merged again. answers: Of REST, likewise. live_rows: Made anew
        from `frames` objects of captured frames; in a plan not known. units: Of a derived table, built
        again. then: The commands that make the rows anew. note: What does not come back, in words.
    """

    table: str
    lost: list[str] = field(default_factory=list)
    rows: int = 0
    mended: bool = False
    refused: str = ""
    set_back_to: str = ""
    objects: int = 0
    answers: int = 0
    frames: int = 0
    live_rows: int = 0
    units: int = 0
    note: str = ""
    then: list[str] = field(default_factory=list)


@dataclass
class RepairReport:
    """All tables of which something is lost. raw: Objects that bronze has lost, where they were looked for."""

    dry_run: bool = False
    run_id: str = ""
    seconds: float = 0.0
    tables: int = 0
    repairs: list[Repair] = field(default_factory=list)
    raw: Refetched | None = None

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
            "raw": None if self.raw is None else vars(self.raw),
        }


def repair(
    writer: Writer, *, deep: bool = False, dry_run: bool = False, from_archive: bool = False
) -> RepairReport:
    """Take lost files out of their tables, where their rows can be made anew. Safe to repeat.

    deep: Also read every byte of every file.
    from_archive: First fetch raw objects that bronze has lost, where the archive still has them.

    Raises LakehouseError where catalog or store do not answer.
    """
    started_s = time.monotonic()
    report = RepairReport(dry_run, f"{writer.clock.now_us():x}-{uuid.uuid4().hex[:8]}")
    path = writer.access.sqlite_path
    if path is None or path.is_file():
        if from_archive:
            report.raw = refetch(writer, deep=deep, dry_run=dry_run)
        for name in sorted(TABLES):
            _table(writer, TABLES[name], report, deep)
    if not dry_run:
        _resume(writer, report)
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
    marks = Marks(writer, report.run_id, shape)
    if shape.name in _PRODUCTS:
        product = _PRODUCTS[shape.name]
        told.units = marks.gather_units(product, shape, lost)
        told.then = [f"lakehouse build {product.name}"]
    elif shape.name not in DATASET_OF:
        told.refused = f"its rows are made from nothing else that is kept; {remake(shape.name)}"
        return
    else:
        _dataset(writer, shape, lost, marks, told, report)
        if told.refused:
            return
    told.mended = True
    if not report.dry_run:
        told.mended = _take_out(writer, shape, lost, marks, report.run_id)


def _dataset(
    writer: Writer,
    shape: Table,
    lost: Sequence[FileEntry],
    marks: Marks,
    told: Repair,
    report: RepairReport,
) -> None:
    """Find where the rows of a data set's lost files come from; live ones are made anew at once."""
    dataset = DATASET_OF[shape.name]
    if not shape.live:
        marks.gather_objects(dataset, shape, lost)
        marks.gather_answers(dataset, shape, lost)
    wanted = wanted_rows(shape, lost)
    frames = find_frames(writer, dataset, wanted) if is_remade(dataset) else Frames()
    missing = [*marks.missing, *frames.missing]
    told.objects, told.answers, told.then = marks.objects, marks.answers, [*marks.commands]
    told.frames = len(frames.objects)
    if dataset.streamed and not is_remade(dataset):
        told.note = _OF_BOOKS
    if missing:
        told.refused = (
            f"{len(missing):,} raw objects of these rows are not in bronze, such as {missing[0]}; "
            f"restore them from a backup; {FETCH_AGAIN}"
        )
    elif not (marks.objects or marks.answers or told.frames):
        told.refused = "nothing in bronze says its rows; restore it from a backup"
        if told.note:
            told.refused += f" ({told.note})"
    elif not report.dry_run:
        told.live_rows = append_again(writer, shape, wanted, frames, report.run_id)
    if told.frames:
        told.then.append("lakehouse fold")


def _resume(writer: Writer, report: RepairReport) -> None:
    """Merge answers of REST again that the ledger was told of; what fails is left to an update."""
    for one in report.repairs:
        if not (one.mended and one.answers):
            continue
        dataset = DATASET_OF[one.table]
        try:
            resume_answers(writer, Asked(dataset=dataset), UpdateReport(report.run_id))
        except LakehouseError as error:
            one.note = f"answers of REST are not merged yet: {error}"
            one.then.append(f"lakehouse update --dataset {dataset.name}")


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
    marks = Marks(writer, report.run_id, shape)
    if shape.name in _PRODUCTS:
        product = _PRODUCTS[shape.name]
        told.units = marks.gather_units(product, shape, None)
        told.then = [f"lakehouse build {product.name}"]
    elif shape.name in DATASET_OF:
        dataset = DATASET_OF[shape.name]
        marks.gather_since(dataset, shape, since_us - CLOCKS_APART_US)
        told.objects, told.answers, told.then = marks.objects, marks.answers, marks.commands
        if dataset.streamed:
            told.note = (
                "live rows of that commit are lost: `lakehouse gaps` finds them, and "
                "`lakehouse update` asks for what REST has of them"
            )
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
    writer: Writer, shape: Table, lost: Sequence[FileEntry], marks: Marks, run_id: str
) -> bool:
    """First the log, then the table: whoever dies in between finds the files lost again."""
    removed = tuple(file.path for file in lost)
    tables = [shape, *marks.logs]
    with open_committers(writer, tables, run_id, local=True) as committers:
        marks.commit(committers)
        request = CommitRequest("repair", (), removed, (), frozenset(removed))
        (outcome,) = committers.commit(shape, [request])
    return outcome.committed
