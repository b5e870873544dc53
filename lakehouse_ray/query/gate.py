"""Whether a statement of a stranger may run: its syntax tree against lists of what is allowed.

The tree is the engine's own, of the same text and by the same parser that will run it, so that
nothing is read in two ways. What is not known to be harmless is refused: functions by a list of
those allowed, tables by the names of the lake's views, and sizes before anything is planned.

This is one layer of several. The process that runs a statement (`serve.sandbox`) cannot reach
anything but the files of the pinned snapshot either.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakehouse_ray.errors import InvalidError

STATEMENT_BYTES_MAX = 64 << 10
# Of the tree that the engine makes of a statement.
DEPTH_MAX = 200
NODES_MAX = 50_000
JOINS_MAX = 16
# Each reference to a common table expression may plan it anew, and they multiply.
CTE_REFERENCES_MAX = 32
IN_LIST_MAX = 10_000
# Rows that a statement makes by itself.
RANGE_MAX = 10_000_000

_AGGREGATES = """
any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null arg_min
arg_min_null argmax argmin array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count count_if
count_star countif covar_pop covar_samp entropy favg first fsum geomean geometric_mean group_concat
histogram kahan_sum kurtosis kurtosis_pop last list listagg mad max max_by mean median min min_by
mode product quantile quantile_cont quantile_disc regr_avgx regr_avgy regr_count regr_intercept
regr_r2 regr_slope regr_sxx regr_sxy regr_syy reservoir_quantile sem skewness stddev stddev_pop
stddev_samp string_agg sum sum_no_overflow sumkahan var_pop var_samp variance wavg weighted_avg
"""
_WINDOWS = """
cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank rank_dense
row_number fill
"""
_OPERATORS = """
!~~ !~~* % & && * ** + - / // < <= <> = == != > >= << >> <@ @> ^ ^@ | || ~ ~~ ~~* ~~~ @ -> ->>
"""
_NUMBERS = """
abs acos acosh add asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees
divide even exp factorial fdiv floor fmod gamma gcd greatest greatest_common_divisor isfinite isinf
isnan lcm least least_common_multiple lgamma ln log log10 log2 mod multiply nextafter pi pow power
radians random round round_even roundbankers sign signbit sin sinh sqrt subtract tan tanh trunc xor
hash
"""
_TIMES = """
age century current_date current_localtime current_localtimestamp date_add date_diff date_part
date_sub date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek dayofyear
days_in_month decade epoch epoch_ms epoch_ns epoch_us era get_current_time get_current_timestamp
hour isodow isoyear julian last_day make_date make_time make_timestamp make_timestamp_ms
make_timestamp_ns make_timestamptz microsecond millennium millisecond minute month monthname
nanosecond now quarter second strftime strptime time_bucket timezone timezone_hour timezone_minute
to_centuries to_days to_decades to_hours to_microseconds to_millennia to_milliseconds to_minutes
to_months to_quarters to_seconds to_timestamp to_weeks to_years today transaction_timestamp
try_strptime week weekday weekofyear year yearweek
"""
_TEXTS = """
ascii bit_length char_length character_length chr concat concat_ws contains ends_with ilike_escape
instr lcase left length like_escape lower ltrim md5 not_ilike_escape not_like_escape octet_length
ord position prefix regexp_escape regexp_extract regexp_full_match regexp_matches regexp_replace
replace reverse right rtrim sha1 sha256 split split_part starts_with str_split string_split
string_to_array strip_accents strlen strpos substr substring suffix translate trim ucase unicode
upper hex unhex to_hex from_hex format_bytes
"""
_LISTS = """
array_agg array_cat array_concat array_contains array_distinct array_extract array_filter array_has
array_has_all array_has_any array_indexof array_length array_position array_reverse array_slice
array_sort array_to_string array_transform array_unique array_value cardinality element_at flatten
len list_aggr list_aggregate list_append list_any_value list_apply list_avg list_cat list_concat
list_contains list_count list_distinct list_element list_extract list_filter list_first list_has
list_has_all list_has_any list_indexof list_intersect list_last list_max list_median list_min
list_mode list_pack list_position list_prepend list_product list_reverse list_reverse_sort
list_select list_slice list_sort list_stddev_pop list_stddev_samp list_sum list_transform
list_unique list_value list_var_pop list_var_samp list_where list_zip map map_contains map_entries
map_extract map_extract_value map_from_entries map_keys map_values row struct_extract
struct_extract_at struct_insert struct_pack struct_keys struct_values unnest generate_series range
"""
_OTHERS = "alias coalesce constant_or_null if ifnull nullif typeof"

FUNCTION_FAMILIES: Mapping[str, Sequence[str]] = {
    "aggregates": _AGGREGATES.split(),
    "windows": _WINDOWS.split(),
    "operators": _OPERATORS.split(),
    "numbers": _NUMBERS.split(),
    "times": _TIMES.split(),
    "texts": _TEXTS.split(),
    "lists, maps and structs": _LISTS.split(),
    "others": _OTHERS.split(),
}
FUNCTIONS = frozenset(name for names in FUNCTION_FAMILIES.values() for name in names)
TABLE_FUNCTIONS = frozenset(("range", "generate_series", "unnest"))
# Of a query tree: what stands in FROM.
_TABLE_REFS = frozenset(
    ("BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "SHOW_REF")
)
_SHOWS = frozenset(("DESCRIBE", "SUMMARY"))
_SYSTEM_NAME = re.compile(r"(duckdb|pragma|sqlite|pg|information_schema|icu)_?", re.I)


@dataclass
class _Seen:
    nodes: int = 0
    joins: int = 0
    cte_names: set[str] = field(default_factory=set)
    references: list[str] = field(default_factory=list)


def check_text(statement: str) -> None:
    """Refuse what is not worth parsing."""
    if len(statement.encode("utf-8", "surrogatepass")) > STATEMENT_BYTES_MAX:
        raise InvalidError(
            f"a statement may have {STATEMENT_BYTES_MAX >> 10} KiB", "give long lists as parameters"
        )
    if "\0" in statement or not statement.strip():
        raise InvalidError("there is no statement to run", 'such as "select 1"')


def check_tree(
    tree: dict[str, Any], tables: Collection[str], system_names: Collection[str]
) -> None:
    """Hold a statement's tree against what is allowed.

    tree: Of `json_serialize_sql`, without its nulls and defaults.
    tables: Names that may be read, with their schemas.
    system_names: Names that the engine gives to tables of its own.

    Raises InvalidError that names what is not allowed.
    """
    statements = tree.get("statements", ())
    if tree.get("error") or len(statements) != 1:
        raise one_select()
    seen = _Seen()
    for node in _nodes(statements[0], seen):
        _check_node(node, tables, seen)
    ours = seen.cte_names
    for name in sorted(ours):
        if name in system_names or _SYSTEM_NAME.match(name):
            raise InvalidError(f"{name!r} may not be the name of a subquery", "call it otherwise")
    for name in seen.references:
        if name not in ours:
            near = [table for table in tables if table.partition(".")[2] == name]
            hint = f"did you mean {near[0]}?" if near else "tables are named as silver.klines"
            raise InvalidError(f"there is no table {name!r}", hint)
    if len(seen.references) > CTE_REFERENCES_MAX:
        raise _too_many("references to subqueries by name", CTE_REFERENCES_MAX)


def one_select() -> InvalidError:
    return InvalidError("only one SELECT may be asked", "no other statement, and no second one")


def _too_many(what: str, most: int) -> InvalidError:
    return InvalidError(f"the statement has more than {most:,} {what}", "ask for less at once")


def _nodes(root: Any, seen: _Seen) -> Iterator[dict[str, Any]]:
    """Every object of the tree. Without recursion: its depth is the stranger's choice."""
    stack: list[tuple[Any, int]] = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > DEPTH_MAX:
            raise _too_many("levels of nesting", DEPTH_MAX)
        if isinstance(node, dict):
            seen.nodes += 1
            if seen.nodes > NODES_MAX:
                raise _too_many("parts", NODES_MAX)
            yield node
            stack.extend((value, depth + 1) for value in node.values())
        elif isinstance(node, list):
            if len(node) > IN_LIST_MAX:
                raise _too_many("values in a list", IN_LIST_MAX)
            stack.extend((value, depth + 1) for value in node)


