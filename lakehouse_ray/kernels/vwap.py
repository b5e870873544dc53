"""Volume-weighted average price: money that changed hands by amount that changed hands.

spot, um: `quote_volume / volume`, in the quote asset.
cm: `volume` counts contracts of a fixed worth in USD and `quote_volume` is the base asset, so the
price is `volume * contract_size / quote_volume`, in USD for one of the base asset.

A bar without volume has no average price: null. It is not clipped to low … high: an average outside
them is evidence that the exchange rounded or erred, and stays visible.
"""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.venue import Market


def vwap(market: Market, contract_size_usd: float | None = None) -> pl.Expr:
    """VWAP of bars with `volume` and `quote_volume`; null where either is unknown or zero.

    contract_size_usd: Of the symbol, on cm; without it the average on cm is unknown, not guessed.
    """
    volume = pl.col("volume").fill_nan(None)
    quote = pl.col("quote_volume").fill_nan(None)
    if market == "cm":
        if contract_size_usd is None:
            return pl.lit(None, dtype=pl.Float64)
        ratio = volume * contract_size_usd / quote
    else:
        ratio = quote / volume
    return pl.when((volume > 0) & (quote > 0)).then(ratio)
