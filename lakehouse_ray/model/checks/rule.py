"""What a rule is: a name, what happens to a row that breaks it, and the condition that finds it.

A condition is text in the SQL that Polars and DuckDB both read, so that a rule is written once,
evaluated by kernels on frames, and can be asked of the tables by anyone (`Rule.sql`). In it

- `x_us` is the timestamp `x` in microseconds since 1970 UTC;
- `prev_x` is the column `x` of the row before, in the order of time and key (sequence rules);
- NaN compares as greater than every number, as both engines have it (but `greatest` and `least` do
  not agree on it: they are not used), and a condition that is null is no violation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lakehouse_ray.model.venue import MARKETS, Market

Severity = Literal["reject", "flag"]

# The largest double; anything not at or below it is infinite or NaN.
DOUBLE_MAX = "1.7976931348623157e308"

OUT_OF_ORDER = "OUT_OF_ORDER"

_PREVIOUS = re.compile(r"\bprev_(\w+)")
_MICROSECONDS = re.compile(r"\b(\w+)_us\b")


@dataclass(frozen=True)
class Rule:
    """One thing that a row must fulfil.

    name: Stable code in capitals; stands in the column `flags` or as the quarantine's reason.
    severity: `reject`: the row or object goes to the quarantine. `flag`: the row stays, marked.
    doc: What a row that breaks it is like, in a sentence.
    where: Condition of the rows that break it. Empty: found while bytes become rows, by no condition
        on typed ones.
    markets: Where it holds.
    costs: Whether a marked row counts against validity in the quality score. What is normal at the
        exchange (trade numbers left out) is marked and costs nothing.
    screen: Condition on aggregates of many rows at once that is quicker to ask than `where` of each:
        where it is false none of them breaks the rule. Empty: there is none.
    """

    name: str
    severity: Severity
    doc: str
    where: str = ""
    markets: tuple[Market, ...] = MARKETS
    costs: bool = True
    screen: str = ""

    @property
    def needs_previous(self) -> bool:
        return _PREVIOUS.search(self.where) is not None

    def sql(self, order: str = "") -> str:
        """The condition in DuckDB's SQL over the lake's tables.

        order: Window of sequence rules, such as
            `PARTITION BY symbol ORDER BY transact_time, agg_trade_id`. These stand in QUALIFY, all
            others in WHERE.
        """
        text = _MICROSECONDS.sub(r"epoch_us(\1)", self.where)
        return _PREVIOUS.sub(rf"lag(\1) OVER ({order})", text)


def any_of(*conditions: str) -> str:
    return " OR ".join(f"({condition})" for condition in conditions)


def not_finite(*columns: str) -> Rule:
    return Rule(
        "NOT_FINITE",
        "flag",
        "A number is infinite or not a number.",
        any_of(*(f"NOT (abs({column}) <= {DOUBLE_MAX})" for column in columns)),
        # One such number makes the sum of its column one.
        screen=any_of(*(f"NOT (abs(sum({column})) <= {DOUBLE_MAX})" for column in columns)),
    )


def out_of_order(time: str) -> Rule:
    """Sequence rule: in the order of the source, which tables do not keep."""
    return Rule(
        OUT_OF_ORDER,
        "flag",
        "The row is earlier than the row before it.",
        f"{time}_us < prev_{time}_us",
    )
