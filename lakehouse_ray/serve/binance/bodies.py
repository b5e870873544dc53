"""Rows as the exchange writes them: arrays of bars, objects of trades and of funding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.funding_rates import FUNDING_RATES
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.trades import TRADES
from lakehouse_ray.model.venue import Market
from lakehouse_ray.query.scan import quoted
from lakehouse_ray.serve.binance.numbers import Decimals, spell_with

Row = tuple[Any, ...]
# Of the mark price, the index and rates every market writes 8.
_EIGHT = 8


@dataclass(frozen=True)
class Shape:
    """columns: What is read, as SQL; times as microseconds. write: Of one row."""

    columns: tuple[str, ...]
    write: Callable[[Row], Any]


def shape_of(dataset: Dataset, market: Market, decimals: Decimals, *, micro: bool) -> Shape:
    """micro: Whether times are written in microseconds instead of milliseconds."""
    divisor = 1 if micro else 1000
    if dataset is AGG_TRADES:
        return _aggregated(market, decimals, divisor)
    if dataset is TRADES:
        return _trades(market, decimals, divisor)
    if dataset is FUNDING_RATES:
        return _funding()
    if dataset is KLINES:
        return _bars(decimals, divisor)
    # Bars of no trades: their volumes are zeros.
    return _bars(Decimals(_EIGHT, 0, 0), divisor)


def write_all(shape: Shape, rows: Iterable[Row]) -> list[Any]:
    return [shape.write(row) for row in rows]


def _time(column: str) -> str:
    return f"epoch_us({quoted(column)})"


def _bars(decimals: Decimals, divisor: int) -> Shape:
    columns = (
        _time("open_time"), "open", "high", "low", "close", "volume", _time("close_time"),
        "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume",
    )  # fmt: skip
    price, quantity = spell_with(decimals.price), spell_with(decimals.quantity)
    quote = spell_with(decimals.quote)

    def write(row: Row) -> list[Any]:
        opened, first, high, low, last, volume, closed, money, count, bought, paid = row
        return [
            opened // divisor, price(first), price(high), price(low), price(last),
            quantity(volume), closed // divisor, quote(money), count, quantity(bought),
            quote(paid), "0",
        ]  # fmt: skip

    return Shape(columns, write)


def _aggregated(market: Market, decimals: Decimals, divisor: int) -> Shape:
    columns = (
        "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id",
        _time("transact_time"), "is_buyer_maker", "is_best_match",
    )  # fmt: skip
    price, quantity = spell_with(decimals.price), spell_with(decimals.quantity)

    def write(row: Row) -> dict[str, Any]:
        number, at, size, first, last, moment, maker, best = row
        found: dict[str, Any] = {
            "a": number, "p": price(at), "q": quantity(size), "f": first, "l": last,
            "T": moment // divisor, "m": maker,
        }  # fmt: skip
        if market == "spot":
            found["M"] = best
        return found

    return Shape(columns, write)


def _trades(market: Market, decimals: Decimals, divisor: int) -> Shape:
    money_column, money_name = (
        ("base_qty", "baseQty") if market == "cm" else ("quote_qty", "quoteQty")
    )
    columns = (
        "id", "price", "qty", money_column, _time("time"), "is_buyer_maker", "is_best_match",
    )  # fmt: skip
    price, quantity = spell_with(decimals.price), spell_with(decimals.quantity)
    # USD-M writes it with the decimals of a price.
    money = spell_with(decimals.price if market == "um" else _EIGHT)

    def write(row: Row) -> dict[str, Any]:
        number, at, size, worth, moment, maker, best = row
        found: dict[str, Any] = {
            "id": number, "price": price(at), "qty": quantity(size),
            money_name: None if worth is None else money(worth),
            "time": moment // divisor, "isBuyerMaker": maker,
        }  # fmt: skip
        if market == "spot":
            found["isBestMatch"] = best
        return found

    return Shape(columns, write)


def _funding() -> Shape:
    rate = spell_with(_EIGHT)

    def write(row: Row) -> Mapping[str, Any]:
        symbol, moment, value = row
        return {"symbol": symbol, "fundingTime": moment // 1000, "fundingRate": rate(value)}

    return Shape(("symbol", _time("calc_time"), "last_funding_rate"), write)