def _check_node(node: dict[str, Any], tables: Collection[str], seen: _Seen) -> None:
    if "cte_map" in node:
        seen.cte_names |= {entry["key"].lower() for entry in node["cte_map"].get("map", ())}
    if isinstance(node.get("cte_name"), str):
        seen.cte_names.add(node["cte_name"].lower())
    if "at_clause" in node:
        raise InvalidError("AT is not understood here", "as_of says which version is asked")
    kind = node.get("type")
    if kind == "TABLE_FUNCTION":
        _check_table_function(node)
    elif kind == "BASE_TABLE":
        _check_table(node, tables, seen)
    elif kind == "JOIN":
        seen.joins += 1
        if seen.joins > JOINS_MAX:
            raise _too_many("joins", JOINS_MAX)
    elif kind == "SHOW_REF" and (node.get("show_type") not in _SHOWS or "query" not in node):
        raise InvalidError(
            "SHOW is not allowed", "/v1/datasets lists tables; DESCRIBE and SUMMARIZE are allowed"
        )
    for where in ("from_table", "left", "right"):
        inner = node.get(where)
        shape = inner.get("type") if isinstance(inner, dict) else None
        is_table = where == "from_table" or kind == "JOIN"
        if is_table and shape is not None and shape not in _TABLE_REFS:
            raise InvalidError(
                f"{str(shape).lower()} is not allowed in FROM", "tables and subqueries"
            )
    if "function_name" in node:
        _check_function(node, in_from=False)


