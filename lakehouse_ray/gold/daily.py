"""`gold.daily`: days of a symbol, added up from its bars."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.gold.recipe import Inputs
from lakehouse_ray.kernels.daily import daily_bars
from lakehouse_ray.model.product import ProductUnit
from lakehouse_ray.model.venue import INTERVALS


def derive_daily(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame:
    interval_us = INTERVALS[unit.interval]
    assert interval_us is not None
    return daily_bars(inputs.frame("klines"), interval_us, volume_is_base=unit.market != "cm")
