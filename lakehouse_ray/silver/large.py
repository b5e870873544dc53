"""Symbols whose rows do not fit into memory: a month of trades is several GB of CSV.

Objects are decoded in pieces onto a local disk. Where all rows are in strict order and silver has
none of them yet, which is the rule, the pieces go to the table as they are. Else DuckDB merges them
within a memory limit, by the rule of `resolve`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import duckdb
import polars as pl

from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.dataset import PRECEDENCE, Dataset
from lakehouse_ray.model.live import LIVE_SOURCES
from lakehouse_ray.model.timespan import DAY_US, from_us
from lakehouse_ray.model.work import ObjectResult, RawObject, Unit
from lakehouse_ray.silver.columns import ORIGIN, to_arrow
from lakehouse_ray.silver.existing import Existing
from lakehouse_ray.silver.large_staging import Context, Staged, stage_existing
from lakehouse_ray.silver.quarantine import ROWS_PER_OBJECT_MAX, Refusals
from lakehouse_ray.silver.regions import partition_of, split_by_partition
from lakehouse_ray.silver.resolve import DAY, SOURCE_NAMES, key_of, with_day
from lakehouse_ray.silver.sealing import FINAL, Sealed
from lakehouse_ray.sources.source import ObjectDecoder
from lakehouse_ray.storage.files import PartitionKey
from lakehouse_ray.storage.objects import ObjectStore, explain
from lakehouse_ray.storage.parquet import TableWriter

MERGE_MEMORY = "400MB"
_BATCH_ROWS = 500_000


@dataclass
class LargeOutcome:
    """What came of one large symbol.

    writers: Closed; their files are complete.
    dropped: Keys of existing rows to remove, by file.
    """

    writers: list[TableWriter] = field(default_factory=list)
    dropped: list[tuple[str, pl.DataFrame]] = field(default_factory=list)
    results: list[ObjectResult] = field(default_factory=list)
    rows: int = 0
    rows_replaced: int = 0


def build_symbol(
    *,
    dataset: Dataset,
    unit: Unit,
    symbol: str,
    items: Sequence[RawObject],
    store: ObjectStore,
    decoder: ObjectDecoder,
    existing: Existing,
    refusals: Refusals,
    sealed: Sealed,
    piece_bytes: int,
) -> LargeOutcome:
    """Write one symbol's rows in memory bounded by `piece_bytes` and the merge's limit."""
    folder = Path(tempfile.mkdtemp(prefix="lakehouse-merge-"))
    context = Context(dataset, unit, symbol, store, folder)
    outcome = LargeOutcome()
    try:
        staged = Staged(context)
        for item in sorted(items, key=lambda i: (i.result.task.period, i.result.task.freq)):
            result = item.result
            if not item.arrived:
                if result.state == "quarantined":
                    refusals.refuse_object(result)
                outcome.results.append(result)
                continue
            refused = staged.add(item, decoder, refusals, piece_bytes)
            if refused is not None:
                outcome.results.append(refused)
        if staged.ordered and symbol not in existing:
            _write_pieces(context, staged, outcome)
        else:
            _merge_on_disk(context, staged, existing, refusals, sealed, outcome)
        outcome.results += staged.results()
    except LakehouseError:
        raise
    except OSError as error:
        raise explain(error, f"merging {symbol} in {folder}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for item in items:
            if item.file is not None:
                item.file.unlink(missing_ok=True)
    return outcome


def _write_pieces(context: Context, staged: Staged, outcome: LargeOutcome) -> None:
    frames = (pl.read_parquet(path) for path in staged.pieces)
    outcome.rows += _write(context, frames, staged.objects, outcome)


def _write(
    context: Context,
    frames: Iterator[pl.DataFrame],
    objects: Sequence[ObjectResult],
    outcome: LargeOutcome,
) -> int:
    """Write frames in table order; returns the number of rows."""
    unit, table = context.unit, context.dataset.table(context.unit.interval)
    rules = rules_of(context.dataset.name, unit.market, unit.interval)
    writers: dict[PartitionKey, TableWriter] = {}
    rows = 0
    try:
        for frame in frames:
            rows += frame.height
            for time_us, part in split_by_partition(table, frame):
                partition = partition_of(table, unit.market, unit.interval, context.symbol, time_us)
                writer = writers.get(partition)
                if writer is None:
                    writer = writers[partition] = TableWriter(table, context.store, partition)
                writer.write(
                    to_arrow(table, writer.schema, part, context.constants, objects, rules)
                )
    except BaseException as error:
        for writer in writers.values():
            writer.__exit__(type(error), error, None)
        raise
    for writer in writers.values():
        writer.__exit__(None, None, None)
        outcome.writers.append(writer)
    return rows


def _merge_on_disk(
    context: Context,
    staged: Staged,
    existing: Existing,
    refusals: Refusals,
    sealed: Sealed,
    outcome: LargeOutcome,
) -> None:
    """The rule of `resolve` in SQL, spilling to the folder.

    Rows of one object that repeat are one; its rows that share a key and differ are all refused.
    """
    dataset = context.dataset
    key = ", ".join(f'"{name}"' for name in key_of(dataset))
    columns = [column.name for column in dataset.columns]
    names = ", ".join(f'"{name}"' for name in columns)
    # With what the key needs beyond the data set's columns.
    helped = [*columns, DAY] if dataset.key_within_day else columns
    all_names = ", ".join(f'"{name}"' for name in helped)
    objects = pl.DataFrame(
        [
            (i, PRECEDENCE[item.task.freq], item.task.freq, item.task.key, item.version)
            for i, item in enumerate(staged.objects)
        ],
        schema={ORIGIN: pl.Int32, "precedence": pl.Int8, **dict.fromkeys(SOURCE_NAMES, pl.String)},
        orient="row",
    )
    old_paths = stage_existing(context, existing)
    connection = duckdb.connect(
        str(context.folder / "merge.duckdb"),
        config={
            "memory_limit": MERGE_MEMORY,
            "threads": 1,
            "temp_directory": str(context.folder / "spill"),
            "preserve_insertion_order": False,
            # Nothing is fetched while data is merged; times stay what they are without ICU.
            "autoinstall_known_extensions": False,
        },
    )
    try:
        connection.register("objects", objects.to_arrow())
        pieces = [str(path) for path in staged.pieces]
        # An object may have no good row at all, and still replace what its older version gave.
        empty = with_day(pl.DataFrame(schema=_empty_schema(dataset)), dataset)
        empty = empty.with_columns(pl.lit(None, dtype=pl.Int32).alias(ORIGIN))
        connection.register("no_rows", empty.to_arrow())
        connection.execute("CREATE TABLE new_rows AS SELECT * FROM no_rows")
        if pieces:
            connection.execute(
                f"INSERT INTO new_rows SELECT DISTINCT {all_names}, {ORIGIN} FROM read_parquet(?)",
                [pieces],
            )
        known = pl.DataFrame(
            schema={**{n: empty.schema[n] for n in key_of(dataset)}, ORIGIN: pl.Int32}
        )
        known = pl.concat([known, *(part.cast(known.schema) for part in staged.clashing)])
        connection.register("clashing_in_pieces", known.to_arrow())
        connection.execute(
            f"CREATE TABLE clashing AS SELECT {key}, {ORIGIN} FROM new_rows "
            f"GROUP BY {key}, {ORIGIN} HAVING count(*) > 1 "
            f"UNION SELECT {key}, {ORIGIN} FROM clashing_in_pieces"
        )
        _refuse_clashing(connection, context, staged, refusals, key)
        _count_again(connection, context, staged, key)
        old = (
            f"SELECT {all_names}, source, source_key, source_version, _file FROM read_parquet(?)"
            if old_paths
            else f"SELECT {all_names}, '' source, '' source_key, '' source_version, '' _file "
            "FROM new_rows WHERE false"
        )
        connection.execute(
            f"CREATE TABLE old_rows AS {old}", [[str(p) for p in old_paths]] if old_paths else []
        )
        precedence = " ".join(f"WHEN '{n}' THEN {rank}" for n, rank in PRECEDENCE.items())
        same = " AND ".join(f'n."{name}" IS NOT DISTINCT FROM o."{name}"' for name in columns)
        connection.execute(
            f"""
            CREATE TABLE ranked AS
            WITH good AS (SELECT * FROM new_rows ANTI JOIN clashing USING ({key}, {ORIGIN}))
            SELECT {all_names}, {ORIGIN}, _file, stale, row_number() OVER (
                PARTITION BY {key}, stale
                ORDER BY precedence, source_key DESC, source_version DESC, _file IS NULL
            ) AS place
            FROM (
                SELECT {all_names}, {ORIGIN}, NULL AS _file, false AS stale, precedence, source_key,
                    source_version
                FROM good JOIN objects USING ({ORIGIN})
                WHERE NOT EXISTS (
                    SELECT 1 FROM old_rows o WHERE o.source_key = objects.source_key
                    AND o.source_version > objects.source_version
                )
                UNION ALL
                SELECT {", ".join(f'o."{name}"' for name in helped)}, NULL, o._file,
                    coalesce(o.source_version < objects.source_version OR (
                        o.source_version = objects.source_version AND n.{ORIGIN} IS NULL), false),
                    CASE o.source {precedence} END, o.source_key, o.source_version
                FROM old_rows o LEFT JOIN objects ON o.source_key = objects.source_key
                LEFT JOIN good n ON n.{ORIGIN} = objects.{ORIGIN} AND {same}
            )
            """
        )
        added = connection.sql(
            f"SELECT {names}, {ORIGIN} FROM ranked WHERE place = 1 AND NOT stale AND _file IS NULL "
            f"ORDER BY {', '.join(chr(34) + n + chr(34) for n in _order(dataset))}"
        ).to_arrow_reader(_BATCH_ROWS)
        schema = pl.Schema({**_empty_schema(dataset), ORIGIN: pl.Int32()})
        frames = (
            frame.cast(schema)
            for batch in added
            if isinstance(frame := pl.from_arrow(batch), pl.DataFrame) and frame.height
        )
        rows = _write(context, frames, staged.objects, outcome)
        # Fetched to the end: a connection does nothing else while an answer waits.
        [(replaced,)] = connection.execute(
            f"SELECT count(*) FROM ranked SEMI JOIN old_rows USING ({key}) "
            "WHERE place = 1 AND NOT stale AND _file IS NULL"
        ).fetchall()
        outcome.rows_replaced += replaced
        outcome.rows += rows - replaced
        _seal(connection, context, staged, sealed)
        dropped = connection.sql(
            f"SELECT _file, {', '.join(chr(34) + n + chr(34) for n in _order(dataset))} FROM ranked WHERE _file IS NOT NULL AND (stale OR place > 1)"
        ).pl()
    finally:
        connection.close()
    for (path,), part in dropped.partition_by("_file", as_dict=True).items():
        order = _order(dataset)
        keys = part.select(pl.lit(context.symbol).alias("symbol"), *order)
        types = {n: t for n, t in _empty_schema(dataset).items() if n in order}
        keys = keys.cast(types)
        if context.unit.interval is not None:
            keys = keys.with_columns(interval=pl.lit(context.unit.interval))
        outcome.dropped.append((str(path), keys))


def _seal(
    connection: duckdb.DuckDBPyConnection, context: Context, staged: Staged, sealed: Sealed
) -> None:
    """Compare live rows with those that take their place, some at a time."""
    dataset = context.dataset
    key = key_of(dataset)
    values = [column.name for column in dataset.columns if column.name not in key]
    theirs = "".join(f', w."{name}" AS "{name}{FINAL}"' for name in values)
    live = ", ".join(f"'{source}'" for source in LIVE_SOURCES)
    same = " AND ".join(f'o."{name}" IS NOT DISTINCT FROM w."{name}"' for name in key)
    pairs = connection.sql(
        f"SELECT o.* EXCLUDE (_file){theirs}, w.{ORIGIN} FROM old_rows o JOIN ranked w ON {same} "
        f"WHERE w.place = 1 AND NOT w.stale AND w._file IS NULL AND o.source IN ({live})"
    ).to_arrow_reader(_BATCH_ROWS)
    names = pl.DataFrame(
        [(i, item.task.freq, item.task.key, item.version) for i, item in enumerate(staged.objects)],
        schema={ORIGIN: pl.Int32, **{f"{n}{FINAL}": pl.String for n in SOURCE_NAMES}},
        orient="row",
    )
    kinds = _empty_schema(dataset)
    kinds |= {f"{name}{FINAL}": kinds[name] for name in values}
    kinds[ORIGIN] = pl.Int32()
    for batch in pairs:
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        typed = frame.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items())
        sealed.add(dataset, context.symbol, typed.join(names, on=ORIGIN), key)


def _order(dataset: Dataset) -> list[str]:
    return list(dict.fromkeys((dataset.time, *dataset.key)))


def _empty_schema(dataset: Dataset) -> dict[str, pl.DataType]:
    kinds: dict[str, pl.DataType] = {
        "string": pl.String(),
        "long": pl.Int64(),
        "int": pl.Int32(),
        "double": pl.Float64(),
        "boolean": pl.Boolean(),
        "timestamp": pl.Datetime("us", "UTC"),
    }
    return {column.name: kinds[column.type] for column in dataset.columns}


def _refuse_clashing(
    connection: duckdb.DuckDBPyConnection,
    context: Context,
    staged: Staged,
    refusals: Refusals,
    key: str,
) -> None:
    clashing = connection.sql(
        f"SELECT * FROM new_rows SEMI JOIN clashing USING ({key}, {ORIGIN}) "
        f"LIMIT {ROWS_PER_OBJECT_MAX}"
    ).pl()
    for number, result in enumerate(staged.objects):
        own = clashing.filter(pl.col(ORIGIN) == number)
        if own.height:
            named = own.drop(ORIGIN).with_columns(
                source=pl.lit(result.task.freq),
                source_key=pl.lit(result.task.key),
                source_version=pl.lit(result.version),
            )
            detail = "other rows of the file have the same key and other values"
            refusals.refuse_conflicts(context.symbol, named, detail)


def _count_again(
    connection: duckdb.DuckDBPyConnection, context: Context, staged: Staged, key: str
) -> None:
    """Correct what was counted piece by piece: rows repeat and clash across pieces too."""
    distinct = dict(
        connection.execute(f"SELECT {ORIGIN}, count(*) FROM new_rows GROUP BY ALL").fetchall()
    )
    good: list[Counter[date]] = [Counter() for _ in staged.objects]
    day_us = f'epoch_us("{context.dataset.time}") // {DAY_US}'
    for number, day, rows in connection.execute(
        f"SELECT {ORIGIN}, {day_us} AS day, count(*) FROM new_rows "
        f"ANTI JOIN clashing USING ({key}, {ORIGIN}) GROUP BY ALL"
    ).fetchall():
        good[number][from_us(day * DAY_US).date()] = rows
    for number, result in enumerate(staged.objects):
        rows, different = good[number].total(), distinct.get(number, 0)
        staged.objects[number] = replace(
            result,
            rows=rows,
            rows_quarantined=result.rows_quarantined + different - rows,
            duplicates=result.duplicates + result.rows - different,
        )
    staged.days = good
