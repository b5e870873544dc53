"""The tables of gaps and cross-checks are well formed, and what fills them has their columns."""

from __future__ import annotations

import pytest

from lakehouse_ray.kernels.crosscheck import RESULT
from lakehouse_ray.model.crosschecks import CROSS_CHECKS
from lakehouse_ray.model.gaps import CAUSES, GAPS
from lakehouse_ray.model.table import Table
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.schemas import iceberg_schema, partition_spec


@pytest.mark.parametrize("table", [GAPS, CROSS_CHECKS], ids=lambda table: table.name)
def test_a_table_of_findings_is_well_formed(table: Table) -> None:
    used = {*table.key, table.time, *table.sort, *(p.column for p in table.partitions)}
    assert used <= set(table.names)
    assert all(table.column(name).required for name in used)
    assert table.column(table.sort[0]).type == "string"
    assert tuple(iceberg_schema(table).column_names) == table.names
    assert len(partition_spec(table).fields) == len(table.partitions)


def test_cross_checks_are_rows_of_their_table() -> None:
    assert frame_schema(CROSS_CHECKS) == RESULT


def test_causes_are_those_that_users_rely_on() -> None:
    assert set(CAUSES) == {
        "outage", "archive_hole", "no_trades", "not_listed", "delisted", "halted", "own_loss",
        "unknown",
    }  # fmt: skip
