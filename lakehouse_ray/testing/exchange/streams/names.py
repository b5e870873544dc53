"""Names of streams, and the addresses below which each market has its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.keys import INTERVAL_SECONDS

# What stands before /ws and /stream. USD-M clients of 2026 put the kind of stream there too.
PREFIXES: Mapping[str, str] = MappingProxyType(
    {"": "spot", "fapi/": "um", "fapi/market/": "um", "fapi/public/": "um", "dapi/": "cm"}
)
# Below which faults find the streams of a market.
KEYS: Mapping[str, str] = MappingProxyType(
    {"spot": "ws/", "um": "fapi/ws/", "cm": "dapi/ws/"}
)  # fmt: skip
_INTERVALS = frozenset({"1M" if name == "1mo" else name for name in INTERVAL_SECONDS})
_LEVELS = frozenset({"", "5", "10", "20"})
_NAME = re.compile(
    r"""(?P<symbol>!?[\w.\-]{1,50})@
        (?P<kind>[A-Za-z]+?)(?P<levels>\d*)
        (?:_(?P<interval>\d+[a-zA-Z]))?
        (?:@(?P<option>[\w+:]{1,12}))?""",
    re.VERBOSE,
)
_PLAIN = frozenset({"aggTrade", "trade", "bookTicker", "miniTicker", "ticker"})
_KINDS: Mapping[str, frozenset[str]] = {
    "spot": _PLAIN | {"avgPrice", "depth", "kline"},
    "um": _PLAIN | {"markPrice", "forceOrder", "depth", "kline", "compositeIndex", "arr"},
    "cm": _PLAIN
    | {"markPrice", "indexPrice", "forceOrder", "depth", "kline"}
    | {"markPriceKline", "indexPriceKline"},
}
_ALL_SYMBOLS = re.compile(r"!(\w+)(@arr)?(@\w+)?")
# Under which an account's own events come.
_LISTEN_KEY = re.compile(r"[A-Za-z0-9]{60,64}", re.ASCII)


class InvalidStreamError(InvalidError):
    """A name that is no stream of its market."""


@dataclass(frozen=True)
class StreamName:
    """symbol: As stored, in capitals; empty where the name is of all symbols or of none.

    interval: Of bars, as the archive spells it. levels: Of partial books, else 0.
    option: Behind a second @: `100ms`, `1s`. micro: Whether times are asked for in microseconds.
    """

    market: str
    text: str
    symbol: str = ""
    kind: str = ""
    interval: str = ""
    levels: int = 0
    option: str = ""
    micro: bool = False

    @property
    def key(self) -> str:
        """What faults match: the path at which the stream alone is served."""
        return KEYS[self.market] + self.text

    @property
    def time_divisor(self) -> int:
        """Microseconds in the unit of its times."""
        return 1 if self.micro else 1000

    @property
    def is_book(self) -> bool:
        """Whether its messages are changes of the whole book, whatever their speed."""
        return self.kind == "depth" and not self.levels


def parse(market: str, text: str, *, micro: bool = False) -> StreamName:
    """Raises InvalidStreamError. A symbol that does not exist is no error: nothing ever comes."""
    if _ALL_SYMBOLS.fullmatch(text) or _LISTEN_KEY.fullmatch(text):
        return StreamName(market, text, micro=micro)
    match = _NAME.fullmatch(text)
    if match is None:
        raise InvalidStreamError(f"{text[:60]!r} is no stream")
    kind, interval, levels = match["kind"], match["interval"] or "", match["levels"]
    fits = kind in _KINDS[market] and levels in (_LEVELS if kind == "depth" else ("",))
    if kind.lower().endswith("kline"):
        # Of a second on spot alone.
        fits = fits and interval in _INTERVALS and (interval != "1s" or market == "spot")
    elif interval and not (kind == "ticker" and market == "spot"):
        fits = False
    if not fits:
        raise InvalidStreamError(f"{text[:60]!r} is no stream of {market}")
    # The exchange knows small letters alone; of others nothing comes.
    symbol = match["symbol"].upper() if match["symbol"] == match["symbol"].lower() else ""
    return StreamName(
        market, text, symbol, kind, "1mo" if interval == "1M" else interval, int(levels or 0),
        match["option"] or "", micro,
    )  # fmt: skip
