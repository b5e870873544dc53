"""Building the units of one task: read, derive, and write the product's files anew.

Symbol by symbol, so memory is bounded by the largest of them: its input rows, what is made of
them, and its old rows of one partition. Nothing is visible until the request that comes back is
committed.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl
from polars.exceptions import PanicException

from lakehouse_ray.errors import BadDataError, DeniedError, ResourceError
from lakehouse_ray.gold.inputs import UnitInputs
from lakehouse_ray.gold.plan import Stale
from lakehouse_ray.gold.recipe import Recipe
from lakehouse_ray.gold.tasks import Task
from lakehouse_ray.model.product import ALL_SYMBOLS, ProductUnit
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import PartitionKey
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.groups import GroupReader, RowGroup, relative_path
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.parquet import TableWriter, to_rows
from lakehouse_ray.storage.partitions import split_rows

# Rows of one row group; a symbol with more in a partition has several.
ROW_GROUP_ROWS_MAX = 1_000_000
# Replacing one symbol copies the others of its file, so files are small: 16 MiB take about a third
# of a second. A symbol with more in a partition has files of its own.
FILE_BYTES_MAX = 16 << 20

UnitState = Literal["built", "unchanged", "failed"]


@dataclass(frozen=True)
class UnitResult:
    """What became of a unit.

    state: `unchanged`: it is made from the same rows as before, in other files.
    content: Names the rows it was made from.
    rows: Of the product.
    """

    item: Stale
    state: UnitState
    content: str = ""
    rows: int = 0
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Derived:
    """What came of a task. request: To be committed before its units are logged."""

    task: Task
    request: CommitRequest
    results: tuple[UnitResult, ...]


class ProductBuilder:
    """Builds tasks. Keeps nothing between them; may be used by several threads.

    lanes: Threads that may compute at once; while they do, others read.
    """

    def __init__(self, store: ObjectStore, recipes: Mapping[str, Recipe], *, lanes: int) -> None:
        self._store = store
        self._recipes = recipes
        self._lanes = threading.Semaphore(lanes)

    def build(self, task: Task) -> Derived:
        """Return the files of a task, written but not visible.

        Raises what concerns every unit alike (no room, no rights); what concerns one is in its
        result, and its rows of before stay.
        """
        with GroupReader(self._store) as reader, ExitStack() as stack:
            work = _TaskWork(
                self._store, reader, self._recipes[task.product], task, self._lanes, stack
            )
            work.run()
        return work.derived()


@dataclass
class _New:
    """Rows of one symbol, and the units whose old rows they replace."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    units: list[ProductUnit] = field(default_factory=list)


