"""A deterministic market: which instruments trade, and every trade of a day.

All numbers are integers (prices in ticks, quantities in lots), so sums over any bars agree exactly.
A day is a pure function of (seed, instrument, day) and needs no day before it: prices run as a
bridge from the day's anchor to the next day's, and every day of an instrument has the same number
of trades, so that ids go on without a hole.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MINUTES = 1440
DAY_US = 86_400_000_000
_MINUTE_US = 60_000_000
_EPOCH = date(1970, 1, 1)
# Trades of one minute stand in slots of their own, each wide enough to tell its trades apart in ms.
TRADES_PER_MINUTE_MAX = 10_000
_EXPIRY = re.compile(r"_(\d\d)(\d\d)(\d\d)$", re.ASCII)


@dataclass(frozen=True)
class Instrument:
    """One symbol of one market ("spot", "um", "cm") and the character of its prices.

    listed: First day it trades.
    delisted: First day it does not any more; None while it trades.
    price: About where it starts.
    tick_decimals, lot_decimals: Decimals of prices and of quantities, at most 8 together.
    volatility: Standard deviation of a day's move, as a fraction.
    quiet: Fraction of the minutes in which nobody trades. Up to 0.5 they are minutes at which no
        longer bar opens, so that bars made of trades and bars made of finer bars (a flat one at the
        last price among them) are the same.
    trades_per_minute: At most; minutes vary between 1 and this.
    contract_usd: What a contract is worth on cm, where quantities count contracts; else 0.
    """

    market: str
    symbol: str
    listed: date
    delisted: date | None
    price: float
    tick_decimals: int
    lot_decimals: int
    volatility: float = 0.03
    quiet: float = 0.0
    trades_per_minute: int = 4
    contract_usd: int = 0

    @property
    def amount_decimals(self) -> int:
        """Decimals of price times quantity; on cm, of a quantity in the base asset."""
        return 8 if self.contract_usd else self.tick_decimals + self.lot_decimals

    @property
    def perpetual(self) -> bool:
        return self.market != "spot" and expiry(self.symbol) is None

    def trades_on(self, day: date) -> bool:
        return self.listed <= day and (self.delisted is None or day < self.delisted)


@dataclass(frozen=True)
class DayTrades:
    """The trades of a day in slots: row j holds the j-th trade of each of the 1,440 minutes.

    A slot without a trade has `active` false, no lots, and the price of the trade before it.
    `fill` marks a trade that fills the same order as the trade before it: same time, price, side.
    time_us: From midnight. `last_price`: of the day before, in ticks.
    """

    active: Bools
    fill: Bools
    price: Ints
    lots: Ints
    amount: Ints
    time_us: Ints
    buyer_is_maker: Bools
    last_price: int


def expiry(symbol: str) -> date | None:
    """The day a delivery contract ends, from its name (BTCUSDT_240628); None for all others."""
    match = _EXPIRY.search(symbol)
    return date(2000 + int(match[1]), int(match[2]), int(match[3])) if match else None


def rng(seed: int, instrument: Instrument, *about: object) -> np.random.Generator:
    """Chance that depends on nothing but its arguments."""
    text = "/".join(map(str, (seed, instrument.market, instrument.symbol, *about)))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))


@lru_cache(maxsize=4096)
def anchor(seed: int, instrument: Instrument, day: date) -> int:
    """The price at the start of `day`, in ticks: slow waves around the instrument's price."""
    waves = rng(seed, instrument, "waves")
    number = (day - _EPOCH).days
    log = 0.0
    for period in (9.0, 31.0, 97.0, 370.0):
        phase = waves.random() * math.tau
        height = instrument.volatility * math.sqrt(period) / 3
        log += height * math.sin(math.tau * number / period + phase)
    price: float = instrument.price * math.exp(log) * 10.0**instrument.tick_decimals
    return max(1, round(price))


@lru_cache(maxsize=64)
def _pattern(slots: int, quiet: float) -> tuple[Bools, Bools]:
    """Which slots have a trade and which of these are fills, the same multiset for every day.

    The last minute is always full: its last trade is the day's close.
    """
    minute = np.arange(MINUTES)
    trades = 1 + minute % slots
    trades[: round(quiet * MINUTES)] = 0
    trades[-1] = slots
    slot = np.arange(slots)[:, None]
    active = slot < trades
    fill = active & (slot > 0) & ((minute * 7 + slot * 3) % 10 < 3)
    return active, fill


