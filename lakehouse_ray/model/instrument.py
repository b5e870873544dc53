"""What a symbol's spelling tells: base, quote, kind of contract.

The exchange never publishes a list of its delisted symbols, so for the archive the spelling is all
there is. Rules and odd names: a longest-suffix match over the quotes the exchange has used, with
the pairs that this reads wrongly listed by hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Literal

from lakehouse_ray.model.timespan import day_range

Contract = Literal["spot", "perpetual", "delivery"]

# Longest first where one ends another (FDUSD before USD; BUSD, TUSD before USD).
QUOTES = tuple(
    sorted(
        (
            "USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USDP", "USDS", "USDSOLD", "DAI", "PAX", "UST",
            "BTC", "ETH", "BNB", "TRX", "XRP", "DOGE", "DOT", "SOL", "VAI", "IDRT", "BIDR", "BVND",
            "BKRW", "NGN", "EUR", "GBP", "AUD", "TRY", "RUB", "UAH", "ZAR", "BRL", "ARS", "COP",
            "MXN", "CZK", "PLN", "RON", "JPY", "USD", "USD1", "EURI", "AEUR", "XUSD", "BFUSD",
            "RLUSD", "IDR", "INR", "U",
        ),
        key=lambda quote: (-len(quote), quote),
    )
)  # fmt: skip

STABLES = frozenset(
    {
        "USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USDP", "USDS", "USDSOLD", "DAI",
        "PAX", "UST", "USTC", "USD1", "EURI", "AEUR", "XUSD", "BFUSD", "RLUSD",
        "SUSD", "USDE", "PYUSD", "GUSD", "LUSD", "FRAX", "VAI", "U", "USDSB",
    }
)  # fmt: skip

# Read by hand: the longest suffix would cut them at the wrong place.
_SPLIT_BY_HAND = {
    "ADAEUR": ("ADA", "EUR"),
    "LUNAEUR": ("LUNA", "EUR"),
    "SOLAEUR": ("SOLA", "EUR"),
    "GALAEUR": ("GALA", "EUR"),
    "ENAEUR": ("ENA", "EUR"),
}

_LEVERAGED = re.compile(r"(?P<coin>.{2,})(?:UP|DOWN|BULL|BEAR)")
# Coins whose name ends like a leveraged token's.
_NOT_LEVERAGED = frozenset({"JUP", "SYRUP", "PUMPUP", "WUP"})
_DELIVERY = re.compile(r"(?P<pair>.+)_(?P<expiry>\d{6})")
_SETTLED = re.compile(r"(?P<rest>.+?)_?SETTLED\d*")


@dataclass(frozen=True)
class Instrument:
    """One symbol of one market, as far as its spelling tells.

    quote: Empty where no known quote ends the name.
    settled: A contract kept under another name after its settlement (`…_SETTLED1`).
    """

    symbol: str
    base: str
    quote: str
    contract: Contract
    settled: bool = False

    @property
    def leveraged(self) -> bool:
        """A leveraged token (BTCUP, ETHBEAR), not a coin."""
        if self.contract != "spot" or self.base in _NOT_LEVERAGED:
            return False
        return _LEVERAGED.fullmatch(self.base) is not None

    @property
    def stable_pair(self) -> bool:
        """Both sides are meant to hold the same value, such as USDCUSDT."""
        return self.base in STABLES and self.quote in STABLES


@cache
def parse_symbol(symbol: str, market: str) -> Instrument:
    """Read the symbol of a market; never fails: what the name does not tell stays empty."""
    name, settled, contract = symbol, False, "spot" if market == "spot" else "perpetual"
    if market != "spot":
        if match := _SETTLED.fullmatch(name):
            name, settled = match["rest"], True
        if match := _DELIVERY.fullmatch(name):
            name, contract = match["pair"], "delivery"
        name = name.removesuffix("_PERP")
    # Coin-margined contracts are quoted in USD alone: BNBUSD is not BN in BUSD.
    base, quote = _split(name, ("USD",) if market == "cm" else QUOTES)
    return Instrument(symbol, base, quote, contract, settled)  # type: ignore[arg-type]


def expiry_us(symbol: str) -> int | None:
    """The end of the UTC day on which a delivery contract ends, by its name (`BTCUSDT_240628`)."""
    match = _DELIVERY.fullmatch(symbol)
    if match is None:
        return None
    expiry = match["expiry"]
    try:
        return day_range(date(2000 + int(expiry[:2]), int(expiry[2:4]), int(expiry[4:]))).end_us
    except ValueError:
        return None


def contract_size_usd(symbol: str) -> float:
    """USD that one contract of COIN-M is worth: 100 for Bitcoin, 10 for every other coin.

    So it is for all 25 contracts of the exchange's own list that were looked at; delisted ones are
    on no list.
    """
    return 100.0 if parse_symbol(symbol, "cm").base == "BTC" else 10.0


def _split(pair: str, quotes: tuple[str, ...]) -> tuple[str, str]:
    if pair in _SPLIT_BY_HAND:
        return _SPLIT_BY_HAND[pair]
    for quote in quotes:
        if pair.endswith(quote) and len(pair) > len(quote):
            return pair[: -len(quote)], quote
    return pair, ""