class _TaskWork:
    """The state of one build."""

    def __init__(
        self,
        store: ObjectStore,
        reader: GroupReader,
        recipe: Recipe,
        task: Task,
        lanes: threading.Semaphore,
        stack: ExitStack,
    ) -> None:
        self._store = store
        self._reader = reader
        self._recipe = recipe
        self._table = recipe.product.table
        self._task = task
        self._lanes = lanes
        self._stack = stack
        self._writers: dict[PartitionKey, TableWriter] = {}
        self._results: list[UnitResult] = []
        self._removed: tuple[str, ...] = ()

    def run(self) -> None:
        changed = [item for item in self._task.units if not self._is_unchanged(item)]
        held = [group for group in self._task.old if any(_in_way(i.unit, group) for i in changed)]
        removed = {group.path for group in held}
        old: dict[str, list[RowGroup]] = defaultdict(list)
        for group in self._task.old:
            if group.path in removed:
                old[group.region.lead_min].append(group)
        by_symbol: dict[str, list[Stale]] = defaultdict(list)
        for item in changed:
            by_symbol[item.unit.symbol].append(item)
        whole = self._derive_all(by_symbol.pop(ALL_SYMBOLS, []))
        for symbol in sorted({*old, *by_symbol, *whole}):
            new = whole.get(symbol)
            if new is None:
                new = self._derive_all(by_symbol.get(symbol, [])).get(symbol, _New())
            self._write(old.get(symbol, ()), new)
        if any(result.state == "built" for result in self._results):
            self._removed = tuple(sorted(removed))

    def derived(self) -> Derived:
        """Call it when the writers are closed."""
        added = tuple(file for writer in self._writers.values() for file in writer.files)
        if not any(result.state == "built" for result in self._results):
            # Then these are copies of what is there.
            for file in added:
                self._store.delete(relative_path(self._store, file.file_path))
            added = ()
        task = self._task
        request = CommitRequest(task.id, added, self._removed, task.regions, task.seen)
        # Row groups stay here: results travel.
        slim = replace(task, units=(), old=())
        return Derived(slim, request, tuple(map(_slim, self._results)))

    def _is_unchanged(self, item: Stale) -> bool:
        """Compare what would be read with what was, where that may be the same."""
        if item.known is None:
            return False
        try:
            content = self._inputs(item).content()
        except (DeniedError, ResourceError):
            raise
        except Exception:  # noqa: BLE001 - it will be met again, and reported, when it is built
            return False
        if content != item.known.content:
            return False
        self._results.append(UnitResult(item, "unchanged", content, item.known.rows))
        return True

    def _derive_all(self, items: Sequence[Stale]) -> dict[str, _New]:
        """New rows by symbol. A unit that fails is noted, and its old rows stay."""
        found: dict[str, _New] = defaultdict(_New)
        for item in items:
            try:
                frame, content = self._derive(item)
            except (DeniedError, ResourceError):
                raise
            except (Exception, PanicException) as error:  # noqa: BLE001 - reported as the unit's
                reason = error.reason if isinstance(error, BadDataError) else type(error).__name__
                self._results.append(
                    UnitResult(item, "failed", reason=reason, detail=str(error)[:1000])
                )
                continue
            self._results.append(UnitResult(item, "built", content, frame.height))
            if item.unit.symbol == ALL_SYMBOLS:
                # Symbols that have rows now, and those that had some.
                there = {group.region.lead_min for group in self._task.old}
                for symbol in {*frame["symbol"].unique().to_list(), *there}:
                    found[symbol].units.append(item.unit)
                    found[symbol].frames.append(frame.filter(pl.col("symbol") == symbol))
            else:
                found[item.unit.symbol].units.append(item.unit)
                found[item.unit.symbol].frames.append(frame)
        return found

    def _derive(self, item: Stale) -> tuple[pl.DataFrame, str]:
        product = self._recipe.product
        if item.gone:
            return frame_schema(self._table).to_frame(), ""
        inputs = self._inputs(item)
        content = inputs.content()
        with self._lanes:
            frame = self._recipe.derive(item.unit, inputs)
            return fit(product.table, item.unit, frame), content

    def _inputs(self, item: Stale) -> UnitInputs:
        return UnitInputs(self._reader, self._recipe.product, item.unit, item.inputs)

    def _write(self, old: Sequence[RowGroup], new: _New) -> None:
        """Write one symbol: what stays of its old rows, and its new ones."""
        parts: dict[PartitionKey, list[pl.DataFrame]] = defaultdict(list)
        for frame in new.frames:
            for key, part in split_rows(self._table, frame):
                parts[key].append(part)
        kept: dict[PartitionKey, list[RowGroup]] = defaultdict(list)
        for group in old:
            kept[group.region.partition].append(group)
        for key in {**parts, **kept}:
            frames = parts.get(key, [])
            frames += [
                self._staying(group, new.units)
                for group in kept.get(key, ())
                if not any(_covers(unit, group) for unit in new.units)
            ]
            if not frames:
                continue
            frame = frames[0] if len(frames) == 1 else pl.concat(frames).sort(self._table.sort)
            for piece in frame.iter_slices(ROW_GROUP_ROWS_MAX):
                if piece.height:
                    self._writer(key).write(to_rows(self._table, piece))

    def _staying(self, group: RowGroup, replaced: Sequence[ProductUnit]) -> pl.DataFrame:
        rows = self._reader.read(self._table, group, self._table.names)
        time = pl.col(self._table.time).dt.epoch("us")
        for unit in replaced:
            if _in_way(unit, group):
                span = unit.span
                rows = rows.filter((time < span.start_us) | (time >= span.end_us))
        return rows

    def _writer(self, key: PartitionKey) -> TableWriter:
        if key not in self._writers:
            writer = TableWriter(self._table, self._store, key, file_bytes_max=FILE_BYTES_MAX)
            self._writers[key] = self._stack.enter_context(writer)
        return self._writers[key]


def fit(table: Table, unit: ProductUnit, frame: pl.DataFrame) -> pl.DataFrame:
    """Bring what a product's function returned into the shape and order of its table.

    Raises BadDataError where it cannot be: a column is missing, unknown or null where it must not
    be, a key is there twice.
    """
    named = {"market": unit.market, "symbol": unit.symbol, "interval": unit.interval}
    constants = {
        name: value
        for name, value in named.items()
        if name in table.names and name not in frame.columns and value not in ("", ALL_SYMBOLS)
    }
    frame = frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
    unknown = sorted(set(frame.columns) ^ set(table.names))
    if unknown:
        raise BadDataError("WRONG_COLUMNS", f"{table.name}: missing or unknown: {unknown}")
    time = pl.col(table.time).dt.epoch("us")
    span = unit.span
    frame = frame.select(table.names).cast(frame_schema(table))
    required = [column.name for column in table.columns if column.required]
    nulls = [name for name in required if frame[name].null_count()]
    if nulls:
        raise BadDataError("NULL_VALUE", f"{table.name}: nulls in {nulls}")
    frame = frame.filter((time >= span.start_us) & (time < span.end_us)).sort(table.sort)
    for name, value in named.items():
        if name in frame.columns and value not in ("", ALL_SYMBOLS):
            others = frame.filter(pl.col(name) != value).height
            if others:
                raise BadDataError("WRONG_UNIT", f"{table.name}: {others} rows of another {name}")
    if frame.select(table.key).is_duplicated().any():
        raise BadDataError("DOUBLE_KEY", f"{table.name}: rows have one ({', '.join(table.key)})")
    return frame


def _in_way(unit: ProductUnit, group: RowGroup) -> bool:
    """Whether rows of a unit may be in a row group of one of its task's files.

    Market and interval are the task's, so they are the file's.
    """
    region, span = group.region, unit.span
    return (
        unit.symbol in (ALL_SYMBOLS, region.lead_min)
        and region.time_min_us < span.end_us
        and region.time_max_us >= span.start_us
    )


def _covers(unit: ProductUnit, group: RowGroup) -> bool:
    """Whether all rows of such a row group are the unit's."""
    region, span = group.region, unit.span
    return (
        _in_way(unit, group)
        and span.start_us <= region.time_min_us
        and region.time_max_us < span.end_us
    )


def _slim(result: UnitResult) -> UnitResult:
    return replace(result, item=replace(result.item, inputs={}))
