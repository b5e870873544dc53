"""Bars as a stream tells them: several times while they are open, then closed."""

from __future__ import annotations

from collections.abc import Iterator

from lakehouse_ray.testing.exchange.history import Row, micros
from lakehouse_ray.testing.exchange.streams.events import Event
from lakehouse_ray.testing.exchange.streams.names import StreamName
from lakehouse_ray.testing.exchange.streams.numbers import pair_of, plain

# How often an open bar is told, evenly. The exchange does it every two seconds of spot and every
# 250 ms of futures while there are trades; no client depends on that number.
OPEN_TIMES = 4
_MILLISECOND_US = 1000
_SHORT_US = 1_000_000


def bar_events(name: StreamName, rows: Iterator[Row], from_us: int) -> Iterator[Event]:
    """Events of bars that are due from a moment on.

    Of an open bar, only that it lies between its open and what it closes with is true: its numbers
    are that share of the way which is over. A bar of a second is told once, closed.
    """
    last_us = from_us
    for row in rows:
        close_us = micros(row.cells[6])
        if close_us is None:
            continue
        # The first whole millisecond after it: then all of its trades are over.
        end_us = (close_us // _MILLISECOND_US + 1) * _MILLISECOND_US
        length_us = end_us - row.time_us
        told = _Told(name, row, close_us)
        for time in range(1, OPEN_TIMES + 1) if length_us > _SHORT_US else ():
            due_us = row.time_us + length_us * time // (OPEN_TIMES + 1)
            if due_us >= last_us:
                last_us = due_us
                yield Event(due_us, 0, told.open(due_us, time))
        if end_us >= from_us:
            last_us = max(last_us, end_us)
            yield Event(last_us, 0, told.closed(last_us))


class _Told:
    """The messages of one bar."""

    def __init__(self, name: StreamName, row: Row, close_us: int) -> None:
        self._divisor = divisor = name.time_divisor
        interval = "1M" if name.interval == "1mo" else name.interval
        symbol = "0" if name.kind == "indexPriceKline" else name.symbol
        cells = [plain(text) for text in row.cells[1:11]]
        self._first, self._high, self._low, self._last = cells[:4]
        self._volume, _, self._amount, self._count, self._bought, self._paid = cells[4:]
        whose = f'"s":"{name.symbol}"'
        if name.kind != "kline":
            whose = f'"ps":"{pair_of(name.symbol)}"'
        kind = name.kind.replace("PriceKline", "Price_kline")
        self._event = f'{{"e":"{kind}","E":'
        self._head = (
            f',{whose},"k":{{"t":{row.time_us // divisor},"T":{close_us // divisor},'
            f'"s":"{symbol}","i":"{interval}","f":-1,"L":-1,"o":"{self._first}",'
        )

    def closed(self, due_us: int) -> bytes:
        return (
            f'{self._event}{due_us // self._divisor}{self._head}"c":"{self._last}",'
            f'"h":"{self._high}","l":"{self._low}","v":"{self._volume}","n":{self._count},"x":true,'
            f'"q":"{self._amount}","V":"{self._bought}","Q":"{self._paid}","B":"0"}}}}'
        ).encode()

    def open(self, due_us: int, time: int) -> bytes:
        """time: Which of the times that it is told open."""
        high, low, last = self._high, self._low, _between(self._first, self._last, time)
        if time < OPEN_TIMES // 2:
            high, low = max(self._first, last, key=float), min(self._first, last, key=float)
        volume, amount, count, bought, paid = (
            _between("0", text, time)
            for text in (self._volume, self._amount, self._count, self._bought, self._paid)
        )
        return (
            f'{self._event}{due_us // self._divisor}{self._head}"c":"{last}","h":"{high}",'
            f'"l":"{low}","v":"{volume}","n":{count},"x":false,"q":"{amount}","V":"{bought}",'
            f'"Q":"{paid}","B":"0"}}}}'
        ).encode()


def _between(start: str, end: str, time: int) -> str:
    """The number that is this share of the way from one to the other, with the end's decimals."""
    low, whole = float(start), float(end)
    return f"{low + (whole - low) * time / (OPEN_TIMES + 1):.{len(end.partition('.')[2])}f}"
