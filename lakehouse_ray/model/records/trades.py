"""Trades and joined trades as REST and streams give them."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from lakehouse_ray.model.records.base import Amount, Id, Moment, Record


class AggTradeRecord(Record):
    """A joined trade, of /aggTrades or of the aggTrade stream: both use the same letters."""

    agg_trade_id: Id = Field(alias="a")
    price: Amount = Field(alias="p")
    quantity: Amount = Field(alias="q")
    first_trade_id: Id = Field(alias="f")
    last_trade_id: Id = Field(alias="l")
    transact_time: Moment = Field(alias="T")
    is_buyer_maker: bool = Field(alias="m")
    is_best_match: bool | None = Field(default=None, alias="M")


class TradeRecord(Record):
    """A trade, of /trades, /historicalTrades or the trade stream.

    quote_qty: Spot and um, REST only. base_qty: cm only.
    """

    id: Id = Field(validation_alias=AliasChoices("id", "t"))
    price: Amount = Field(validation_alias=AliasChoices("price", "p"))
    qty: Amount = Field(validation_alias=AliasChoices("qty", "q"))
    quote_qty: Amount | None = Field(default=None, alias="quoteQty")
    base_qty: Amount | None = Field(default=None, alias="baseQty")
    time: Moment = Field(validation_alias=AliasChoices("time", "T"))
    is_buyer_maker: bool = Field(validation_alias=AliasChoices("isBuyerMaker", "m"))
    is_best_match: bool | None = Field(
        default=None, validation_alias=AliasChoices("isBestMatch", "M")
    )
