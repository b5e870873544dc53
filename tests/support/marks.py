"""What rows break, by the conditions that the lake itself names, and what it says they break."""

from __future__ import annotations

from collections import Counter

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.query.lake import Lake

# Data set, market, interval, rule.
Counts = Counter[tuple[str, str, str | None, str]]


def by_condition(lake: Lake) -> Counts:
    """Hold every row of every data set against `silver.rules`, each condition by itself."""
    found: Counts = Counter()
    rules = lake.sql("select * from silver.rules where condition is not null").rows()
    assert {rule["dataset"] for rule in rules} == set(DATASETS)
    for dataset in DATASETS.values():
        interval = '"interval"' if dataset.bars else "null::varchar"
        view = f"(select *, {interval} as i from silver.{dataset.view})"
        for kind in lake.sql(f"select distinct market, i from {view}").rows():
            market, own = kind["market"], kind["i"]
            conditions = [
                (rule["rule"], rule["condition"])
                for rule in rules
                if rule["dataset"] == dataset.name
                and market in rule["markets"].split(",")
                and rule["interval"] in (None, own)
            ]
            columns = ", ".join(
                f"({condition}) as c{i}" for i, (_, condition) in enumerate(conditions)
            )
            counts = ", ".join(f"count_if(c{i}) as c{i}" for i in range(len(conditions)))
            (row,) = lake.sql(
                f"select {counts} from (select {columns} from {view} "
                f"where market = '{market}' and i is not distinct from $1)",
                [own],
            ).rows()
            for (name, _), n in zip(conditions, row.values(), strict=True):
                if n:
                    found[dataset.name, market, own, name] += n
    return found


def by_violations(lake: Lake) -> Counts:
    """The same as `silver.violations` has it."""
    answer = lake.sql(
        'select dataset, market, "interval" as i, rule, count(*) as n from silver.violations '
        "where severity = 'flag' group by all"
    )
    return Counter(
        {(row["dataset"], row["market"], row["i"], row["rule"]): row["n"] for row in answer.rows()}
    )


def by_marks(lake: Lake) -> Counts:
    """The same as the column `flags` has it: nothing that needs the row before."""
    found: Counts = Counter()
    for dataset in DATASETS.values():
        interval = '"interval"' if dataset.bars else "null::varchar"
        answer = lake.sql(
            f"select market, {interval} as i, flags, count(*) as n from silver.{dataset.view} "
            "where flags is not null group by all"
        )
        for row in answer.rows():
            for rule in row["flags"].split(","):
                found[dataset.name, row["market"], row["i"], rule] += row["n"]
    return found


def assert_marks_are_those_of_the_rules(lake: Lake) -> Counts:
    """Hold both to the conditions; returns what was found."""
    wanted = by_condition(lake)
    assert by_violations(lake) == wanted
    sequence = {
        (row["dataset"], row["rule"])
        for row in lake.sql("select * from silver.rules where condition like '%OVER (%'").rows()
    }
    rows = Counter({key: n for key, n in wanted.items() if (key[0], key[3]) not in sequence})
    assert by_marks(lake) == rows
    return wanted
