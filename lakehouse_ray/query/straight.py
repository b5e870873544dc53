"""The rows of one symbol, read straight from the row groups that hold them.

A file has its rows by symbol and time, and its footer says where each row group begins and ends. So
a range of one symbol is a few row groups one after the other, cut at both ends: nothing is to be
sorted, and nothing but these is opened. What does not lie like that (row groups beyond `ROWS_MAX`
that overlap in time, columns of another type, files without marks) is left to DuckDB.

Memory: `ROWS_MAX` rows, mostly two of a symbol's months: one is read while one is used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile

from lakehouse_ray.model.table import Table
from lakehouse_ray.query.conversions import BATCH_ROWS, frame_of
from lakehouse_ray.query.live import is_live
from lakehouse_ray.query.marks import flags_field
from lakehouse_ray.query.pins import Pin
from lakehouse_ray.query.scan import SQL_TYPES, Where
from lakehouse_ray.query.statement import Engine, Result, unreadable
from lakehouse_ray.query.text_views import DICTIONARY, VIEW, as_views, repeated
from lakehouse_ray.query.views import View, copied
from lakehouse_ray.storage.footers import ARROW_TYPES, Footer, Part
from lakehouse_ray.storage.kept import KeptFiles

# Rows in memory at once: as many as a row group may have, some 300 MB with all columns of bars.
ROWS_MAX = 1_000_000
# Footers that one question looks at, and how many at once where each is a request or two.
FILES_MAX = 500
FOOTERS_AT_ONCE = 16
# Row groups that are read before they are wanted.
_AHEAD_REMOTE = 4


@dataclass(frozen=True)
class Piece:
    """A row group to be read. constants: Columns whose value the file's partition says."""

    path: str
    footer: Footer
    part: Part
    constants: Mapping[str, str]


# Row groups that overlap in time are read together; of two runs all of one comes before the other.
Run = Sequence[Piece]


def find_runs(
    kept: KeptFiles, planned: Sequence[tuple[Pin, Sequence[DataFile]]], where: Where
) -> tuple[Table, list[Run]] | None:
    """Find the row groups that may hold a symbol's rows, by time; None: DuckDB has to read them.

    planned: The files of each table that may.

    Raises UnavailableError where a footer cannot be read.
    """
    holders = [(pin.shape, files) for pin, files in planned if files]
    if is_live(planned) or len(holders) > 1 or sum(len(files) for _, files in holders) > FILES_MAX:
        return None
    if not holders:
        return planned[-1][0].shape, []
    table, files = holders[0]
    pieces: list[Piece] = []
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        apply = threads.map if _remote(kept) and len(files) > 1 else map
        for some in apply(lambda file: _pieces_of(kept, table, file, where), files):
            if some is None:
                return None
            pieces += some
    runs = _in_runs(pieces)
    if any(_rows(run) > ROWS_MAX for run in runs):
        return None
    return table, runs


def _pieces_of(kept: KeptFiles, table: Table, file: DataFile, where: Where) -> list[Piece] | None:
    flags = flags_field(table)
    # Of every column that is in a file its size is known.
    if flags is not None and flags not in (file.column_sizes or {}):
        return None
    constants = {
        partition.column: str(file.partition[i])
        for i, partition in enumerate(table.partitions)
        if partition.transform == "identity"
    }
    lead = table.sort[0]
    if any(constants.get(name) != value for name, value in where.equal.items() if name != lead):
        return None
    path = kept.place(file.file_path)
    with _reading(path):
        footer = kept.footers.get(table, path)
    if footer.parts is None or not _as_declared(table, footer):
        return None
    symbol, span = where.equal[lead], where.span
    return [
        Piece(path, footer, part, constants)
        for part in footer.parts
        if part.lead_min <= symbol <= part.lead_max
        and (span is None or (part.time_max_us >= span.start_us and part.time_min_us < span.end_us))
    ]


def _as_declared(table: Table, footer: Footer) -> bool:
    """Whether each column of the file is as we would write it. Those that it lacks are null."""
    return all(
        footer.types.get(number, ARROW_TYPES[column.type]) == ARROW_TYPES[column.type]
        for number, column in enumerate(table.columns, start=1)
    )


def _rows(run: Run) -> int:
    return sum(piece.part.rows for piece in run)


def _remote(kept: KeptFiles) -> bool:
    return "://" in kept.store.root


def _in_runs(pieces: Sequence[Piece]) -> list[Run]:
    runs: list[list[Piece]] = []
    end_us = 0
    for piece in sorted(pieces, key=lambda one: (one.part.time_min_us, one.part.time_max_us)):
        if runs and piece.part.time_min_us <= end_us:
            runs[-1].append(piece)
            end_us = max(end_us, piece.part.time_max_us)
        else:
            runs.append([piece])
            end_us = piece.part.time_max_us
    return list(runs)


