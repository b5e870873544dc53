"""Which partition of a table each row belongs to."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.table import Partition, Table
from lakehouse_ray.storage.files import PartitionKey
from lakehouse_ray.storage.schemas import bucket_of


def split_rows(table: Table, frame: pl.DataFrame) -> list[tuple[PartitionKey, pl.DataFrame]]:
    """Cut rows by the table's partitions, each part in the order its rows had.

    frame: With at least the columns that the table is partitioned by.
    """
    if frame.is_empty():
        return []
    names = [f"_partition_{i}" for i in range(len(table.partitions))]
    keyed = frame.with_columns(
        _value(partition, frame).alias(name)
        for partition, name in zip(table.partitions, names, strict=True)
    )
    parts = keyed.partition_by(names, maintain_order=True, as_dict=True)
    return [(key, part.drop(names)) for key, part in parts.items()]


def _value(partition: Partition, frame: pl.DataFrame) -> pl.Expr:
    column = pl.col(partition.column)
    if partition.transform == "identity":
        return column
    if partition.transform == "bucket16":
        texts = frame[partition.column].unique().to_list()
        buckets = {text: bucket_of(text) for text in texts}
        return column.replace_strict(buckets, return_dtype=pl.Int32)
    years = column.dt.year() - 1970
    if partition.transform == "year":
        return years
    if partition.transform == "month":
        return years * 12 + column.dt.month() - 1
    return column.dt.epoch("d")
