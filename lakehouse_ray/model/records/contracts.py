"""What only contracts have, as REST gives it: funding, open interest."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lakehouse_ray.model.records.base import Amount, Moment, Number, Record, Symbol


class FundingRecord(Record):
    """A payment, of /fundingRate. The interval is not in the answer: /fundingInfo has it."""

    symbol: Symbol
    calc_time: Moment = Field(alias="fundingTime")
    last_funding_rate: Annotated[Number, Field(gt=-1, lt=1)] = Field(alias="fundingRate")
    funding_interval_hours: Annotated[int, Field(ge=1, le=24)] | None = None


class MetricsRecord(Record):
    """A sample of /futures/data/openInterestHist. The ratios come from four other routes.

    symbol: None on cm, whose answer says pair and contract type, as it was asked.
    """

    symbol: Symbol | None = None
    create_time: Moment = Field(alias="timestamp")
    sum_open_interest: Amount | None = Field(default=None, alias="sumOpenInterest")
    sum_open_interest_value: Amount | None = Field(default=None, alias="sumOpenInterestValue")
    count_toptrader_long_short_ratio: Amount | None = None
    sum_toptrader_long_short_ratio: Amount | None = None
    count_long_short_ratio: Amount | None = None
    sum_taker_long_short_vol_ratio: Amount | None = None