class StraightResult(Result):
    """Rows read straight from row groups, each time they are asked for."""

    def __init__(
        self,
        engine: Engine,
        kept: KeptFiles,
        view: View,
        found: tuple[Table, list[Run]],
        where: Where,
        columns: Sequence[str] | None,
        rows_max: int | None,
        snapshots: Mapping[str, int | None],
        text_views: bool,
    ) -> None:
        """text_views: Whether texts are given as Polars keeps them, not as Arrow mostly does."""
        self._engine = engine
        self._kept = kept
        self._table, self._runs = found
        self._where = where
        self._rows_max = rows_max
        self._snapshots = snapshots
        every = [*self._table.names, *(name for name, _ in view.added)]
        self._names = every if columns is None else list(columns)
        # Of each column of the answer, the one of the table that it is.
        self._sources = [copied(name, where.equal["market"]) for name in self._names]
        self._kinds = [self._table.column(name).type for name in self._sources]
        self._types = [SQL_TYPES[kind] for kind in self._kinds]
        self._text_views = text_views

    def close(self) -> None:
        """Nothing is open between two batches."""

    @property
    def schema(self) -> pa.Schema:
        types = {**ARROW_TYPES, "string": VIEW} if self._text_views else ARROW_TYPES
        return pa.schema(
            [(n, types[kind]) for n, kind in zip(self._names, self._kinds, strict=True)]
        )

    def arrow(self) -> pa.Table:
        return pa.Table.from_batches(self.fetch_batches(ROWS_MAX), self.schema)

    def pl(self) -> pl.DataFrame:
        return frame_of(self.arrow())

    def fetch_batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        schema = self.schema
        left = self._rows_max
        for columns in self._each_run():
            self._engine.check()
            found = pa.Table.from_arrays(
                [self._spelled(columns[name]) for name in self._sources], schema=schema
            )
            if left is not None:
                found = found.slice(0, left)
                left -= found.num_rows
            yield from found.combine_chunks().to_batches(max_chunksize=rows)
            if left == 0:
                return

    def _spelled(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        texts = pa.types.is_dictionary(column.type) or pa.types.is_string(column.type)
        return as_views(column) if texts and self._text_views else column

    def _each_run(self) -> Generator[dict[str, pa.ChunkedArray], None, None]:
        """The rows of each run; the next ones are read while one is used."""
        few = self._rows_max is not None and self._rows_max < BATCH_ROWS
        if few or len(self._runs) < 2:
            yield from map(self._read, self._runs)
            return
        ahead = _AHEAD_REMOTE if _remote(self._kept) else 1
        waiting = deque(self._runs)
        reading: deque[tuple[int, Future[dict[str, pa.ChunkedArray]]]] = deque()
        threads = ThreadPoolExecutor(ahead, thread_name_prefix="rows")
        try:
            while waiting or reading:
                while waiting and len(reading) <= ahead:
                    rows = _rows(waiting[0])
                    if reading and rows + sum(n for n, _ in reading) > ROWS_MAX:
                        break
                    reading.append((rows, threads.submit(self._read, waiting.popleft())))
                yield reading[0][1].result()
                reading.popleft()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, run: Run) -> dict[str, pa.ChunkedArray]:
        """The wanted rows of a run, in order, by column."""
        table = self._table
        order = [name for name in table.sort if name != table.sort[0]]
        needed = {name: ARROW_TYPES[table.column(name).type] for name in [*self._sources, *order]}
        if self._text_views:
            texts = {n for n, kind in needed.items() if kind == pa.string() and n not in order}
            needed |= dict.fromkeys(texts, DICTIONARY)
        parts = [_read_piece(self._kept, table, piece, needed, self._where) for piece in run]
        whole = {
            name: pa.chunked_array([part[name] for part in parts], kind)
            for name, kind in needed.items()
        }
        if _ascends(whole, order):
            return whole
        places = pc.sort_indices(
            pa.table({name: whole[name] for name in order}),
            sort_keys=[(name, "ascending") for name in order],
        )
        return {name: column.unify_dictionaries().take(places) for name, column in whole.items()}


def _ascends(columns: Mapping[str, pa.ChunkedArray], order: Sequence[str]) -> bool:
    """Whether rows are in order. May say no where they are: by the first two names at most."""
    first = _integers(columns[order[0]])
    steps = np.diff(first)
    if not steps.size or steps.min() > 0:
        return True
    if steps.min() < 0:
        return False
    if len(order) == 1:
        return True
    second = columns[order[1]]
    if second.null_count or not pa.types.is_integer(second.type):
        return False
    later = np.diff(second.to_numpy())
    return bool((later[steps == 0] > 0).all())


