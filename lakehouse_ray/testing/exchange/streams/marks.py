"""Mark prices as a stream tells them, from bars of the mark price and the index, and funding."""

from __future__ import annotations

from collections.abc import Iterator

from lakehouse_ray.testing.exchange.history import History, Row, Series
from lakehouse_ray.testing.exchange.streams.events import Event
from lakehouse_ray.testing.exchange.streams.names import StreamName

_MINUTE_US = 60_000_000
_SECOND_US = 1_000_000
_DECIMALS = 8


def mark_events(name: StreamName, history: History, from_us: int) -> Iterator[Event] | None:
    """Events from a moment on; None of a symbol without bars of a minute of its mark price."""
    marks = Series(name.market, "markPriceKlines", name.symbol, "1m")
    return _events(name, history, marks, from_us) if history.has(marks) else None


def _events(name: StreamName, history: History, marks: Series, from_us: int) -> Iterator[Event]:
    period_us = _SECOND_US if name.option == "1s" else 3 * _SECOND_US
    start_us = from_us - _MINUTE_US
    index = _Following(
        history.rows(Series(name.market, "indexPriceKlines", _index(name), "1m"), start_us)
    )
    funding = _Following(history.rows(Series(name.market, "fundingRate", name.symbol), from_us))
    for mark in history.rows(marks, start_us):
        at_index = index.from_moment(mark.time_us)
        if at_index is None or at_index.time_us != mark.time_us:
            at_index = mark
        for due_us in range(mark.time_us, mark.time_us + _MINUTE_US, period_us):
            if due_us < from_us:
                continue
            part = (due_us - mark.time_us) / _MINUTE_US
            price, indexed = _price(mark, part), _price(at_index, part)
            yield Event(due_us, 0, _told(name, due_us, price, indexed, funding.from_moment(due_us)))


def _index(name: StreamName) -> str:
    """Of COIN-M, the index is a pair's."""
    return name.symbol.partition("_")[0] if name.market == "cm" else name.symbol


def _price(bar: Row, part: float) -> str:
    """On the straight way from the open to the close of its minute."""
    first, last = float(bar.cells[1]), float(bar.cells[4])
    return f"{first + (last - first) * part:.{_DECIMALS}f}"


def _told(name: StreamName, due_us: int, price: str, index: str, funding: Row | None) -> bytes:
    """Of contracts that are delivered, and so have no funding, it has an empty rate at 0."""
    rate, moment = "", 0
    if funding is not None:
        rate = f"{float(funding.cells[2]):.{_DECIMALS}f}"
        # Files have it with milliseconds by which it came late.
        moment = funding.time_us // _SECOND_US * _SECOND_US // name.time_divisor
    prices = (
        f'"i":"{index}","P":"{index}"' if name.market == "um" else f'"P":"{index}","i":"{index}"'
    )
    return (
        f'{{"e":"markPriceUpdate","E":{due_us // name.time_divisor},"s":"{name.symbol}",'
        f'"p":"{price}",{prices},"r":"{rate}","T":{moment}}}'
    ).encode()


class _Following:
    """Rows in order of time, asked for by moments that do not go back."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next: Row | None = next(rows, None)

    def from_moment(self, moment_us: int) -> Row | None:
        """The first row of the moment or later."""
        while self._next is not None and self._next.time_us < moment_us:
            self._next = next(self._rows, None)
        return self._next
