"""Rows of an archive as the messages that the exchange would have sent of them.

What no row has is what the exchange sends where there is none (a bar's first and last trade: -1), or
the only value that recordings have (of a futures trade, `"X":"MARKET"`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from lakehouse_ray.testing.exchange.history import History, Row, Series
from lakehouse_ray.testing.exchange.keys import INTERVAL_SECONDS
from lakehouse_ray.testing.exchange.streams.bars import bar_events
from lakehouse_ray.testing.exchange.streams.events import Event
from lakehouse_ray.testing.exchange.streams.marks import mark_events
from lakehouse_ray.testing.exchange.streams.names import StreamName
from lakehouse_ray.testing.exchange.streams.numbers import boolean, pair_of, plain

PIECE = 512
_MONTH_US = 31 * 86_400_000_000
_KLINES = {
    "kline": "klines",
    "markPriceKline": "markPriceKlines",
    "indexPriceKline": "indexPriceKlines",
}
_DATASETS = {
    "aggTrade": "aggTrades",
    "trade": "trades",
    "bookTicker": "bookTicker",
    "forceOrder": "liquidationSnapshot",
}
Write = Callable[[Row], str]


class RowStreams:
    """Streams of what an archive has. A Source.

    Trades, best prices and liquidations are sent at their own time; bars in the first millisecond
    after they closed, and while they are open a few times (`bars`); mark prices every three seconds
    or every one (`marks`).
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def events(self, name: StreamName, from_us: int) -> Iterator[Sequence[Event]] | None:
        events = self._events(name, from_us)
        return None if events is None else _in_pieces(events)

    def _events(self, name: StreamName, from_us: int) -> Iterator[Event] | None:
        history = self._history
        if name.kind in _KLINES:
            series = Series(name.market, _KLINES[name.kind], name.symbol, name.interval)
            if not history.has(series):
                return None
            # Bars that are still open then have begun before.
            length_us = INTERVAL_SECONDS[name.interval] * 1_000_000 or _MONTH_US
            return bar_events(name, history.rows(series, from_us - length_us), from_us)
        if name.kind == "markPrice":
            return mark_events(name, history, from_us)
        if name.kind not in _DATASETS:
            return None
        series = Series(name.market, _DATASETS[name.kind], name.symbol)
        if not history.has(series):
            return None
        write = _WRITERS[name.kind](name)
        return (Event(row.time_us, 0, write(row).encode()) for row in history.rows(series, from_us))


def _agg_trade(name: StreamName) -> Write:
    spot, symbol, divisor = name.market == "spot", name.symbol, name.time_divisor

    def write(row: Row) -> str:
        number, price, quantity, first, last, _, maker, *best = row.cells
        time = row.time_us // divisor
        whose = f'"s":"{symbol}","a":{number}' if spot else f'"a":{number},"s":"{symbol}"'
        end = f',"M":{boolean(best[0])}' if spot else ""
        return (
            f'{{"e":"aggTrade","E":{time},{whose},"p":"{plain(price)}","q":"{plain(quantity)}",'
            f'"f":{first},"l":{last},"T":{time},"m":{boolean(maker)}{end}}}'
        )

    return write


def _trade(name: StreamName) -> Write:
    spot, symbol, divisor = name.market == "spot", name.symbol, name.time_divisor

    def write(row: Row) -> str:
        number, price, quantity, _, _, maker, *best = row.cells
        time = row.time_us // divisor
        what = f'"s":"{symbol}","t":{number},"p":"{plain(price)}","q":"{plain(quantity)}"'
        if spot:
            return (
                f'{{"e":"trade","E":{time},{what},"T":{time},"m":{boolean(maker)},'
                f'"M":{boolean(best[0])}}}'
            )
        return f'{{"e":"trade","E":{time},"T":{time},{what},"X":"MARKET","m":{boolean(maker)}}}'

    return write


def _book_ticker(name: StreamName) -> Write:
    symbol, divisor = name.symbol, name.time_divisor
    pair = f',"ps":"{pair_of(symbol)}"' if name.market == "cm" else ""

    def write(row: Row) -> str:
        number, bid, bids, ask, asks, _, sent = row.cells
        if pair:
            whose = f'"u":{number},"e":"bookTicker","s":"{symbol}"{pair}'
        else:
            whose = f'"e":"bookTicker","u":{number},"s":"{symbol}"'
        time = row.time_us // divisor
        told = int(sent) if sent.isdigit() else time
        return (
            f'{{{whose},"b":"{plain(bid)}","B":"{plain(bids)}","a":"{plain(ask)}",'
            f'"A":"{plain(asks)}","T":{time},"E":{told}}}'
        )

    return write


def _force_order(name: StreamName) -> Write:
    symbol, divisor = name.symbol, name.time_divisor
    pair = f',"ps":"{pair_of(symbol)}"' if name.market == "cm" else ""

    def write(row: Row) -> str:
        _, side, kind, force, quantity, price, average, status, last, filled = row.cells
        time = row.time_us // divisor
        return (
            f'{{"e":"forceOrder","E":{time},"o":{{"s":"{symbol}"{pair},"S":"{side}","o":"{kind}",'
            f'"f":"{force}","q":"{plain(quantity)}","p":"{plain(price)}","ap":"{plain(average)}",'
            f'"X":"{status}","l":"{plain(last)}","z":"{plain(filled)}","T":{time}}}}}'
        )

    return write


_WRITERS: Mapping[str, Callable[[StreamName], Write]] = {
    "aggTrade": _agg_trade,
    "trade": _trade,
    "bookTicker": _book_ticker,
    "forceOrder": _force_order,
}


def _in_pieces(events: Iterator[Event]) -> Iterator[Sequence[Event]]:
    while piece := list(islice(events, PIECE)):
        yield piece