def _integers(column: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Times in microseconds."""
    return np.asarray(column.cast(pa.int64()).to_numpy())


def _read_piece(
    kept: KeptFiles, table: Table, piece: Piece, needed: Mapping[str, pa.DataType], where: Where
) -> dict[str, pa.Array]:
    """needed: Columns, and what they are read as."""
    lead, part, footer = table.sort[0], piece.part, piece.footer
    constants = dict(piece.constants)
    if part.lead_min == part.lead_max:
        constants[lead] = part.lead_min
    # The time and, where it is not everywhere the same, the symbol tell which rows are wanted.
    wanted = [n for n in dict.fromkeys([*needed, lead, table.time]) if n not in constants]
    numbers = {name: 1 + table.names.index(name) for name in wanted}
    there = {name: footer.names[n] for name, n in numbers.items() if n in footer.names}
    texts = [there[name] for name in there if table.column(name).type == "string"]
    with _reading(piece.path), _open(kept, piece, texts) as file:
        read = file.read_row_group(part.number, columns=list(there.values()))
    columns = {name: _one(read.column(inside)) for name, inside in there.items()}
    rows = _chosen(columns, table, part, where, lead in constants)
    columns, count = _cut(columns, rows)
    made = {}
    for name, kind in needed.items():
        if name in constants:
            value = constants[name]
            made[name] = (
                repeated(value, count)
                if kind == DICTIONARY
                else pa.repeat(pa.scalar(value, kind), count)
            )
        elif name in columns:
            column = columns[name]
            made[name] = column if column.type == kind else column.cast(kind)
        else:
            made[name] = pa.nulls(count, kind)
    return made


def _open(kept: KeptFiles, piece: Piece, texts: list[str]) -> pq.ParquetFile:
    return pq.ParquetFile(
        piece.path,
        metadata=piece.footer.metadata,
        filesystem=kept.store.filesystem,
        # Few different ones: they become texts when the wanted rows are cut out.
        read_dictionary=texts,
        # Reads that lie together become one, which matters where each is a request.
        pre_buffer=_remote(kept),
        # Without it a flipped bit is another price.
        page_checksum_verification=True,
    )


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _chosen(
    columns: Mapping[str, pa.Array], table: Table, part: Part, where: Where, single: bool
) -> slice | pa.Array:
    """Which rows of a row group are wanted: a range of them, mostly, or their numbers.

    single: All are of the symbol.
    """
    span = where.span
    within = span is None or (span.start_us <= part.time_min_us and part.time_max_us < span.end_us)
    if single and within:
        return slice(0, part.rows)
    times = _integers(columns[table.time])
    if single and span is not None and bool((times[1:] >= times[:-1]).all()):
        first, end = np.searchsorted(times, [span.start_us, span.end_us], side="left")
        return slice(int(first), int(end))
    kept = np.ones(len(times), dtype=bool)
    if span is not None:
        kept &= (times >= span.start_us) & (times < span.end_us)
    if not single:
        lead = table.sort[0]
        same = pc.equal(columns[lead], pa.scalar(where.equal[lead], pa.string()))
        kept &= same.to_numpy(zero_copy_only=False)
    return pa.array(np.flatnonzero(kept))


def _cut(
    columns: Mapping[str, pa.Array], rows: slice | pa.Array
) -> tuple[dict[str, pa.Array], int]:
    """Some rows of columns, and how many. Few of them are copied: a view would keep all the others
    in memory."""
    if isinstance(rows, slice):
        count = rows.stop - rows.start
        length = max(map(len, columns.values()), default=0)
        if 2 * count >= length:
            return {name: one.slice(rows.start, count) for name, one in columns.items()}, count
        rows = pa.array(np.arange(rows.start, rows.stop))
    # All at once: a call for each column takes longer than its thousand rows.
    taken = pa.RecordBatch.from_arrays(list(columns.values()), list(columns)).take(rows)
    return dict(zip(columns, taken.columns, strict=True)), len(rows)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:
        raise unreadable(f"{path}: {error}") from error


def straight(
    engine: Engine,
    view: View,
    pins: Mapping[str, Pin],
    planned: Sequence[tuple[Pin, Sequence[DataFile]]],
    where: Where,
    columns: Sequence[str] | None,
    rows_max: int | None,
    *,
    text_views: bool = False,
) -> StraightResult | None:
    """Rows of a symbol in the order of time; None: they do not lie as they have to.

    columns: Of the view; None: all. where: The market, the symbol, of bars the interval, and a span.
    text_views: For Polars.
    """
    if engine.kept is None or (columns is not None and not columns):
        return None
    found = find_runs(engine.kept, planned, where)
    if found is None:
        return None
    snapshots = {name: pin.snapshot_id for name, pin in pins.items()}
    return StraightResult(
        engine, engine.kept, view, found, where, columns, rows_max, snapshots, text_views
    )
