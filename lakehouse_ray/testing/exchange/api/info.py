"""exchangeInfo of an archive of which nothing else is known: the symbols that have files."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice

from lakehouse_ray.testing.exchange.api.bars import contract_size
from lakehouse_ray.testing.exchange.history import History, Row, Series
from lakehouse_ray.testing.exchange.market import Instrument
from lakehouse_ray.testing.exchange.rest import RestAnswers, made_of

_DATASETS = ("klines", "aggTrades", "trades")
# Rows of a symbol that are looked at for the decimals of its prices.
_ROWS = 100
_DECIMALS_MAX = 8
_LOT_DECIMALS = 3


class HistoryInfo:
    """Made when it is first asked for, and again when symbols come or go."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._made: dict[str, tuple[list[str], RestAnswers]] = {}
        self._lock = threading.Lock()

    def answers(self, market: str) -> RestAnswers:
        """Every symbol with a file is one that trades: no archive tells when it stopped."""
        of_dataset = {name: self._history.symbols(market, name) for name in _DATASETS}
        symbols = sorted({symbol for found in of_dataset.values() for symbol in found})
        with self._lock:
            known = self._made.get(market)
            if known is None or known[0] != symbols:
                instruments = [self._instrument(market, symbol) for symbol in symbols]
                known = (symbols, made_of(instruments, date.max))
                self._made[market] = known
        return known[1]

    def _instrument(self, market: str, symbol: str) -> Instrument:
        rows = next(filter(None, (self._first(market, name, symbol) for name in _DATASETS)), [])
        prices = [row.cells[1] for row in rows]
        listed = datetime.fromtimestamp(rows[0].time_us // 1_000_000, UTC).date() if rows else None
        return Instrument(
            market, symbol, listed or date.min, None, price=float(prices[0]) if prices else 1.0,
            tick_decimals=min(_DECIMALS_MAX, max(map(_places, prices), default=0)),
            lot_decimals=0 if market == "cm" else _LOT_DECIMALS,
            contract_usd=contract_size(symbol) if market == "cm" else 0,
        )  # fmt: skip

    def _first(self, market: str, dataset: str, symbol: str) -> list[Row]:
        intervals = self._history.intervals(market, dataset, symbol)
        interval = intervals[-1] if dataset == "klines" and intervals else ""
        return list(islice(self._history.rows(Series(market, dataset, symbol, interval)), _ROWS))


def _places(text: str) -> int:
    return max(0, -int(Decimal(text).normalize().as_tuple().exponent))
