"""exchangeInfo: what the exchange says of each of its symbols, at the moment it is asked.

The answer's own `serverTime` is not used: on futures it has been seen a day and a half behind, and
the exchange asks to ignore it there. When the answer was received is what counts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import orjson

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.instruments import EXCHANGE_INFO_KEYS
from lakehouse_ray.model.records.base import read_record
from lakehouse_ray.model.records.instruments import InstrumentRecord
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.source import BadRecord, ExchangeInfo, SymbolState

# Differ from one answer to the next though nothing has happened.
_VOLATILE = ("serverTime",)
_RAW_CHARACTERS_MAX = 1000
_DIGEST_DIGITS = 16


def exchange_info_url(market: Market, base_url: str) -> str:
    return f"{base_url}/{EXCHANGE_INFO_KEYS[market]}"


def same_content(one: bytes, other: bytes) -> bool:
    """Whether two answers say the same, whatever time of the day they name."""
    if one == other:
        return True
    try:
        return _stable(one) == _stable(other)
    except BadDataError:
        return False


def read_exchange_info(body: bytes) -> ExchangeInfo:
    """Read an answer; a record that is malformed does not keep the others from being read.

    Raises BadDataError (NOT_EXCHANGE_INFO, EMPTY) for one that is none, or lists no symbol.
    """
    items = _document(body).get("symbols")
    if not isinstance(items, list):
        raise BadDataError("NOT_EXCHANGE_INFO", f"it has no list of symbols: {body[:120]!r}")
    if not items:
        raise BadDataError("EMPTY", "it lists no symbol")
    states: dict[str, SymbolState] = {}
    refused: list[BadRecord] = []
    clashing = _clashing(items)
    for line, item in enumerate(items, start=1):
        raw = _text(item)
        name = _name(item)
        try:
            if name in clashing:
                raise BadDataError("CONFLICTING_KEY", f"{name} has several records that differ")
            record = read_record(InstrumentRecord, item)
        except BadDataError as error:
            shown = raw[:_RAW_CHARACTERS_MAX]
            refused.append(BadRecord(line, error.reason, error.detail, shown, name or ""))
            continue
        digest = hashlib.sha256(raw.encode()).hexdigest()[:_DIGEST_DIGITS]
        states[record.symbol] = SymbolState(record, raw, digest)
    return ExchangeInfo(states, tuple(refused))


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadDataError("NOT_EXCHANGE_INFO", f"no JSON ({error}): {body[:120]!r}") from error
    if not isinstance(document, dict):
        raise BadDataError("NOT_EXCHANGE_INFO", f"no JSON object: {body[:120]!r}")
    return document


def _stable(body: bytes) -> dict[str, Any]:
    return {name: value for name, value in _document(body).items() if name not in _VOLATILE}


def _text(item: Any) -> str:
    return orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()


def _name(item: Any) -> str | None:
    name = item.get("symbol") if isinstance(item, dict) else None
    return name if isinstance(name, str) and name else None


def _clashing(items: list[Any]) -> frozenset[str]:
    """Symbols with several records that differ."""
    names = Counter(name for item in items if (name := _name(item)) is not None)
    repeated = {name for name, count in names.items() if count > 1}
    texts: dict[str, set[str]] = {name: set() for name in repeated}
    for item in items:
        name = _name(item)
        if name in repeated:
            texts[name].add(_text(item))
    return frozenset(name for name, distinct in texts.items() if len(distinct) > 1)
