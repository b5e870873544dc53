"""`gold.klines` and `gold.resampled_klines`: a symbol's whole history of bars."""

from __future__ import annotations

import polars as pl

from lakehouse_ray.gold.klines import gold_klines, gold_resampled
from lakehouse_ray.gold.recipe import Inputs
from lakehouse_ray.kernels.grid import offsets_by
from lakehouse_ray.kernels.resample import Resampling
from lakehouse_ray.model.product import ProductUnit
from lakehouse_ray.model.products.klines import SOURCE_INTERVAL


def derive_klines(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame:
    return gold_klines(
        inputs.frame("klines"),
        _funding(unit, inputs),
        market=unit.market,
        symbol=unit.symbol,
        interval=unit.interval,
    )


def derive_resampled(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame:
    known = {name: str(value) for name, value in inputs.parameters.items()}
    plan = Resampling(
        SOURCE_INTERVAL,
        unit.interval,
        offsets_by(unit.interval, known["offset_step"]),
        partial="keep" if known["partial"] == "keep" else "drop",
        empty="carry" if known["empty"] == "carry" else "none",
    )
    return gold_resampled(
        inputs.frame("klines"), _funding(unit, inputs), plan, market=unit.market, symbol=unit.symbol
    )


def _funding(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame | None:
    return None if unit.market == "spot" else inputs.frame("funding")
