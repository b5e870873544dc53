"""Assets that the exchange gave another name, and tickers it gave to another asset: known facts.

Each says where it is known from. No dates of renames are claimed: they are taken from the rows, and
where the rows do not fit (the new name began before the old one ended) nothing is linked.
"""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse_ray.model.timespan import DAY_US, parse_time
from lakehouse_ray.model.venue import Market

_ISSUES = "github.com/binance/binance-public-data/issues/"
# A new name begins to trade within so long of the old one's end.
RENAME_WITHIN_US = 60 * DAY_US


@dataclass(frozen=True)
class Rename:
    """The asset `old` goes on under the name `new`. source: Where that is said."""

    old: str
    new: str
    source: str


@dataclass(frozen=True)
class ReusedTicker:
    """From `begins_us` on a symbol means another asset than before."""

    market: Market
    symbol: str
    begins_us: int
    source: str


RENAMES = (
    Rename("NANO", "XNO", f"{_ISSUES}238"),
    Rename("MATIC", "POL", f"{_ISSUES}349"),
    Rename("FTM", "S", f"{_ISSUES}349"),
    Rename("RNDR", "RENDER", f"{_ISSUES}349"),
    # LUNA was then given to another asset.
    Rename("LUNA", "LUNC", "github.com/BittyTax/BittyTax/issues/289"),
)

REUSED_TICKERS = (
    # Litentry, until 2025-01-31, then Lighter. The day is that of the source; the hour is not known.
    ReusedTicker("um", "LITUSDT", parse_time("2025-12-23"), f"{_ISSUES}495"),
)
