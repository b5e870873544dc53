"""Rows of files as the exchange's REST writes them: arrays of bars, objects of everything else.

Numbers keep the file's text; only such as `4.088E-4` are written out, as the exchange does.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from lakehouse_ray.testing.exchange.history import Row, micros

# Of times in microseconds.
_MICROS_DIGITS = 16


def plain(text: str) -> str:
    return format(Decimal(text), "f") if "e" in text or "E" in text else text


def bars(rows: Iterable[Row], *, micro: bool) -> bytes:
    """The JSON of bars: written at once, for a page has 1500 of them and 12 values each.

    micro: Times in microseconds, as spot answers where that is asked for.
    """
    return f"[{','.join([_bar(row, micro) for row in rows])}]".encode()


def _bar(row: Row, micro: bool) -> str:
    time_us, cells = row
    closes = micros(cells[6]) or 0
    if micro:
        closes += 0 if len(cells[6]) >= _MICROS_DIGITS else 999
    else:
        time_us, closes = time_us // 1000, closes // 1000
    text = ",".join(cells)
    if "E" in text or "e" in text:
        cells = tuple(plain(cell) for cell in cells)
    _, opened, high, low, close, volume, _, amount, count, bought, bought_amount, _ = cells
    return (
        f'[{time_us},"{opened}","{high}","{low}","{close}","{volume}",{closes},"{amount}",{count},'
        f'"{bought}","{bought_amount}","0"]'
    )


def agg_trade(row: Row, market: str, *, micro: bool) -> dict[str, Any]:
    cells = row.cells
    found: dict[str, Any] = {
        "a": int(cells[0]), "p": plain(cells[1]), "q": plain(cells[2]), "f": int(cells[3]),
        "l": int(cells[4]), "T": row.time_us if micro else row.time_us // 1000,
        "m": _true(cells[6]),
    }  # fmt: skip
    if market == "spot":
        found["M"] = _true(cells[7])
    return found


def trade(row: Row, market: str, *, micro: bool) -> dict[str, Any]:
    cells = row.cells
    found: dict[str, Any] = {
        "id": int(cells[0]), "price": plain(cells[1]), "qty": plain(cells[2]),
        "baseQty" if market == "cm" else "quoteQty": plain(cells[3]),
        "time": row.time_us if micro else row.time_us // 1000, "isBuyerMaker": _true(cells[5]),
    }  # fmt: skip
    if market == "spot":
        found["isBestMatch"] = _true(cells[6])
    return found


def funding(row: Row, symbol: str, mark_price: str | None) -> dict[str, Any]:
    """mark_price: None where the market does not tell it."""
    found = {
        "symbol": symbol, "fundingTime": row.time_us // 1000, "fundingRate": plain(row.cells[2]),
    }  # fmt: skip
    return found if mark_price is None else {**found, "markPrice": mark_price}


def _true(text: str) -> bool:
    return text.lower() == "true"
