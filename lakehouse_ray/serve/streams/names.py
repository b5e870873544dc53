"""Names of streams, as the exchange spells them: `btcusdt@kline_1m`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.book_ticker import BOOK_TICKER
from lakehouse_ray.model.datasets.klines import INDEX_PRICE_KLINES, KLINES, MARK_PRICE_KLINES
from lakehouse_ray.model.datasets.liquidation_snapshot import LIQUIDATION_SNAPSHOT
from lakehouse_ray.model.datasets.trades import TRADES
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.venue import INTERVALS, Market
from lakehouse_ray.serve.streams.protocol import INVALID_REQUEST, ProtocolError

# What stands behind the @, and the data set that has its rows.
KINDS: Mapping[str, Dataset] = {
    "kline": KLINES,
    "aggTrade": AGG_TRADES,
    "trade": TRADES,
    "bookTicker": BOOK_TICKER,
    "forceOrder": LIQUIDATION_SNAPSHOT,
    "markPriceKline": MARK_PRICE_KLINES,
    "indexPriceKline": INDEX_PRICE_KLINES,
}
# ccxt numbers its connections in their path: /ws/0 is no stream.
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_SYMBOL = re.compile(r"[\w.\-]{1,50}")


@dataclass(frozen=True)
class Stream:
    """Rows of one symbol. interval: Of bars, as this project spells it."""

    name: str
    kind: str
    market: Market
    symbol: str
    interval: str | None = None

    @property
    def dataset(self) -> Dataset:
        return KINDS[self.kind]

    @cached_property
    def table(self) -> Table:
        return self.dataset.table(self.interval)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The tables that its rows are in, that of live ones first."""
        hot = self.dataset.hot_table
        return (self.table,) if hot is None else (hot, self.table)

    @property
    def equal(self) -> dict[str, str]:
        """What identifies its rows in the table."""
        parts = {"market": self.market, "symbol": self.symbol, "interval": self.interval}
        return {name: value for name, value in parts.items() if value is not None}


def parse_stream(name: str, market: Market) -> Stream:
    """Raises ProtocolError for what is no stream, or none that the lake has."""
    symbol, at, what = name.partition("@")
    if not at or not _SYMBOL.fullmatch(symbol):
        raise _invalid(name, "a stream is <symbol>@<what>, such as btcusdt@kline_1m")
    if symbol != symbol.lower():
        raise _invalid(name, f"symbols are written small here: {symbol.lower()}@{what}")
    kind, underscore, spelled = what.partition("_")
    dataset = KINDS.get(kind)
    if dataset is None or market not in dataset.archive:
        known = ", ".join(_spelled(k) for k, d in KINDS.items() if market in d.archive)
        raise _invalid(name, f"the lake has {known}")
    interval: str | None = None
    if dataset.bars:
        # The month is 1M there, and 1mo is nothing.
        interval = "1mo" if spelled == "1M" else spelled
        if spelled == "1mo" or interval not in INTERVALS:
            raise _invalid(name, "intervals are 1s, 1m, … 1w, 1M")
    elif underscore:
        raise _invalid(name, f"{kind} has no intervals")
    return Stream(name, kind, market, symbol.upper(), interval)


def split_path(text: str) -> list[str]:
    """The names in a path or in `streams=`."""
    names = [name for name in text.split("/") if name]
    return [] if len(names) == 1 and _NUMBER.fullmatch(names[0]) else names


def spell_interval(interval: str) -> str:
    return "1M" if interval == "1mo" else interval


def _spelled(kind: str) -> str:
    return f"@{kind}_<interval>" if KINDS[kind].bars else f"@{kind}"


def _invalid(name: str, why: str) -> ProtocolError:
    return ProtocolError(INVALID_REQUEST, f"Invalid request: invalid stream {name[:60]!r}; {why}")
