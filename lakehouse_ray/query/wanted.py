"""From what `narrowing` tells of a statement to the files that it needs."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.query.scan import EVERYTHING, Where
from lakehouse_ray.query.views import View

# By which files are apart.
_TEXTS = ("market", "symbol", "interval")
_EARLIEST_US, _LATEST_US = parse_time("1970"), parse_time("2200")
# Unions of their tables, row by row as they are.
_UNIONS = frozenset(f"silver.{dataset.view}" for dataset in DATASETS.values())


def columns_of(view: View) -> tuple[Sequence[str], str] | None:
    """Text columns and the time by which files of a view can be told apart.

    None: its rows are made of others, of which none may be missing.
    """
    if (view.sql and view.name not in _UNIONS) or not view.tables:
        return None
    texts = [name for name in _TEXTS if all(name in table.names for table in view.tables)]
    return texts, view.tables[0].time


def where_of(view: View, told: object) -> Where:
    """What is wanted of a view's tables at most.

    told: Of one view by `narrowed`, from a process that need not be believed: what is not of its form
        says nothing.
    """
    columns = columns_of(view)
    if columns is None or not isinstance(told, dict):
        return EVERYTHING
    equal = told.get("equal")
    values = equal.items() if isinstance(equal, dict) else ()
    texts = {
        name: value
        for name, value in values
        if name in columns[0] and isinstance(value, str) and value
    }
    start, end = told.get("start_us"), told.get("end_us")
    first = start if isinstance(start, int) else _EARLIEST_US
    until = end if isinstance(end, int) else _LATEST_US
    everything = (first, until) == (_EARLIEST_US, _LATEST_US)
    if everything or not _EARLIEST_US <= first < until <= _LATEST_US:
        return Where(texts)
    return Where(texts, TimeRange(first, until))
