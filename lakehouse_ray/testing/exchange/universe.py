"""Which instruments a synthetic market has, by default or by name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import date, timedelta

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.keys import ROOTS
from lakehouse_ray.testing.exchange.market import TRADES_PER_MINUTE_MAX, Instrument, expiry

MARKETS = tuple(ROOTS)
# One of each kind that a reader must cope with: leveraged tokens, a stable pair, a name that is not
# ASCII, a multiple of a coin, a delivery contract, symbols that are delisted.
DEFAULT_SYMBOLS = {
    "spot": (
        "BTCUSDT",
        "ETHUSDT",
        "SOLUSDT",
        "ETHBTC",
        "USDCUSDT",
        "BTCUPUSDT",
        "BTCDOWNUSDT",
        "币安人生USDT",
        "FTMUSDT",
    ),
    "um": (
        "BTCUSDT",
        "ETHUSDT",
        "1000SATSUSDT",
        "BTCUSDC",
        "BTCUSDT_240628",
        "币安人生USDT",
        "FTMUSDT",
    ),
    "cm": ("BTCUSD_PERP", "ETHUSD_PERP", "BTCUSD_240628"),
}
DELISTED_SYMBOLS = ("FTMUSDT",)
# Delivery contracts open for trading about two quarters before they expire.
_DELIVERY_DAYS = 182
_PRICES = {
    "BTCUSDT": 40_000.0,
    "BTCUSDC": 40_000.0,
    "BTCUSD": 40_000.0,
    "ETHUSDT": 2_500.0,
    "ETHUSD": 2_500.0,
    "ETHBTC": 0.06,
    "SOLUSDT": 100.0,
    "USDCUSDT": 1.0,
    "1000SATSUSDT": 0.0004,
}
_STABLE = ("USDCUSDT", "FDUSDUSDT", "TUSDUSDT")
_LIQUID = ("BTC", "ETH", "USDC")


def universe(
    symbols: Sequence[str | Instrument] | int | None,
    markets: Sequence[str],
    start: date,
    end: date,
    trades_per_minute: int,
) -> list[Instrument]:
    """The instruments of a market that opens on `start` and is known up to `end`.

    symbols: Names, each listed in every market where its form is at home ("BTCUSD_PERP" on cm, the
        others on spot and um, "BTCUSDT_240628" on um alone); or how many per market; or None for
        one of each kind. An Instrument is taken as it is. Raises InvalidError.
    """
    for market in markets:
        if market not in MARKETS:
            raise InvalidError(f"no such market: {market!r}", f"possible are: {', '.join(MARKETS)}")
    if not 1 <= trades_per_minute <= TRADES_PER_MINUTE_MAX:
        raise InvalidError(f"trades_per_minute must be 1 to {TRADES_PER_MINUTE_MAX}")
    if not start < end:
        raise InvalidError(f"the market opens on {start} and ends on {end}: it has no day")
    made: list[Instrument] = []
    for market in markets:
        if symbols is None:
            names: list[str | Instrument] = list(DEFAULT_SYMBOLS[market])
        elif isinstance(symbols, int):
            names = list(_counted(market, symbols))
        else:
            names = [name for name in symbols if _at_home(name, market)]
        for name in names:
            instrument = (
                name
                if isinstance(name, Instrument)
                else _instrument(market, name, start, end, trades_per_minute)
            )
            if instrument.delisted is None or instrument.delisted > instrument.listed:
                made.append(instrument)
    if not made:
        raise InvalidError(
            "the synthetic market has no symbol that trades in its range",
            "name symbols such as BTCUSDT (spot, um) or BTCUSD_PERP (cm)",
        )
    return made


def _at_home(name: str | Instrument, market: str) -> bool:
    if isinstance(name, Instrument):
        return name.market == market
    if name == "" or "/" in name or name.startswith("."):
        raise InvalidError(f"{name!r} cannot be the name of a symbol")
    if "USD_" in name:
        return market == "cm"
    return market == "um" if expiry(name) else market in ("spot", "um")


def _counted(market: str, count: int) -> list[str]:
    if count < 1:
        raise InvalidError(f"a market of {count} symbols has nothing to serve")
    names = list(DEFAULT_SYMBOLS[market])[:count]
    form = "X{:04d}USD_PERP" if market == "cm" else "X{:04d}USDT"
    return names + [form.format(number) for number in range(1, count - len(names) + 1)]


def _instrument(
    market: str, symbol: str, start: date, end: date, trades_per_minute: int
) -> Instrument:
    base = symbol.partition("_")[0]
    price = _PRICES.get(base) or _drawn_price(base)
    listed, delisted = start, None
    expires = expiry(symbol)
    if expires is not None:
        listed = max(start, expires - timedelta(days=_DELIVERY_DAYS))
        delisted = expires + timedelta(days=1)
    elif symbol in DELISTED_SYMBOLS:
        delisted = start + max(timedelta(days=1), (end - start) * 2 // 3)
    ticks = min(7, max(2, 5 - math.ceil(math.log10(price))))
    lots = next(lots for least, lots in ((1000, 5), (50, 3), (0.01, 1), (0, 0)) if price >= least)
    return Instrument(
        market=market,
        symbol=symbol,
        listed=listed,
        delisted=delisted,
        price=price,
        tick_decimals=1 if market == "cm" and price >= 1000 else ticks,
        lot_decimals=0 if market == "cm" else lots,
        volatility=0.0003 if symbol in _STABLE else 0.03,
        quiet=0.0 if symbol.startswith(_LIQUID) else 0.05,
        trades_per_minute=trades_per_minute,
        contract_usd=(100 if base == "BTCUSD" else 10) if market == "cm" else 0,
    )


def _drawn_price(name: str) -> float:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    # Between 0.01 and 100, evenly over the orders of magnitude.
    return float(10.0 ** (int.from_bytes(digest, "little") / 2**64 * 4 - 2))
