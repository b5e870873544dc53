"""A symbol as exchangeInfo describes it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from lakehouse_ray.model.records.base import Amount, Moment, Record, Symbol

# What is taken of which filter. The least notional has had three names.
_FROM_FILTERS = (
    ("PRICE_FILTER", "tickSize", "tick_size"),
    ("LOT_SIZE", "stepSize", "step_size"),
    ("MIN_NOTIONAL", "minNotional", "min_notional"),
    ("MIN_NOTIONAL", "notional", "min_notional"),
    ("NOTIONAL", "minNotional", "min_notional"),
)


def _none_if_blank(value: object) -> object:
    return None if value == "" else value


class InstrumentRecord(Record):
    """One entry of `symbols`, of any market.

    status: TRADING, BREAK, SETTLING, … ; cm calls the field contractStatus.
    contract_type: PERPETUAL, CURRENT_QUARTER, …; none on spot and where it is not decided yet.
    delivery_date: Of a perpetual contract the year 2100, until its end is announced.
    contract_size: What a contract is worth in the quote asset; cm only.
    """

    symbol: Symbol
    status: Annotated[str, Field(min_length=1)] = Field(
        validation_alias=AliasChoices("status", "contractStatus")
    )
    base_asset: Annotated[str, Field(min_length=1)] = Field(alias="baseAsset")
    quote_asset: Annotated[str, Field(min_length=1)] = Field(alias="quoteAsset")
    contract_type: Annotated[str | None, BeforeValidator(_none_if_blank)] = Field(
        default=None, alias="contractType"
    )
    onboard_date: Moment | None = Field(default=None, alias="onboardDate")
    delivery_date: Moment | None = Field(default=None, alias="deliveryDate")
    contract_size: Amount | None = Field(default=None, alias="contractSize")
    tick_size: Amount | None = None
    step_size: Amount | None = None
    min_notional: Amount | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_filters(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("filters"), list):
            return data
        found = {
            item["filterType"]: item
            for item in data["filters"]
            if isinstance(item, dict) and "filterType" in item
        }
        taken = {
            name: found[kind][key]
            for kind, key, name in _FROM_FILTERS
            if key in found.get(kind, {})
        }
        return {**data, **taken}
