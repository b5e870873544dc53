"""What is asked of the service, by path and parameters. Pure; the same for both clients.

What cannot be right is refused here with the local lake's words, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.registry import parse_names
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.query.asked import ask_for
from lakehouse_ray.query.moments import When, micro
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.resampled import parse_policies, plan_of
from lakehouse_ray.query.symbol_rows import identity, span_of

Names = str | Iterable[str] | None


@dataclass(frozen=True)
class Question:
    """body: Sent by POST, as JSON; None: GET. headers: Beside those of every question."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def with_params(self, **params: object) -> Question:
        return replace(self, params={**self.params, **_spelled(params)})


def spell_as_of(as_of: AsOf) -> str | None:
    """A time, the id of a snapshot, or what an answer's `meta.as_of` said."""
    if isinstance(as_of, datetime):
        return format_time(micro(as_of))
    if as_of is None:
        return None
    return str(as_of).strip()


def spell_moment(moment: When) -> str | None:
    return None if moment is None else format_time(micro(moment))


def spell_names(names: Names) -> str | None:
    if names is None:
        return None
    found = names.split(",") if isinstance(names, str) else names
    return ",".join(dict.fromkeys(name.strip() for name in found if name.strip())) or None


def rows(
    dataset: str,
    symbol: str,
    start: When,
    end: When,
    market: str,
    interval: str | None,
    as_of: AsOf,
) -> Question:
    """Rows of one symbol. Raises InvalidError for what cannot be."""
    found = find_dataset(dataset)
    series = identity(found, symbol, market, interval)
    span_of(start, end)
    times = {"start": spell_moment(start), "end": spell_moment(end)}
    return Question(f"/v1/{found.name}", _spelled({**series, **times, "as_of": spell_as_of(as_of)}))


def indicators(
    symbol: str,
    interval: str,
    names: str | Iterable[str],
    start: When,
    end: When,
    market: str,
    warmup: int,
    as_of: AsOf,
) -> Question:
    if start is None and warmup:
        raise InvalidError("a warmup needs a start", "without one, all stored bars are read")
    spelled = ",".join(request.name for request in parse_names(names))
    asked = rows(KLINES.name, symbol, start, end, market, interval, as_of)
    return asked.with_params(indicators=spelled, warmup=warmup or None)


def resampled(
    symbol: str,
    interval: str,
    start: When,
    end: When,
    market: str,
    source: str,
    offset: str | Iterable[str],
    partial: str,
    empty: str,
    as_of: AsOf,
) -> Question:
    plan_of(source, interval, offset, *parse_policies(partial, empty))
    spelled = offset if isinstance(offset, str) else ",".join(offset)
    asked = rows(KLINES.name, symbol, start, end, market, interval, as_of)
    made = {"from": source, "offset": spelled, "partial": partial, "empty": empty}
    return asked.with_params(**made)


def series(
    of: str,
    market: str | None,
    dataset: str | None,
    symbols: Names,
    interval: str | None,
    start: When,
    end: When,
    as_of: AsOf,
) -> Question:
    """of: coverage, gaps or quality."""
    first = None if start is None else micro(start)
    ask_for(market, dataset, interval, symbols, first, None if end is None else micro(end))
    params = {
        "market": market,
        "dataset": dataset,
        "symbols": spell_names(symbols),
        "interval": interval,
        "start": spell_moment(start),
        "end": spell_moment(end),
        "as_of": spell_as_of(as_of),
    }
    return Question(f"/v1/{of}", _spelled(params))


def sql(query: str, parameters: object, as_of: AsOf) -> Question:
    if isinstance(parameters, tuple):
        parameters = list(parameters)
    if parameters is not None and not isinstance(parameters, list | dict):
        raise InvalidError("parameters are a list, for ?, or a dict, for $name", "[…] or {…}")
    body = {"query": query, "parameters": parameters, "as_of": spell_as_of(as_of)}
    try:
        orjson.dumps(body)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise InvalidError(
            f"a parameter cannot be sent: {error}", "texts, numbers, true, false and null can"
        ) from error
    return Question("/v1/sql", {}, body)


def facts(of: str, as_of: AsOf = None, **params: object) -> Question:
    """of: universe, instruments, identities, exchangeInfo, why, snapshots, datasets."""
    return Question(f"/v1/{of}", _spelled({**params, "as_of": spell_as_of(as_of)}))


def page_size(rows: int) -> int:
    """Raises InvalidError for a page without rows."""
    if rows < 1:
        raise InvalidError(f"a page cannot have {rows} rows", "1 or more")
    return rows


def _spelled(params: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value is not None}
