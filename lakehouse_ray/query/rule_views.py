"""The rules and what breaks them, as SQL of the views `silver.rules` and `silver.violations`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from lakehouse_ray.model.checks import refusals
from lakehouse_ray.model.checks.registry import rules_of, sequence_rules_of
from lakehouse_ray.model.checks.rule import OUT_OF_ORDER, Rule
from lakehouse_ray.model.dataset import FLAGS, Dataset
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.scan import quoted, text

RULES_DOC = (
    "What rows are held against. The condition is SQL over the view of the data set, in WHERE; one "
    "with lag() belongs into QUALIFY, and is not marked in `flags`."
)
VIOLATIONS_DOC = (
    "One row per row and rule that it breaks, of every rule in `silver.rules`: marked rows and those "
    "that break a rule together with the row before (`flag`), and refused rows and objects "
    "(`reject`), which have no time. Live rows come here when they are folded."
)


def violations_sql(datasets: Iterable[Dataset], quarantine: str) -> str:
    """Marks of every data set, what is found by comparing neighbours, and what was refused.

    What compares neighbours is worked out when it is asked: the neighbour may lie in another file,
    and may come or go later. It has a branch per rule, which a statement that asks for other rules
    never runs.

    quarantine: SELECT of what was refused, each once.
    """
    parts: list[str] = []
    for dataset in datasets:
        for table in dataset.tables:
            parts.append(_marked(dataset, table))
            parts += _in_sequence(dataset, table)
    refused = (
        'SELECT market, dataset, symbol, "interval", NULL::TIMESTAMP WITH TIME ZONE AS "time", '
        f"reason AS rule, 'reject' AS severity, source_key FROM ({quarantine})"
    )
    return " UNION ALL ".join([*parts, refused])


def _marked(dataset: Dataset, table: Table) -> str:
    rule = f"unnest(string_split({FLAGS.name}, ','))"
    return f"{_violation(dataset, table, rule)} WHERE {FLAGS.name} IS NOT NULL"


def _in_sequence(dataset: Dataset, table: Table) -> Iterator[str]:
    for rule in dict.fromkeys(
        rule for market in dataset.markets for rule in sequence_rules_of(dataset.name, market)
    ):
        if rule.name == OUT_OF_ORDER:
            continue  # tables are read in order
        markets = ", ".join(text(market) for market in rule.markets)
        yield (
            f"{_violation(dataset, table, text(rule.name))} WHERE market IN ({markets}) "
            f"QUALIFY {_condition(dataset, rule)}"
        )


def _violation(dataset: Dataset, table: Table, rule: str) -> str:
    interval = quoted("interval") if dataset.bars else "NULL::VARCHAR"
    return (
        f'SELECT market, {text(dataset.name)} AS dataset, symbol, {interval} AS "interval", '
        f"{quoted(dataset.time)} AS \"time\", {rule} AS rule, 'flag' AS severity, source_key "
        f"FROM {table.name}"
    )


def _condition(dataset: Dataset, rule: Rule) -> str:
    series = "market, symbol" + (', "interval"' if dataset.bars else "")
    order = ", ".join(map(quoted, dict.fromkeys((dataset.time, *dataset.key))))
    return rule.sql(f"PARTITION BY {series} ORDER BY {order}")


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
            for market in dataset.markets
            for rule in (
                *rules_of(dataset.name, market, interval),
                *sequence_rules_of(dataset.name, market),
            )
        ):
            where[rule].append(interval)
    for rule, found in where.items():
        condition = _condition(dataset, rule)
        for interval in (None,) if len(found) == len(intervals) else found:
            yield _values(dataset, interval, rule, condition)


def _values(dataset: Dataset | None, interval: str | None, rule: Rule, condition: str) -> str:
    markets = ",".join(m for m in rule.markets if dataset is None or m in dataset.markets)
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
