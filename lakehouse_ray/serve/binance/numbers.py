"""Numbers as the exchange writes them: decimal text, with the decimals of the market.

The lake keeps doubles. What is written always reads back as the stored number, and no digit is
there that is not known: a number is the shortest decimal that is the stored double, filled up with
zeros to the decimals that the exchange writes. It never rounds to them.

A double tells numbers of 8 decimals apart below 2**26 (67,108,864). A larger volume on spot may have
had more digits than a double holds: the last of them can differ from the exchange's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

Spell = Callable[[float], str]


def spell_with(decimals: int) -> Spell:
    """Return what spells numbers with at least so many decimals."""
    # As long as doubles lie closer than numbers of so many decimals, rounding finds the number.
    exact_below = 2.0 ** (math.floor(52 - decimals * math.log2(10)) + 1)

    def spell(value: float) -> str:
        text = f"{value:.{decimals}f}"
        if -exact_below < value < exact_below and float(text) == value:
            return text if value else text.removeprefix("-")
        whole, _, fraction = f"{Decimal(repr(value)):f}".partition(".")
        fraction = fraction.rstrip("0").ljust(decimals, "0")
        return f"{whole}.{fraction}" if fraction else whole

    return spell


@dataclass(frozen=True)
class Decimals:
    """How many decimals the exchange writes at least, of each kind of number of a symbol."""

    price: int = 0
    quantity: int = 0
    quote: int = 0


# Spot writes 8 of everything.
SPOT = Decimals(8, 8, 8)


def of_instrument(market: str, price_precision: object, quantity_precision: object) -> Decimals:
    """Of a contract, by what exchangeInfo says of it; where it says nothing, what is needed.

    On um a quote volume has the decimals of a price times a quantity; on cm what stands in its
    place is the base asset's volume, with 8.
    """
    price, quantity = _precision(price_precision), _precision(quantity_precision)
    if market == "cm":
        return Decimals(price or 0, quantity or 0, 8)
    quote = 0 if price is None or quantity is None else price + quantity
    return Decimals(price or 0, quantity or 0, quote)


def _precision(told: object) -> int | None:
    if isinstance(told, bool) or not isinstance(told, int):
        return None
    return told if 0 <= told <= 16 else None
