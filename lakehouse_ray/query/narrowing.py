"""Which rows of a table a statement can want at most, by its syntax tree.

For files that have to be brought before the statement runs. What is told is never too little: only a
table that is named once, alone in its FROM and as it is, is narrowed, and only by conditions that every
row must fulfil: texts that are equal to a value, times beside one. Anything else says nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

# Spelled so, a time is read alike by the engine and here.
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)?Z?")
# Around what the engine takes a time for, whatever its type: dates, time zones, inclusive ends.
_MARGIN = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What is told of a table that is read as it is: no sample, no other names for its columns.
PLAIN_TABLE = frozenset(
    ("type", "alias", "schema_name", "table_name", "qualified_name", "query_location",
     "query_location_length")
)  # fmt: skip
_AFTER = ("COMPARE_GREATERTHAN", "COMPARE_GREATERTHANOREQUALTO")
_BEFORE = ("COMPARE_LESSTHAN", "COMPARE_LESSTHANOREQUALTO")

# By table that is read at all: `equal` (column to value), `start_us`, `end_us`; what is absent is not
# known.
Narrowed = dict[str, dict[str, Any]]
# By table: names of its text columns, and of its time.
Columns = Mapping[str, tuple[Sequence[str], str]]


def narrowed(tree: Mapping[str, Any], columns: Columns, parameters: object) -> Narrowed:
    """What the rows of each table have in common that a statement can want of it.

    tree: Of `json_serialize_sql`, held against `gate.check_tree` before. columns: Of tables that may be
        narrowed, as `silver.klines`. parameters: A list, a mapping, or none.
    """
    nodes = list(_nodes(tree))
    named = Counter(name_of(node) for node in nodes if node.get("type") == "BASE_TABLE")
    found: Narrowed = {name: {} for name in named}
    for node in nodes:
        table = node.get("from_table")
        if node.get("type") != "SELECT_NODE" or "sample" in node or not isinstance(table, dict):
            continue
        name = name_of(table)
        if table.get("type") != "BASE_TABLE" or named[name] != 1 or name not in columns:
            continue
        texts, time = columns[name]
        called = str(table.get("alias") or table["table_name"]).lower()
        if set(table) <= PLAIN_TABLE and called not in (*texts, time):
            conditions = list(conditions_of(node.get("where_clause")))
            found[name] = _told(conditions, called, texts, time, parameters)
    return found


def _nodes(root: object) -> Iterator[dict[str, Any]]:
    stack = [root]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            yield one
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


def name_of(table: Mapping[str, Any]) -> str:
    path = table.get("qualified_name", {}).get("path") or [table.get("table_name", "")]
    return ".".join(str(part) for part in path).lower()


def conditions_of(where: object) -> Iterator[dict[str, Any]]:
    """Those of which all must hold."""
    stack = [where]
    while stack:
        one = stack.pop()
        if not isinstance(one, dict):
            continue
        if one.get("type") == "CONJUNCTION_AND":
            stack.extend(one.get("children", ()))
        else:
            yield one


def _told(
    conditions: Sequence[Mapping[str, Any]],
    called: str,
    texts: Sequence[str],
    time: str,
    parameters: object,
) -> dict[str, Any]:
    equal: dict[str, str] = {}
    starts: list[int] = []
    ends: list[int] = []
    for one in conditions:
        kind = one.get("type")
        if kind == "COMPARE_BETWEEN":
            sides = [(one.get("input"), one.get("lower"), _AFTER[0])]
            sides.append((one.get("input"), one.get("upper"), _BEFORE[0]))
        else:
            sides = [(one.get("left"), one.get("right"), str(kind))]
        for left, right, comparison in sides:
            column = column_of(left, called)
            value = text_of(right, parameters)
            if column is None or value is None:
                continue
            if comparison == "COMPARE_EQUAL" and column in texts and not is_cast(right):
                equal[column] = value
            elif column == time and (moment := _moment(value)) is not None:
                if comparison in _AFTER:
                    starts.append(_us(moment - _MARGIN))
                elif comparison in _BEFORE:
                    ends.append(_us(moment + 2 * _MARGIN))
    told: dict[str, Any] = {"equal": equal}
    if starts:
        told["start_us"] = max(starts)
    if ends:
        told["end_us"] = min(ends)
    return told


def column_of(side: object, called: str) -> str | None:
    if not isinstance(side, dict) or side.get("type") != "COLUMN_REF":
        return None
    *qualified, name = [str(part).lower() for part in side.get("column_names", [""])]
    return name if qualified in ([], [called]) else None


def is_cast(side: object) -> bool:
    return isinstance(side, dict) and side.get("type") == "OPERATOR_CAST"


def text_of(side: object, parameters: object) -> str | None:
    """A text that is written out or given, also as a cast to a time."""
    if not isinstance(side, dict):
        return None
    if is_cast(side):
        spelled = str(side.get("type_expr", {}).get("type_name", "")).upper()
        if spelled not in ("DATE", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"):
            return None
        return text_of(side.get("child"), parameters)
    if side.get("type") == "VALUE_CONSTANT":
        literal = side.get("literal", {})
        return literal.get("text") if literal.get("kind") == "STRING" else None
    if side.get("type") == "VALUE_PARAMETER":
        return _parameter(str(side.get("identifier")), parameters)
    return None


def _parameter(identifier: str, parameters: object) -> str | None:
    value: object = None
    if isinstance(parameters, dict):
        value = parameters.get(identifier)
    elif isinstance(parameters, list) and identifier.isdigit():
        value = parameters[int(identifier) - 1] if 1 <= int(identifier) <= len(parameters) else None
    return value if isinstance(value, str) else None


def _moment(value: str) -> datetime | None:
    """Midnight of its day; None for what is not spelled as we know it, or is of no such year."""
    matched = _TIME.fullmatch(value)
    if matched is None or not "1971" <= value[:4] <= "2199":
        return None
    try:
        return datetime.fromisoformat(matched[1]).replace(tzinfo=UTC)
    except ValueError:
        return None


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
