"""The marks of rows whose file has none, as SQL.

Files written before tables had the column `flags` say nothing of what their rows break. They are
held against the rules when they are read, so that null means the same in every row: nothing found.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.dataset import FLAGS, Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.table import Table


def flags_field(table: Table) -> int | None:
    """The field id of the column `flags`; None: rows of this table are held against no rules."""
    return 1 + table.columns.index(FLAGS) if FLAGS in table.columns else None


def flags_sql(table: Table, constants: Mapping[str, str]) -> str:
    """What stands in `flags`, as an expression over the other columns.

    constants: Of the files: their market and, of bars, their interval.
    """
    dataset = _owners()[table.name]
    rules = rules_of(dataset.name, constants["market"], constants.get("interval"))
    # A rule's name is capitals and underscores.
    marks = ", ".join(f"CASE WHEN {rule.sql()} THEN '{rule.name}' END" for rule in rules)
    return f"nullif(concat_ws(',', {marks}), '')"


@cache
def _owners() -> Mapping[str, Dataset]:
    return {table.name: dataset for dataset in DATASETS.values() for table in dataset.stored_tables}
