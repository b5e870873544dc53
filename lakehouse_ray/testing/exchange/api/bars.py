"""Bars as the exchange has them at a moment: the closed ones, and the open one as far as it went.

Closed bars are the archive's own rows. Of an interval without a folder they are made of the longest
finer bars that have one. The open bar is made of what had happened by the moment: the closed bars of
finer intervals, from long to short, then the trades (or aggregate trades) since the last of them.
Where the archive has nothing finer, it stands at its own opening price, without volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import islice

from lakehouse_ray.testing.exchange.bars import bar_end, bar_open
from lakehouse_ray.testing.exchange.history import History, Row, Series, micros
from lakehouse_ray.testing.exchange.keys import INTERVAL_SECONDS, LONG_INTERVALS, seconds_of

DAY_S = 86_400
_EIGHT = 8


class BarHistory:
    """Pages of bars out of an archive. Safe to use from several threads."""

    def __init__(self, history: History) -> None:
        self._history = history

    def page(
        self, series: Series, start_us: int, end_us: int, limit: int, now_us: int, *, newest: bool
    ) -> list[Row]:
        """At most `limit` bars that open in [start_us, end_us) and have opened by `now_us`.

        newest: The last ones instead of the first; in order of time all the same.
        """
        end_us = min(end_us, now_us + 1)
        if start_us >= end_us:
            return []
        if self._history.has(series):
            if newest:
                rows = [r for r in self._history.last(series, limit, end_us) if r[0] >= start_us]
            else:
                rows = list(islice(self._history.rows(series, start_us, end_us), limit))
        else:
            rows = self._made_page(series, start_us, end_us, limit, now_us, newest)
        if rows and closes_us(rows[-1]) > now_us:
            rows[-1] = self.open_bar(series, rows[-1], now_us)
        return rows

    def open_bar(self, series: Series, whole: Row, now_us: int) -> Row:
        """What is known at a moment of a bar that is not closed yet. whole: As the archive has it."""
        total = _Total()
        begun_us = whole.time_us
        for interval in self._finer(series):
            finer = Series(series.market, series.dataset, series.symbol, interval)
            for row in self._history.rows(finer, begun_us, now_us):
                closed_us = closes_us(row)
                if closed_us > now_us:
                    break
                total.add_bar(row)
                begun_us = closed_us
        if series.dataset == "klines":
            for trade in self._trades(series, begun_us, now_us + 1):
                total.add_trade(trade, series)
        return total.row(whole)

    def _made_page(
        self, series: Series, start_us: int, end_us: int, limit: int, now_us: int, newest: bool
    ) -> list[Row]:
        source = next(iter(self._finer(series)), None)
        if source is None:
            return []
        finer = Series(series.market, series.dataset, series.symbol, source)
        if not newest:
            return list(islice(self._made(series, finer, start_us, end_us, now_us), limit))
        # Twice as far back each time, so that holes cost a few looks and no look at everything.
        reach_us = (limit + 1) * (INTERVAL_SECONDS[series.interval] or 31 * DAY_S) * 1_000_000
        last = self._history.last(finer, 1, end_us)
        from_us = last[0].time_us if last else start_us
        while True:
            from_us = max(start_us, from_us - reach_us)
            rows = list(self._made(series, finer, from_us, end_us, now_us))
            if len(rows) >= limit or from_us <= start_us:
                return rows[-limit:]
            reach_us *= 2

    def _made(
        self, series: Series, finer: Series, start_us: int, end_us: int, now_us: int
    ) -> Iterator[Row]:
        """Bars of bars. The last one may be open: it is given as it will be, to be replaced."""
        first_us, _ = bounds_us(series.interval, start_us)
        if first_us < start_us:
            first_us = bounds_us(series.interval, start_us)[1]
        total, opened_us, until_us = _Total(), -1, -1
        for row in self._history.rows(finer, first_us):
            if row.time_us >= until_us:
                if opened_us >= 0:
                    yield total.made(opened_us, until_us)
                total = _Total()
                opened_us, until_us = bounds_us(series.interval, row.time_us)
                if opened_us >= end_us:
                    return
            total.add_bar(row)
        if opened_us >= 0:
            yield total.made(opened_us, until_us)

    def _finer(self, series: Series) -> list[str]:
        """The intervals with a folder that make up this one, from long to short."""
        length_s = INTERVAL_SECONDS[series.interval] or DAY_S
        if series.interval in LONG_INTERVALS:
            length_s = DAY_S
        found = [
            interval
            for interval in self._history.intervals(series.market, series.dataset, series.symbol)
            if interval not in LONG_INTERVALS
            and interval != series.interval
            and length_s % INTERVAL_SECONDS[interval] == 0
        ]
        return found[::-1]

    def _trades(self, series: Series, start_us: int, end_us: int) -> Iterable[Row]:
        for dataset in ("trades", "aggTrades"):
            trades = Series(series.market, dataset, series.symbol)
            if self._history.has(trades):
                return self._history.rows(trades, start_us, end_us)
        return ()


def closes_us(bar: Row) -> int:
    """The first instant after a bar, by its close_time; its own opening where that is no time."""
    text = bar.cells[6]
    closes = micros(text)
    if closes is None:
        return bar.time_us
    return closes + (1 if len(text) >= 16 else 1000)


def bounds_us(interval: str, moment_us: int) -> tuple[int, int]:
    """When the bar that holds a moment opens, and the next one does."""
    if interval in LONG_INTERVALS:
        day = datetime.fromtimestamp(moment_us // 1_000_000, UTC).date()
        opened = bar_open(day, interval)
        return _day_us(opened), _day_us(bar_end(opened, interval))
    length_us = INTERVAL_SECONDS[interval] * 1_000_000
    opened_us = moment_us - moment_us % length_us
    return opened_us, opened_us + length_us


def _day_us(day: date) -> int:
    return seconds_of(day) * 1_000_000


@dataclass
class _Total:
    """Bars and trades added up. Decimals keep the most places that any of them had."""

    open: str = ""
    high: Decimal = Decimal(0)
    high_text: str = ""
    low: Decimal = Decimal(0)
    low_text: str = ""
    close: str = ""
    volume: Decimal = Decimal(0)
    amount: Decimal = Decimal(0)
    count: int = 0
    bought: Decimal = Decimal(0)
    bought_amount: Decimal = Decimal(0)

    def add_bar(self, bar: Row) -> None:
        _, opened, high, low, close, volume, _, amount, count, bought, bought_amount, _ = bar.cells
        self._add_prices(opened, high, low, close)
        self.volume += Decimal(volume)
        self.amount += Decimal(amount)
        self.count += int(count)
        self.bought += Decimal(bought)
        self.bought_amount += Decimal(bought_amount)

    def add_trade(self, trade: Row, series: Series) -> None:
        cells = trade.cells
        price, quantity = cells[1], Decimal(cells[2])
        aggregated = trade_is_aggregated(trade, series.market)
        if not aggregated:
            amount = Decimal(cells[3])
        elif series.market == "cm":
            amount = quantity * contract_size(series.symbol) / Decimal(price)
        else:
            amount = quantity * Decimal(price)
        self._add_prices(price, price, price, price)
        self.volume += quantity
        self.amount += amount
        self.count += int(cells[4]) - int(cells[3]) + 1 if aggregated else 1
        if cells[6 if aggregated else 5].lower() == "false":
            self.bought += quantity
            self.bought_amount += amount

    def row(self, whole: Row) -> Row:
        """In the place of a bar: its times, and the places of its numbers."""
        cells = whole.cells
        if not self.open:
            zeros = {at: _places(Decimal(0), cells[at]) for at in (5, 7, 9, 10)}
            told = (cells[0], *(cells[1],) * 4, zeros[5], cells[6], zeros[7], "0")
            return Row(whole.time_us, (*told, zeros[9], zeros[10], "0"))
        return Row(
            whole.time_us,
            (
                cells[0], self.open, self.high_text, self.low_text, self.close,
                _places(self.volume, cells[5]), cells[6], _places(self.amount, cells[7]),
                str(self.count), _places(self.bought, cells[9]),
                _places(self.bought_amount, cells[10]), "0",
            ),
        )  # fmt: skip

    def made(self, opened_us: int, until_us: int) -> Row:
        return Row(
            opened_us,
            (
                str(opened_us), self.open, self.high_text, self.low_text, self.close,
                format(self.volume, "f"), str(until_us - 1), format(self.amount, "f"),
                str(self.count), format(self.bought, "f"), format(self.bought_amount, "f"), "0",
            ),
        )  # fmt: skip

    def _add_prices(self, opened: str, high: str, low: str, close: str) -> None:
        if not self.open:
            self.open = opened
        if not self.high_text or Decimal(high) > self.high:
            self.high, self.high_text = Decimal(high), high
        if not self.low_text or Decimal(low) < self.low:
            self.low, self.low_text = Decimal(low), low
        self.close = close


def trade_is_aggregated(trade: Row, market: str) -> bool:
    """Whether a row is of aggTrades: those have one column more than the market's trades."""
    return len(trade.cells) == (8 if market == "spot" else 7)


def contract_size(symbol: str) -> int:
    """What a COIN-M contract is worth, in USD."""
    return 100 if symbol.startswith("BTCUSD") else 10


def _places(value: Decimal, like: str) -> str:
    """With the decimal places of `like`, or those that the value needs: 8 at most of these."""
    needed = -int(value.normalize().as_tuple().exponent)
    places = max(_places_of(like), min(_EIGHT, needed))
    return format(value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN), "f")


def _places_of(text: str) -> int:
    return max(0, -int(Decimal(text or "0").as_tuple().exponent))
