"""The CSVs of the synthetic market, spelled as Binance spells them in each market and year."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa

from lakehouse_ray.testing.exchange.bars import Bars
from lakehouse_ray.testing.exchange.keys import INTERVAL_SECONDS, ArchiveKey, columns, seconds_of
from lakehouse_ray.testing.exchange.market import (
    Instrument,
    Ints,
    anchor,
    day_trades,
    first_ids,
    rng,
)

# Spot files count microseconds from here on; futures stay with milliseconds.
MICROSECONDS_FROM = date(2025, 1, 1)
# Futures files have a header from here on; older ones were never made again.
HEADER_FROM: Mapping[str, date] = {
    "klines": date(2022, 5, 1),
    "markPriceKlines": date(2022, 5, 1),
    "indexPriceKlines": date(2022, 5, 1),
    "premiumIndexKlines": date(2022, 5, 1),
    "trades": date(2022, 8, 11),
    "aggTrades": date(2022, 8, 11),
}
_SPOT_DECIMALS = 8


def header(key: ArchiveKey) -> str:
    """The first line of the file, with its newline; empty where it has none."""
    if key.market == "spot" or key.period < HEADER_FROM.get(key.dataset, date.min):
        return ""
    return ",".join(columns(key.market, key.dataset)) + "\n"


def klines_csv(key: ArchiveKey, instrument: Instrument, bars: Bars) -> str:
    unit = _per_second(key)
    price, lots, amount = _spellings(key, instrument)
    if key.dataset == "premiumIndexKlines":
        price = _Decimals(8)
    frame = pl.DataFrame(
        {
            "open_time": bars.opened_s * unit,
            "open": price.spell(bars.open),
            "high": price.spell(bars.high),
            "low": price.spell(bars.low),
            "close": price.spell(bars.close),
            "volume": lots.spell(bars.lots),
            "close_time": _closed_s(key, bars.opened_s) * unit - 1,
            "quote_volume": amount.spell(bars.amount),
            "count": bars.count,
            "taker_buy_volume": lots.spell(bars.buy_lots),
            "taker_buy_quote_volume": amount.spell(bars.buy_amount),
            "ignore": np.zeros(len(bars.open), np.int8),
        }
    )
    return frame.write_csv(include_header=False)


def trades_csv(seed: int, key: ArchiveKey, instrument: Instrument, day: date) -> str:
    trades = day_trades(seed, instrument, day)
    at = trades.active.T
    price, lots, amount = _spellings(key, instrument)
    first, _ = first_ids(instrument, day)
    count = int(at.sum())
    frame = pl.DataFrame(
        {
            "id": np.arange(first, first + count),
            "price": price.spell(trades.price.T[at]),
            "qty": lots.spell(trades.lots.T[at]),
            "amount": amount.spell(trades.amount.T[at]),
            "time": _times(key, day, trades.time_us.T[at]),
            "is_buyer_maker": trades.buyer_is_maker.T[at],
        }
    )
    return _with_best_match(key, frame).write_csv(include_header=False)


def agg_trades_csv(seed: int, key: ArchiveKey, instrument: Instrument, day: date) -> str:
    trades = day_trades(seed, instrument, day)
    at = trades.active.T
    starts = np.flatnonzero(~trades.fill.T[at])
    ends = np.append(starts[1:], int(at.sum()))
    price, lots, _ = _spellings(key, instrument)
    first_trade, first_aggregate = first_ids(instrument, day)
    frame = pl.DataFrame(
        {
            "agg_trade_id": np.arange(first_aggregate, first_aggregate + len(starts)),
            "price": price.spell(trades.price.T[at][starts]),
            "quantity": lots.spell(np.add.reduceat(trades.lots.T[at], starts)),
            "first_trade_id": first_trade + starts,
            "last_trade_id": first_trade + ends - 1,
            "transact_time": _times(key, day, trades.time_us.T[at][starts]),
            "is_buyer_maker": trades.buyer_is_maker.T[at][starts],
        }
    )
    return _with_best_match(key, frame).write_csv(include_header=False)


def funding_csv(seed: int, key: ArchiveKey, instrument: Instrument) -> str:
    """Every eight hours at which the instrument trades, up to 13 ms late."""
    chance = rng(seed, instrument, key.period, "funding")
    lines = []
    for moment in range(seconds_of(key.period), seconds_of(key.end), 8 * 3600):
        late, rate = int(chance.integers(0, 14)), round(chance.normal(10_000, 8_000))
        if instrument.trades_on(datetime.fromtimestamp(moment, UTC).date()):
            lines.append(f"{moment * 1000 + late},8,{_decimal_text(rate, 8)}\n")
    return "".join(lines)


def metrics_csv(seed: int, key: ArchiveKey, instrument: Instrument, day: date) -> str:
    """Every five minutes from 00:05 to 00:00 of the next day."""
    chance = rng(seed, instrument, day, "metrics")
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    price = anchor(seed, instrument, day)
    interest = chance.integers(30_000_000, 40_000_000, 288).tolist()
    ratios = chance.integers(50_000_000, 300_000_000, (288, 4)).tolist()
    lines = []
    for number, (lots, row) in enumerate(zip(interest, ratios, strict=True)):
        moment = (start + timedelta(minutes=5 * (number + 1))).strftime("%Y-%m-%d %H:%M:%S")
        value = _decimal_text(lots * price * 10 ** (15 - instrument.tick_decimals), 16)
        cells = ",".join(_decimal_text(ratio, 8) for ratio in row)
        held = _decimal_text(lots * 10**15, 16)
        lines.append(f"{moment},{instrument.symbol},{held},{value},{cells}\n")
    return "".join(lines)


class _Decimals:
    """Spells integers as decimals of a fixed length, exactly.

    decimals: Those the integer counts in.
    shown: Those to be written, at least as many.
    """

    def __init__(self, decimals: int, shown: int | None = None) -> None:
        self._shown = decimals if shown is None else shown
        self._factor = 10 ** (self._shown - decimals)

    def spell(self, values: Ints) -> pl.Series:
        scaled = values * self._factor
        # A decimal128 is the value as 128 bits: the low word, then the sign's.
        words = np.stack((scaled, scaled >> 63), axis=1)
        array = pa.Array.from_buffers(
            pa.decimal128(38, self._shown), len(values), [None, pa.py_buffer(words)]
        )
        series = pl.from_arrow(array)
        assert isinstance(series, pl.Series)
        return series


class _Floats:
    """Spells integers as the shortest decimals, "542.0" and "0.7", as um and cm quantities are."""

    def __init__(self, decimals: int) -> None:
        self._divisor = 10.0**decimals

    def spell(self, values: Ints) -> pl.Series:
        # Both operands are exact, so the quotient is the double nearest to the decimal, and the
        # shortest text that reads back as that double is the decimal itself.
        return pl.Series(values / self._divisor)


def _spellings(
    key: ArchiveKey, instrument: Instrument
) -> tuple[_Decimals, _Decimals | _Floats, _Decimals]:
    """How prices, quantities and amounts are written."""
    if key.market == "spot":
        return (
            _Decimals(instrument.tick_decimals, _SPOT_DECIMALS),
            _Decimals(instrument.lot_decimals, _SPOT_DECIMALS),
            _Decimals(instrument.amount_decimals, _SPOT_DECIMALS),
        )
    shown = _SPOT_DECIMALS if key.dataset in ("markPriceKlines", "indexPriceKlines") else None
    return (
        _Decimals(instrument.tick_decimals, shown),
        _Floats(instrument.lot_decimals),
        _Decimals(instrument.amount_decimals),
    )


def _per_second(key: ArchiveKey) -> int:
    """Units of time in a second, in the file of this key."""
    micros = key.market == "spot" and key.period >= MICROSECONDS_FROM
    return 1_000_000 if micros else 1000


def _times(key: ArchiveKey, day: date, time_us: Ints) -> Ints:
    unit = _per_second(key)
    return seconds_of(day) * unit + time_us // (1_000_000 // unit)


def _closed_s(key: ArchiveKey, opened_s: Ints) -> Ints:
    if key.interval == "1mo":
        return np.full(len(opened_s), seconds_of(key.end), np.int64)
    return opened_s + INTERVAL_SECONDS[key.interval]


def _with_best_match(key: ArchiveKey, frame: pl.DataFrame) -> pl.DataFrame:
    if key.market != "spot":
        return frame
    maker = pl.when("is_buyer_maker").then(pl.lit("True")).otherwise(pl.lit("False"))
    return frame.with_columns(is_buyer_maker=maker, is_best_match=pl.lit("True"))


def _decimal_text(value: int, decimals: int) -> str:
    sign = "-" if value < 0 else ""
    whole, part = divmod(abs(value), 10**decimals)
    return f"{sign}{whole}.{part:0{decimals}d}"
