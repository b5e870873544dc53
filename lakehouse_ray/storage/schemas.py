"""A table of `model` in Iceberg's words: schema, partitions, properties."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    YearTransform,
)
from pyiceberg.types import (
    BooleanType,
    DoubleType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from lakehouse_ray.model.table import Partition, Table

BUCKETS = 16

_TYPES: Mapping[str, IcebergType] = {
    "string": StringType(),
    "long": LongType(),
    "int": IntegerType(),
    "double": DoubleType(),
    "boolean": BooleanType(),
    "timestamp": TimestamptzType(),
}


@cache
def iceberg_schema(table: Table) -> Schema:
    """Field ids are positions from 1, so a column may only be added at the end."""
    fields = [
        NestedField(i, column.name, _TYPES[column.type], required=column.required, doc=column.doc)
        for i, column in enumerate(table.columns, start=1)
    ]
    ids = [1 + table.names.index(name) for name in table.key]
    # Iceberg allows no floating point among the identifying fields.
    exact = [i for i in ids if not isinstance(fields[i - 1].field_type, DoubleType)]
    whole = len(exact) == len(ids) and all(fields[i - 1].required for i in ids)
    return Schema(*fields, identifier_field_ids=ids if whole else [])


@cache
def partition_spec(table: Table) -> PartitionSpec:
    return PartitionSpec(
        *(
            PartitionField(
                source_id=1 + table.names.index(partition.column),
                field_id=1000 + i,
                transform=_transform(partition),
                name=_partition_name(partition),
            )
            for i, partition in enumerate(table.partitions)
        )
    )


def _transform(partition: Partition) -> Transform[Any, Any]:
    transforms: dict[str, Transform[Any, Any]] = {
        "identity": IdentityTransform(),
        "year": YearTransform(),
        "month": MonthTransform(),
        "day": DayTransform(),
        "bucket16": BucketTransform(num_buckets=BUCKETS),
    }
    return transforms[partition.transform]


def _partition_name(partition: Partition) -> str:
    if partition.transform == "identity":
        return partition.column
    return f"{partition.column}_{partition.transform.rstrip('0123456789')}"


_BUCKET = BucketTransform(num_buckets=BUCKETS).transform(StringType())


def bucket_of(text: str) -> int:
    """Iceberg's bucket transform of a string."""
    value = _BUCKET(text)
    assert value is not None
    return value


def pruning_columns(table: Table) -> tuple[str, ...]:
    """Columns by whose bounds files and row groups are left out when they are read.

    Those that a partition fixes are the same in all of a file: the partition says them.
    """
    cut = {p.column for p in table.partitions if p.transform != "identity"}
    return tuple(sorted(cut | {table.sort[0], table.time}))


def table_properties(table: Table) -> dict[str, str]:
    properties = {
        # The committer checks and retries itself: it knows which files each request has seen.
        "commit.retry.num-retries": "0",
        "write.parquet.compression-codec": "zstd",
        "write.metadata.delete-after-commit.enabled": "true",
        "write.metadata.previous-versions-max": "20",
        # Statistics of prices prune nothing and fatten manifests.
        "write.metadata.metrics.default": "none",
        "commit.manifest.min-count-to-merge": "50",
        "commit.manifest-merge.enabled": "true",
    }
    for name in pruning_columns(table):
        properties[f"write.metadata.metrics.column.{name}"] = "full"
    return properties
