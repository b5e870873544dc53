"""All rules, by data set."""

from __future__ import annotations

import difflib
from functools import cache

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.checks import bars, books, contracts, refusals, trades
from lakehouse_ray.model.checks.rule import Rule
from lakehouse_ray.model.datasets.registry import DATASETS, find_dataset
from lakehouse_ray.model.venue import INTERVALS, parse_interval, parse_market

_ROWS: dict[str, tuple[Rule, ...]] = {
    "aggTrades": trades.AGG_TRADES,
    "trades": trades.TRADES,
    "fundingRate": contracts.FUNDING,
    "metrics": contracts.METRICS,
    "liquidationSnapshot": contracts.LIQUIDATIONS,
    "bookTicker": books.BOOK_TICKER,
    "bookDepth": books.BOOK_DEPTH,
    "markPrice": contracts.MARK_PRICE,
    "bookLevels": books.BOOK_LEVELS,
}
_SEQUENCES: dict[str, tuple[Rule, ...]] = {
    "aggTrades": trades.AGG_TRADES_SEQUENCE,
    "trades": trades.TRADES_SEQUENCE,
    "fundingRate": contracts.FUNDING_SEQUENCE,
    "metrics": contracts.METRICS_SEQUENCE,
    "liquidationSnapshot": contracts.LIQUIDATIONS_SEQUENCE,
    "bookTicker": books.BOOK_TICKER_SEQUENCE,
    "bookDepth": books.BOOK_DEPTH_SEQUENCE,
    "markPrice": (),
    "bookLevels": (),
    **dict.fromkeys(
        ("klines", "markPriceKlines", "indexPriceKlines", "premiumIndexKlines"), bars.SEQUENCE
    ),
}


@cache
def rules_of(dataset: str, market: str, interval: str | None = None) -> tuple[Rule, ...]:
    """Rules that each row of a data set is held against, by itself.

    interval: Of bars; ignored elsewhere. Raises InvalidError for unknown names and for bars without
    an interval.
    """
    known = find_dataset(dataset)
    parse_market(market)
    if not known.bars:
        rules = _ROWS[known.name]
    elif interval is None:
        raise InvalidError(f"{known.name} needs an interval", f"one of {', '.join(INTERVALS)}")
    elif known.name == "klines":
        rules = bars.bar_rules(parse_interval(interval))
    else:
        signed = known.name == "premiumIndexKlines"
        rules = bars.price_bar_rules(parse_interval(interval), signed=signed)
    return tuple(rule for rule in rules if market in rule.markets)


@cache
def sequence_rules_of(dataset: str, market: str) -> tuple[Rule, ...]:
    """Rules that a row of one symbol is held against together with the row before it."""
    parse_market(market)
    rules = _SEQUENCES[find_dataset(dataset).name]
    return tuple(rule for rule in rules if market in rule.markets)


@cache
def rules_by_name() -> dict[str, tuple[Rule, ...]]:
    """All rules there are; a name has one per data set that words it differently."""
    found: dict[str, list[Rule]] = {}
    declared = [
        *refusals.ROW_REFUSALS,
        *refusals.OBJECT_REFUSALS,
        *refusals.RECORD_REFUSALS,
        *(rule for dataset in DATASETS.values() for rule in _all_of(dataset.name, dataset.bars)),
    ]
    for rule in declared:
        same = found.setdefault(rule.name, [])
        if rule not in same:
            same.append(rule)
    return {name: tuple(rules) for name, rules in found.items()}


def find_rules(name: str) -> tuple[Rule, ...]:
    """What a code in `flags` or in the quarantine's `reason` stands for.

    Raises InvalidError with the nearest name for an unknown one.
    """
    rules = rules_by_name().get(name.upper())
    if rules:
        return rules
    near = difflib.get_close_matches(name.upper(), rules_by_name(), n=1, cutoff=0.5)
    raise InvalidError(
        f"unknown rule {name!r}",
        f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(rules_by_name()))}",
    )


@cache
def free_names() -> frozenset[str]:
    """Names of flags that cost nothing in the quality score, wherever they stand."""
    return frozenset(
        name for name, rules in rules_by_name().items() if not any(rule.costs for rule in rules)
    )


def _all_of(dataset: str, is_bars: bool) -> tuple[Rule, ...]:
    if not is_bars:
        return (*_ROWS[dataset], *_SEQUENCES[dataset])
    rows = (
        bars.bar_rules("1m")
        if dataset == "klines"
        else bars.price_bar_rules("1m", signed=dataset == "premiumIndexKlines")
    )
    return (*rows, *_SEQUENCES[dataset])
