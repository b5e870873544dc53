"""Cells of the archive's files as the exchange's messages spell them."""

from __future__ import annotations

from decimal import Decimal


def plain(text: str) -> str:
    """The same number without an exponent, and without the ".0" of a whole one."""
    if text.endswith(".0"):
        return text[:-2]
    if "E" in text or "e" in text:
        return f"{Decimal(text):f}"
    return text


def boolean(text: str) -> str:
    return "true" if text in ("true", "True", "TRUE") else "false"


def pair_of(symbol: str) -> str:
    """Of a contract: BTCUSD of BTCUSD_PERP."""
    return symbol.partition("_")[0]