def _check_function(node: dict[str, Any], *, in_from: bool) -> None:
    name = str(node["function_name"]).lower()
    path = node.get("qualified_name", {}).get("path", [name])
    if len(path) > 1 or str(path[-1]).lower() != name:
        raise InvalidError(f"{'.'.join(map(str, path))} is not allowed", "functions have no schema")
    allowed = TABLE_FUNCTIONS if in_from else FUNCTIONS
    if name not in allowed:
        raise InvalidError(
            f"the function {name[:100]!r} is not allowed",
            "docs/sql-functions.md lists those that are",
        )
    if name in ("range", "generate_series"):
        _check_range(node)


def _check_table_function(node: dict[str, Any]) -> None:
    function = node.get("function", {})
    if "function_name" not in function:
        raise InvalidError("this is not allowed in FROM", "tables and subqueries")
    _check_function(function, in_from=True)
    if function["function_name"].lower() in ("range", "generate_series"):
        _check_range(function)


def _check_range(function: dict[str, Any]) -> None:
    """Rows that come of nothing are made in any number: their bounds must be seen, and small."""
    for argument in function.get("arguments", ()):
        expression = argument.get("expression", argument)
        literal = expression.get("literal", {})
        if literal.get("kind") != "INTEGER" or abs(int(literal.get("text", "0"))) > RANGE_MAX:
            raise InvalidError(
                f"{function['function_name']} takes whole numbers up to {RANGE_MAX:,} here",
                "written out, not computed",
            )


def _check_table(node: dict[str, Any], tables: Collection[str], seen: _Seen) -> None:
    path = node.get("qualified_name", {}).get("path") or [node.get("table_name", "")]
    name = ".".join(str(part) for part in path).lower()
    if len(path) == 1:
        seen.references.append(name)
    elif name not in tables:
        raise InvalidError(f"there is no table {name[:100]!r}", "/v1/datasets lists them")
