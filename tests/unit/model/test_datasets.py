"""Every declaration of a data set makes sense in itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lakehouse_ray.model.datasets.registry import DATASETS, find_dataset
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.venue import FREQS, INTERVALS, MARKETS
from lakehouse_ray.storage.schemas import iceberg_schema, partition_spec

TABLES = [*(t for d in DATASETS.values() for t in d.tables), OBJECT_LOG, QUARANTINE]


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_data_set_names_its_own_columns_and_is_found_by_both_its_names(name: str) -> None:
    dataset = DATASETS[name]
    names = [column.name for column in dataset.columns]
    assert len(set(names)) == len(names)
    assert set(dataset.key) <= set(names)
    assert next(c for c in dataset.columns if c.name == dataset.time).type == "timestamp"
    assert all(c.required for c in dataset.columns if c.name in (*dataset.key, dataset.time))
    assert dataset.archive or dataset.streamed
    assert set(dataset.archive) <= set(MARKETS)
    assert all(freqs and set(freqs) <= set(FREQS) for freqs in dataset.archive.values())
    assert find_dataset(dataset.name) is find_dataset(dataset.view) is dataset


@pytest.mark.parametrize("interval", list(INTERVALS))
def test_each_interval_of_bars_has_its_table(interval: str) -> None:
    dataset = DATASETS["klines"]
    assert dataset.table(interval) in dataset.tables


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_is_well_formed_and_so_is_its_iceberg_schema(table: Table) -> None:
    assert len(set(table.names)) == len(table.names)
    used = {*table.key, table.time, *table.sort, *(p.column for p in table.partitions)}
    assert used <= set(table.names)
    assert table.column(table.sort[0]).type == "string"
    schema, spec = iceberg_schema(table), partition_spec(table)
    assert tuple(schema.column_names) == table.names
    assert [field.field_id for field in schema.fields] == list(range(1, len(table.names) + 1))
    for field, partition in zip(spec.fields, table.partitions, strict=True):
        assert schema.find_field(field.source_id).name == partition.column
        assert schema.find_field(field.source_id).required


def test_what_a_byte_costs_is_documented_as_it_is_counted_with() -> None:
    text = (Path(__file__).parents[3] / "docs/sizing.md").read_text()
    section = text.partition("## What a byte costs")[2].partition("\n## ")[0]
    told = {
        name: (float(cpu_s), float(memory))
        for name, cpu_s, memory in re.findall(
            r"(?m)^\| ([^|]+?) \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|$", section
        )
    }
    price_klines = told.pop("mark, index and premium price klines")
    told |= {f"{kind}PriceKlines": price_klines for kind in ("mark", "index")}
    told["premiumIndexKlines"] = price_klines
    assert told == {
        name: (dataset.cost.cpu_s_per_mib, dataset.cost.memory_per_byte)
        for name, dataset in DATASETS.items()
        if dataset.archive
    }
