"""Streams that are asked for, and their names as the exchange spells them: `btcusdt@kline_1m`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.book_levels import BOOK_LEVELS
from lakehouse_ray.model.datasets.book_ticker import BOOK_TICKER
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.liquidation_snapshot import LIQUIDATION_SNAPSHOT
from lakehouse_ray.model.datasets.mark_prices import MARK_PRICES
from lakehouse_ray.model.datasets.trades import TRADES
from lakehouse_ray.model.venue import INTERVALS, MARKETS, Market

Kind = Literal["kline", "aggTrade", "trade", "bookTicker", "forceOrder", "markPrice", "depth"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# The data set that has a kind's rows; of changes of the book, those of its best levels.
DATASET_OF: Mapping[Kind, str] = {
    "kline": KLINES.name,
    "aggTrade": AGG_TRADES.name,
    "trade": TRADES.name,
    "bookTicker": BOOK_TICKER.name,
    "forceOrder": LIQUIDATION_SNAPSHOT.name,
    "markPrice": MARK_PRICES.name,
    "depth": BOOK_LEVELS.name,
}
_FUTURES_ALONE = frozenset({"forceOrder", "markPrice"})
# How often a stream of changes speaks; without it the exchange chooses.
_PACES: Mapping[Kind, frozenset[str]] = {
    "depth": frozenset({"0ms", "100ms", "250ms", "500ms", "1000ms"}),
    "markPrice": frozenset({"1s"}),
}
_SYMBOL = re.compile(r"\w[\w.\-]{0,49}")


@dataclass(frozen=True)
class Stream:
    """What one symbol sends of one kind.

    interval: Of bars, as this project spells it. pace: `100ms`, `1s`; empty: the exchange's own.
    """

    market: Market
    kind: Kind
    symbol: str
    interval: str | None = None
    pace: str = ""

    @property
    def dataset(self) -> str:
        return DATASET_OF[self.kind]

    @cached_property
    def name(self) -> str:
        what: str = self.kind
        if self.interval is not None:
            what += "_" + ("1M" if self.interval == "1mo" else self.interval)
        if self.pace:
            what += f"@{self.pace}"
        # The exchange writes letters small, and those of other scripts as they are.
        return f"{self.symbol.lower()}@{what}"


def parse_stream(name: str, market: Market) -> Stream:
    """Read a stream's name. Raises InvalidError for what is none, or none that is captured."""
    symbol, at, what = name.partition("@")
    if market not in MARKETS or not at or not _SYMBOL.fullmatch(symbol):
        raise _invalid(name, "a stream is <symbol>@<what>, such as btcusdt@kline_1m")
    what, _, pace = what.partition("@")
    spelled, underscore, interval = what.partition("_")
    kind = next((kind for kind in KINDS if kind == spelled), None)
    if kind is None or (market == "spot" and kind in _FUTURES_ALONE):
        raise _invalid(name, f"{market} is captured as {', '.join(kinds_of(market))}")
    if (kind == "kline") != bool(underscore) or (pace and pace not in _PACES.get(kind, ())):
        raise _invalid(name, "such as btcusdt@kline_1m, btcusdt@aggTrade, btcusdt@depth@100ms")
    if kind == "kline":
        interval = "1mo" if interval == "1M" else interval
        # 1mo is this project's own spelling.
        if interval not in INTERVALS or name.endswith("1mo"):
            raise _invalid(name, "intervals are 1s, 1m, … 1w, 1M")
    return Stream(market, kind, symbol.upper(), interval or None, pace)


def kinds_of(market: Market) -> tuple[Kind, ...]:
    """What a market's symbols send."""
    return tuple(kind for kind in KINDS if market != "spot" or kind not in _FUTURES_ALONE)


def _invalid(name: str, hint: str) -> InvalidError:
    return InvalidError(f"no stream that is captured: {name[:80]!r}", hint)
