"""The service's streams and the replica's have the same messages of the same rows: two hands, one shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from lakehouse_ray.model.venue import Market
from lakehouse_ray.serve.binance.numbers import SPOT, Decimals
from lakehouse_ray.serve.streams.events import Row as ServedRow
from lakehouse_ray.serve.streams.events import series_of
from lakehouse_ray.serve.streams.names import parse_stream
from lakehouse_ray.testing.exchange.history import Row
from lakehouse_ray.testing.exchange.streams.bars import bar_events
from lakehouse_ray.testing.exchange.streams.names import parse
from lakehouse_ray.testing.exchange.streams.rows import _WRITERS

AT_US = 1_723_161_255_342_000
AGG = ("7", "61837.63000000", "0.02000000", "1", "2", "1723161255342", "true")
TRADE = ("7", "61837.63000000", "0.02000000", "1236.75260000", "1723161255342", "true")
BEST = (
    "9",
    "61837.63000000",
    "3.78826000",
    "61837.64000000",
    "1.54698000",
    "1723161255342",
    "1723161255347",
)
ORDER = (
    "1723161255342",
    "SELL",
    "LIMIT",
    "IOC",
    "0.01400000",
    "16500.10000000",
    "16510.00000000",
    "FILLED",
    "0.01400000",
    "0.01400000",
)
BAR = (
    "1723161240000",
    "1.10000000",
    "1.30000000",
    "1.00000000",
    "1.20000000",
    "5.00000000",
    "1723161299999",
    "5.50000000",
    "3",
    "2.00000000",
    "2.20000000",
    "0",
)
CASES: list[tuple[str, Market, str, tuple[str, ...], ServedRow]] = [
    ("btcusdt@aggTrade", "spot", "aggTrade", (*AGG, "true"),
     (7, 61837.63, 0.02, 1, 2, AT_US, True, True)),
    ("btcusdt@aggTrade", "um", "aggTrade", AGG, (7, 61837.63, 0.02, 1, 2, AT_US, True, None)),
    ("btcusd_perp@aggTrade", "cm", "aggTrade", AGG, (7, 61837.63, 0.02, 1, 2, AT_US, True, None)),
    ("btcusdt@trade", "spot", "trade", (*TRADE, "true"), (7, 61837.63, 0.02, AT_US, True, True)),
    ("btcusdt@trade", "um", "trade", TRADE, (7, 61837.63, 0.02, AT_US, True, None)),
    ("btcusd_perp@trade", "cm", "trade", TRADE, (7, 61837.63, 0.02, AT_US, True, None)),
    ("btcusdt@bookTicker", "um", "bookTicker", BEST,
     (9, 61837.63, 3.78826, 61837.64, 1.54698, AT_US, AT_US + 5000)),
    ("btcusd_perp@bookTicker", "cm", "bookTicker", BEST,
     (9, 61837.63, 3.78826, 61837.64, 1.54698, AT_US, AT_US + 5000)),
    ("btcusdt@forceOrder", "um", "forceOrder", ORDER,
     (AT_US, "SELL", "LIMIT", "IOC", 0.014, 16500.1, 16510.0, "FILLED", 0.014, 0.014)),
    ("btcusd_perp@forceOrder", "cm", "forceOrder", ORDER,
     (AT_US, "SELL", "LIMIT", "IOC", 0.014, 16500.1, 16510.0, "FILLED", 0.014, 0.014)),
]  # fmt: skip


def shape(document: Any) -> Iterator[tuple[str, str]]:
    """Names in their order, with the types of what they have."""
    for name, value in document.items():
        yield name, type(value).__name__
        if isinstance(value, dict):
            yield from shape(value)


@pytest.mark.parametrize(("name", "market", "kind", "cells", "row"), CASES)
def test_the_same_row_is_the_same_message(
    name: str, market: Market, kind: str, cells: tuple[str, ...], row: ServedRow
) -> None:
    decimals = SPOT if market == "spot" else Decimals(8, 8)
    served = orjson.dumps(
        series_of(parse_stream(name, market), decimals, micro=False).shape.write(row)
    )
    made = _WRITERS[kind](parse(market, name))(Row(AT_US, cells))
    # "X" of a futures trade no stored row has.
    assert made == served.decode().replace('"X":"NA"', '"X":"MARKET"')


@pytest.mark.parametrize(
    ("name", "market"),
    [("btcusdt@kline_1m", "spot"), ("btcusdt@kline_1m", "um"), ("btcusd_perp@kline_1m", "cm"),
     ("btcusd_perp@markPriceKline_1m", "cm"), ("btcusd@indexPriceKline_1m", "cm")],
)  # fmt: skip
def test_the_same_bar_is_the_same_message(name: str, market: Market) -> None:
    traded = "@kline" in name
    sums = (5.0, 5.5, 2.0, 2.2) if traded else (0.0, 0.0, 0.0, 0.0)
    row = (
        1_723_161_240_000_000, 1.1, 1.3, 1.0, 1.2, sums[0], 1_723_161_299_999_000, sums[1], 3,
        *sums[2:],
    )  # fmt: skip
    decimals = SPOT if market == "spot" else Decimals(8, 8, 8)
    series = series_of(parse_stream(name, market), decimals, micro=False)
    served = json.loads(orjson.dumps(series.shape.write(row)))
    # Files of prices that are not traded have 0 there.
    cells = BAR if traded else (*BAR[:5], "0", BAR[6], "0", BAR[8], "0", "0", "0")
    events = list(bar_events(parse(market, name), iter([Row(row[0], cells)]), 0))
    closed = json.loads(events[-1].body)
    assert closed == served
    for event in events:
        assert list(shape(json.loads(event.body))) == list(shape(served))
