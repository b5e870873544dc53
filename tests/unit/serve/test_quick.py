"""Views of data sets as subqueries: what the quick way takes for granted of them."""

from __future__ import annotations

import duckdb
import pytest

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.query.scan import empty_sql
from lakehouse_ray.query.views import VIEWS
from lakehouse_ray.serve.quick import can_inline, inlined


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_can_be_inlined(name: str) -> None:
    view = VIEWS[f"silver.{DATASETS[name].view}"]
    assert can_inline(view)
    sources = {table.name: empty_sql(table) for table in view.tables}
    got = duckdb.sql(f"SELECT * FROM {inlined(view, sources)}").columns
    connection = duckdb.connect()
    connection.execute("CREATE SCHEMA silver")
    for table, select in sources.items():
        connection.execute(f"CREATE VIEW {table} AS {select}")
    if view.sql:
        connection.execute(f"CREATE VIEW {view.name} AS {view.sql}")
    assert got == connection.sql(f"SELECT * FROM {view.name}").columns
