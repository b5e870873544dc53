"""Bars of every interval from the same trades: those of a minute, then bars of bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import numpy as np

from lakehouse_ray.testing.exchange.keys import INTERVAL_SECONDS, next_month, seconds_of
from lakehouse_ray.testing.exchange.market import (
    MINUTES,
    DayTrades,
    Instrument,
    Ints,
    anchor,
    day_trades,
    rng,
)

_DAY_S = 86_400
# Mark and index prices are sampled every second.
_SAMPLES_PER_MINUTE = 60


@dataclass(frozen=True)
class Bars:
    """Consecutive bars; prices in ticks, quantities in lots, amounts as the instrument has them.

    opened_s: Seconds since 1970-01-01 UTC.
    """

    opened_s: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    lots: Ints
    amount: Ints
    count: Ints
    buy_lots: Ints
    buy_amount: Ints

    def grouped(self, size: int) -> Bars:
        """Each `size` consecutive bars as one; their number must be a multiple of `size`."""
        starts = np.arange(0, len(self.open), size)
        return Bars(
            self.opened_s[::size],
            self.open[::size],
            np.maximum.reduceat(self.high, starts),
            np.minimum.reduceat(self.low, starts),
            self.close[size - 1 :: size],
            *(np.add.reduceat(column, starts) for column in self._sums()),
        )

    def _sums(self) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        return self.lots, self.amount, self.count, self.buy_lots, self.buy_amount

    @classmethod
    def joined(cls, parts: Sequence[Bars]) -> Bars:
        return cls(
            *(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True))
        )


def _columns(bars: Bars) -> tuple[Ints, ...]:
    return (bars.opened_s, bars.open, bars.high, bars.low, bars.close, *bars._sums())


@lru_cache(maxsize=512)
def minutes(seed: int, instrument: Instrument, day: date) -> Bars:
    """The 1m bars of a day. A minute without a trade is flat at the price before it."""
    trades = day_trades(seed, instrument, day)
    bought = ~trades.buyer_is_maker
    quiet = ~trades.active[0]
    close = _carried(trades.price[-1], quiet, trades.last_price)
    return Bars(
        seconds_of(day) + np.arange(MINUTES) * 60,
        np.where(quiet, close, trades.price[0]),
        np.where(quiet, close, trades.price.max(axis=0)),
        np.where(quiet, close, trades.price.min(axis=0)),
        close,
        trades.lots.sum(axis=0),
        trades.amount.sum(axis=0),
        trades.active.sum(axis=0),
        (trades.lots * bought).sum(axis=0),
        (trades.amount * bought).sum(axis=0),
    )


def seconds(seed: int, instrument: Instrument, day: date) -> Bars:
    """The 86,400 bars of a second each."""
    trades = day_trades(seed, instrument, day)
    at = _in_time_order(trades)
    second = trades.time_us.T[at] // 1_000_000
    price, lots, amount = trades.price.T[at], trades.lots.T[at], trades.amount.T[at]
    bought = ~trades.buyer_is_maker.T[at]
    starts = np.flatnonzero(np.diff(second, prepend=-1))
    place = second[starts]
    ends = np.append(starts[1:], len(second)) - 1

    def spread(values: Ints) -> Ints:
        column = np.zeros(_DAY_S, np.int64)
        column[place] = values
        return column

    quiet = np.ones(_DAY_S, bool)
    quiet[place] = False
    close = _carried(spread(price[ends]), quiet, trades.last_price)
    prices = (price[starts], np.maximum.reduceat(price, starts), np.minimum.reduceat(price, starts))
    sums = (lots, amount, np.ones_like(lots), lots * bought, amount * bought)
    opened, high, low = (np.where(quiet, close, spread(values)) for values in prices)
    return Bars(
        seconds_of(day) + np.arange(_DAY_S),
        opened,
        high,
        low,
        close,
        *(spread(np.add.reduceat(values, starts)) for values in sums),
    )


def derived_minutes(seed: int, instrument: Instrument, day: date, dataset: str) -> Bars:
    """The 1m bars of a price that is not traded: mark, index, or premium (in 1e-8)."""
    chance = rng(seed, instrument, day, dataset)
    traded = minutes(seed, instrument, day)
    nothing = np.zeros(MINUTES, np.int64)
    sums = (nothing, nothing, nothing + _SAMPLES_PER_MINUTE, nothing, nothing)
    if dataset == "premiumIndexKlines":
        samples = np.rint(chance.standard_normal((4, MINUTES)) * 30_000 - 10_000).astype(np.int64)
        return Bars(
            traded.opened_s,
            samples[0],
            samples.max(axis=0),
            samples.min(axis=0),
            samples[3],
            *sums,
        )
    spread = max(1, anchor(seed, instrument, day) // 20_000)
    # Added to all four prices of a minute, so that high stays high and low stays low.
    off = chance.integers(0, spread + 1, MINUTES)
    return Bars(
        traded.opened_s,
        traded.open + off,
        traded.high + off,
        traded.low + off,
        traded.close + off,
        *sums,
    )


def day_bars(seed: int, instrument: Instrument, day: date, dataset: str, interval: str) -> Bars:
    """The bars of one day, for an interval of a day or less."""
    if interval == "1s":
        return seconds(seed, instrument, day)
    if dataset == "klines":
        bars = minutes(seed, instrument, day)
    else:
        bars = derived_minutes(seed, instrument, day, dataset)
    size = INTERVAL_SECONDS[interval] // 60
    return bars if size == 1 else bars.grouped(size)


def long_bar(
    seed: int, instrument: Instrument, opened: date, dataset: str, interval: str
) -> Bars | None:
    """The one bar that opens on `opened`; None where the instrument never traded in it."""
    day, end = opened, bar_end(opened, interval)
    parts = []
    while day < end:
        if instrument.trades_on(day):
            parts.append(day_bars(seed, instrument, day, dataset, "1d"))
        day += timedelta(days=1)
    if not parts:
        return None
    bar = Bars.joined(parts).grouped(len(parts))
    bar.opened_s[0] = seconds_of(opened)
    return bar


def bar_open(day: date, interval: str) -> date:
    """The opening day of the 3d, 1w or 1mo bar that holds `day`.

    Weeks open on Monday; 3d bars every third day from 1970-01-01.
    """
    if interval == "1mo":
        return day.replace(day=1)
    if interval == "1w":
        return day - timedelta(days=day.weekday())
    return day - timedelta(days=(day - date(1970, 1, 1)).days % 3)


def bar_end(opened: date, interval: str) -> date:
    if interval == "1mo":
        return next_month(opened)
    return opened + timedelta(days=7 if interval == "1w" else 3)


def _carried(close: Ints, quiet: np.ndarray[tuple[int], np.dtype[np.bool_]], before: int) -> Ints:
    """`close`, with that of the last bar that traded in the place of each quiet one."""
    last = np.maximum.accumulate(np.where(quiet, -1, np.arange(len(close))))
    return np.where(last < 0, before, close[last])


def _in_time_order(trades: DayTrades) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """A mask for the transposed columns: minute by minute, slot by slot is the order of time."""
    return trades.active.T
