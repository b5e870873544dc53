"""The rules and what breaks them, as SQL of the views `silver.rules` and `silver.violations`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from lakehouse_ray.model.checks import refusals
from lakehouse_ray.model.checks.registry import rules_of, sequence_rules_of
from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.dataset import FLAGS, Dataset
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.scan import quoted, text

RULES_DOC = (
    "What rows are held against. The condition is SQL over the view of the data set; with lag() it "
    "belongs into QUALIFY and is not marked in `flags`."
)
VIOLATIONS_DOC = (
    "One row per row and rule that it breaks: marked rows (`flag`), and refused rows and objects "
    "(`reject`), which have no time."
)


def violations_sql(datasets: Iterable[Dataset], quarantine: str) -> str:
    """Marks of every data set, and what was refused.

    Reads of each table only what names a marked row.

    quarantine: SELECT of what was refused, each once.
    """
    marked = [_marked(dataset, table) for dataset in datasets for table in dataset.tables]
    refused = (
        'SELECT market, dataset, symbol, "interval", NULL::TIMESTAMP WITH TIME ZONE AS "time", '
        f"reason AS rule, 'reject' AS severity, source_key FROM ({quarantine})"
    )
    return " UNION ALL ".join([*marked, refused])


def _marked(dataset: Dataset, table: Table) -> str:
    interval = quoted("interval") if dataset.bars else "NULL::VARCHAR"
    return (
        f'SELECT market, {text(dataset.name)} AS dataset, symbol, {interval} AS "interval", '
        f"{quoted(dataset.time)} AS \"time\", unnest(string_split({FLAGS.name}, ',')) AS rule, "
        f"'flag' AS severity, source_key FROM {table.name} WHERE {FLAGS.name} IS NOT NULL"
    )


def rules_sql(datasets: Iterable[Dataset]) -> str:
    """All rules as literal rows. Null as data set or interval: the same in all of them."""
    rows = [_values(None, None, rule, "") for rule in _refusals()]
    for dataset in datasets:
        rows += _of_dataset(dataset)
    names = '(dataset, rule, "interval", markets, severity, costs, doc, condition)'
    return f"SELECT * FROM (VALUES {', '.join(rows)}) AS rules{names}"


def _refusals() -> Iterator[Rule]:
    named: dict[str, Rule] = {}
    for rule in (*refusals.ROW_REFUSALS, *refusals.OBJECT_REFUSALS, *refusals.RECORD_REFUSALS):
        named.setdefault(rule.name, rule)
    yield from named.values()


def _of_dataset(dataset: Dataset) -> Iterator[str]:
    intervals: tuple[str | None, ...] = tuple(INTERVALS) if dataset.bars else (None,)
    # The length of the bar is in the condition of some rules alone.
    where: dict[Rule, list[str | None]] = defaultdict(list)
    for interval in intervals:
        for rule in dict.fromkeys(
            rule
            for market in dataset.archive
            for rule in (
                *rules_of(dataset.name, market, interval),
                *sequence_rules_of(dataset.name, market),
            )
        ):
            where[rule].append(interval)
    series = "market, symbol" + (', "interval"' if dataset.bars else "")
    order = ", ".join(map(quoted, dict.fromkeys((dataset.time, *dataset.key))))
    for rule, found in where.items():
        condition = rule.sql(f"PARTITION BY {series} ORDER BY {order}")
        for interval in (None,) if len(found) == len(intervals) else found:
            yield _values(dataset, interval, rule, condition)


def _values(dataset: Dataset | None, interval: str | None, rule: Rule, condition: str) -> str:
    markets = ",".join(m for m in rule.markets if dataset is None or m in dataset.archive)
    cells = (
        "NULL::VARCHAR" if dataset is None else text(dataset.name),
        text(rule.name),
        "NULL::VARCHAR" if interval is None else text(interval),
        text(markets),
        text(rule.severity),
        "true" if rule.costs else "false",
        text(rule.doc),
        text(condition) if condition else "NULL::VARCHAR",
    )
    return f"({', '.join(cells)})"
