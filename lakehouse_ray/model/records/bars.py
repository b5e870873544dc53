"""A bar as REST and streams give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from lakehouse_ray.model.records.base import (
    Amount,
    Count,
    Id,
    Moment,
    Number,
    Record,
    Symbol,
)
from lakehouse_ray.model.venue import parse_interval

# The order of the cells in an answer of /klines and its relatives; the twelfth is not used.
_CELLS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
# In the `k` of a kline event.
_LETTERS = dict(zip("tohlcvTqnVQ", _CELLS, strict=True))


class KlineRecord(Record):
    """A bar. Validated from a mapping, or from a row of an answer (a list of 12 cells).

    Prices may be negative: the premium index is.
    """

    open_time: Moment
    open: Number
    high: Number
    low: Number
    close: Number
    volume: Amount
    quote_volume: Amount
    trades: Count
    taker_buy_volume: Amount
    taker_buy_quote_volume: Amount
    close_time: Moment

    @model_validator(mode="before")
    @classmethod
    def _from_row(cls, data: Any) -> Any:
        if isinstance(data, Sequence) and not isinstance(data, str | bytes):
            if len(data) != len(_CELLS) + 1:
                raise ValueError(f"{len(data)} cells instead of {len(_CELLS) + 1}")
            return dict(zip(_CELLS, data, strict=False))
        return data


def _of_letters(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {name: data[letter] for letter, name in _LETTERS.items() if letter in data}


class KlineEvent(Record):
    """A stream's message on a bar that is being made, or that is done.

    closed: The bar is done; a bar that is not will be sent again.
    first_trade_id, last_trade_id: -1 where the bar has no trade.
    """

    event_time: Moment = Field(alias="E")
    symbol: Symbol = Field(alias="s")
    interval: Annotated[str, BeforeValidator(parse_interval)]
    closed: bool
    first_trade_id: Id
    last_trade_id: Id
    bar: Annotated[KlineRecord, BeforeValidator(_of_letters)]

    @model_validator(mode="before")
    @classmethod
    def _from_event(cls, data: Any) -> Any:
        """Lift the fields of `k`: {"e": "kline", "E": …, "s": …, "k": {"t": …, "x": …, …}}."""
        if not isinstance(data, dict) or not isinstance(data.get("k"), dict):
            return data
        if data.get("e") != "kline":
            raise ValueError(f"a message of kind {data.get('e')!r}, not kline")
        bar = data["k"]
        lifted = {"i": "interval", "x": "closed", "f": "first_trade_id", "L": "last_trade_id"}
        return {
            **{name: data[name] for name in ("E", "s") if name in data},
            **{name: bar[letter] for letter, name in lifted.items() if letter in bar},
            "bar": bar,
        }
