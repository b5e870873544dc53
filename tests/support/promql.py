"""What a question to Prometheus names: metrics, and the labels that it wants of each.

Not a parser: promtool says whether a question is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_WORDS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset",
    "bool", "inf", "nan",
}  # fmt: skip
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_GROUPING = re.compile(r"\b(by|without|on|ignoring)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")


@dataclass(frozen=True)
class Named:
    """selected: Labels by metric, of its selectors. grouped: Labels of by, on and the like."""

    selected: Mapping[str, frozenset[str]]
    grouped: frozenset[str]


def named(expr: str) -> Named:
    """Return what a question names."""
    bare = _RANGE.sub(" ", _TEXT.sub('""', expr))
    grouped = {
        label.strip() for _, labels in _GROUPING.findall(bare) for label in labels.split(",")
    }
    bare = _GROUPING.sub(" ", bare)
    selected: dict[str, set[str]] = {}
    for found in _NAME.finditer(re.sub(r"\{[^}]*\}", lambda m: " " * len(m[0]), bare)):
        name = found[0]
        rest = bare[found.end() :]
        if name.lower() in _WORDS or rest.lstrip().startswith("("):
            continue  # a function, an aggregation
        if found.start() and bare[found.start() - 1].isdigit():
            continue  # the e of a number
        labels = selected.setdefault(name, set())
        if rest.startswith("{"):
            labels.update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", rest[1 : rest.index("}")]))
    return Named(
        {name: frozenset(labels) for name, labels in selected.items()},
        frozenset(label for label in grouped if label),
    )
