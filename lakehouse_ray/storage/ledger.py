"""What the lake has of each object: a log of events, read as the latest state per key.

The log is appended to after the rows of an object are visible in silver. A run that dies between
the two finds the rows there already when it is repeated, and only the log is completed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
)

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.lake import OBJECT_LOG
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import from_us
from lakehouse_ray.storage.catalog import TableCatalog
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.files import PartitionKey
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.objects import ObjectStore
from lakehouse_ray.storage.parquet import TableWriter, to_rows


def log_request(
    table: Table, store: ObjectStore, rows: pl.DataFrame, partition: PartitionKey, request_id: str
) -> CommitRequest:
    """Write rows of a log, all of one partition, to a file and ask for its commit."""
    rows = rows.select(frame_schema(table).names()).sort(table.sort)
    with TableWriter(table, store, partition) as writer:
        writer.write(to_rows(table, rows))
    return CommitRequest(request_id, writer.files)


def read_object_log(
    catalog: TableCatalog,
    market: str | None = None,
    dataset: str | None = None,
    interval: str | None = None,
    freq: str | None = None,
    columns: Sequence[str] | None = None,
    *,
    since_us: int | None = None,
) -> pl.DataFrame:
    """All events of what is named, oldest first.

    columns: Only these, `seen_at` among them. since_us: Seen from then on.
    """
    schema = frame_schema(OBJECT_LOG)
    if columns is not None:
        schema = pl.Schema({name: schema[name] for name in columns})
    table = catalog.find(OBJECT_LOG.name)
    if table is None:
        return schema.to_frame()
    named = {"market": market, "dataset": dataset, "interval": interval, "freq": freq}
    where: BooleanExpression = AlwaysTrue()
    for name, value in named.items():
        if value is not None:
            where = And(where, EqualTo(term=name, value=value))
    if since_us is not None:
        since = from_us(since_us).isoformat()
        where = And(where, GreaterThanOrEqual(term="seen_at", value=since))
    try:
        arrow = table.scan(row_filter=where, selected_fields=tuple(schema.names())).to_arrow()
    except OSError as error:
        raise UnavailableError(f"the ledger could not be read: {error}") from error
    frame = pl.from_arrow(arrow)
    assert isinstance(frame, pl.DataFrame)
    return frame.select(schema.names()).cast(schema).sort("seen_at", maintain_order=True)


def latest_by_key(log: pl.DataFrame) -> pl.DataFrame:
    """One row per key: its last event, with what planning needs of the earlier ones.

    Adds `attempts` (runs that refused the object as it is listed now, by the same rules) and `last_seen`; where the
    last event is a refusal, `built_*` tell of the version before it that is in silver.
    """
    same = ["key", "etag", "checksum_etag", "decoder_version"]
    refused = (
        log.filter(state="quarantined").group_by(same).agg(attempts=pl.col("run_id").n_unique())
    )
    built = (
        log.filter(state="built")
        .group_by("key", maintain_order=True)
        .agg(
            built_sha256=pl.col("sha256").last(),
            built_version=pl.col("version").last(),
            built_path=pl.col("path").last(),
            built_decoder=pl.col("decoder_version").last(),
        )
    )
    return (
        log.group_by("key", maintain_order=True)
        .last()
        .join(refused, on=same, how="left", nulls_equal=True)
        .join(built, on="key", how="left")
        .with_columns(pl.col("attempts").fill_null(0), last_seen=pl.col("seen_at"))
    )


def events(rows: Sequence[dict[str, object]]) -> pl.DataFrame:
    """Rows of the object log from plain values; times in microseconds."""
    return plain_rows(OBJECT_LOG, rows)


def plain_rows(table: Table, rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows of a table from plain values; times in microseconds, null where a row has none."""
    schema = frame_schema(table)
    plain = pl.Schema(
        {
            name: pl.Int64() if kind == pl.Datetime("us", "UTC") else kind
            for name, kind in schema.items()
        }
    )
    return pl.DataFrame(rows, schema=plain, orient="row").cast(schema)