def trades_per_day(instrument: Instrument) -> tuple[int, int]:
    """How many trades, and how many aggregate trades, each day has."""
    active, fill = _pattern(instrument.trades_per_minute, instrument.quiet)
    return int(active.sum()), int(active.sum() - fill.sum())


def first_ids(instrument: Instrument, day: date) -> tuple[int, int]:
    """The ids of the first trade and of the first aggregate trade of `day`."""
    trades, aggregates = trades_per_day(instrument)
    days = (day - instrument.listed).days
    return 1 + days * trades, 1 + days * aggregates


@lru_cache(maxsize=96)
def day_trades(seed: int, instrument: Instrument, day: date) -> DayTrades:
    """Every trade of a day."""
    chance = rng(seed, instrument, day)
    slots = instrument.trades_per_minute
    order = _order(chance)
    active, fill = (pattern[:, order] for pattern in _pattern(slots, instrument.quiet))
    opened = anchor(seed, instrument, day)
    closed = anchor(seed, instrument, day + timedelta(days=1))

    path = _bridge(chance, opened, closed, instrument.volatility)
    spread = max(1, opened // 5000)
    price = chance.integers(-spread, spread + 1, (slots, MINUTES))
    step = np.diff(path, prepend=opened)
    for slot in range(slots):
        price[slot] += path - step + step * (slot + 1) // slots
    price[:, -1] = closed
    np.maximum(price, 1, out=price)

    # About 500 units of the quote asset a trade (50 contracts on cm), with a long tail.
    typical = (
        50 if instrument.contract_usd else 500 * 10**instrument.lot_decimals / instrument.price
    )
    lots = 1 + (chance.standard_exponential((slots, MINUTES)) * typical).astype(np.int64)
    lots *= active
    width = _MINUTE_US // slots
    time_us = chance.integers(0, width - 1000, (slots, MINUTES))
    # In the first second, for the same reason that quiet minutes are chosen with care.
    time_us[0] %= 1_000_000
    time_us += np.arange(MINUTES) * _MINUTE_US + np.arange(slots)[:, None] * width
    buyer_is_maker = chance.integers(0, 2, (slots, MINUTES), dtype=np.int8).astype(bool)
    for slot in range(1, slots):
        same = fill[slot]
        np.copyto(price[slot], price[slot - 1], where=same | ~active[slot])
        np.copyto(time_us[slot], time_us[slot - 1], where=same)
        np.copyto(buyer_is_maker[slot], buyer_is_maker[slot - 1], where=same)
    return DayTrades(
        active, fill, price, lots, _amount(instrument, price, lots), time_us, buyer_is_maker, opened
    )


def _order(chance: np.random.Generator) -> npt.NDArray[np.intp]:
    """Which column of the pattern each minute takes.

    The quiet columns come first, and go to minutes at which neither a 3m nor a 5m bar opens, hence
    no longer one either.
    """
    minute = np.arange(MINUTES - 1)
    opens = (minute % 3 == 0) | (minute % 5 == 0)
    places = (chance.permutation(minute[~opens]), chance.permutation(minute[opens]))
    order = np.empty(MINUTES, np.intp)
    order[np.concatenate((*places, [MINUTES - 1]))] = np.arange(MINUTES)
    return order


def _bridge(chance: np.random.Generator, opened: int, closed: int, volatility: float) -> Ints:
    """Prices at the end of each minute, from `opened` before the first to `closed` at the last."""
    walk = np.cumsum(chance.standard_normal(MINUTES)) * (volatility / math.sqrt(MINUTES))
    part = np.arange(1, MINUTES + 1) / MINUTES
    log = math.log(opened) + walk - part * (walk[-1] - math.log(closed / opened))
    path: Ints = np.rint(np.exp(log)).astype(np.int64)
    path[-1] = closed
    return path


def _amount(instrument: Instrument, price: Ints, lots: Ints) -> Ints:
    if not instrument.contract_usd:
        return price * lots
    base = lots * (instrument.contract_usd * 10 ** (8 + instrument.tick_decimals))
    amount: Ints = np.rint(base / price).astype(np.int64)
    return amount
