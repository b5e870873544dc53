"""Bars with holes, quiet minutes and oddities, made up from a seed."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl

TIME = pl.Datetime("us", "UTC")
MINUTE_US = 60_000_000
START_US = int(datetime(2022, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


def made_bars(
    slots: list[int],
    *,
    seed: int = 0,
    quiet: float = 0.0,
    length_us: int = MINUTE_US,
    start_us: int = START_US,
) -> pl.DataFrame:
    """A bar for each slot counted from the start; `quiet` of them flat and without volume."""
    rng = np.random.default_rng(seed)
    count = len(slots)
    opens = start_us + np.asarray(slots, np.int64) * length_us
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 1e-3, count))), 4)
    still = rng.random(count) < quiet
    for row in np.flatnonzero(still):
        close[row] = close[row - 1] if row else close[row]
    before = np.append(close[:1], close[:-1])
    open_ = np.where(still, close, before)
    high = np.where(still, close, np.maximum(open_, close) + np.round(rng.random(count), 4))
    low = np.where(still, close, np.minimum(open_, close) - np.round(rng.random(count), 4))
    volume = np.where(still, 0.0, np.round(rng.random(count) * 10 + 0.001, 5))
    return pl.DataFrame(
        {
            "open_time": pl.Series(opens, dtype=pl.Int64).cast(TIME),
            "open": open_,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
            "quote_volume": np.round(volume * (open_ + close) / 2, 8),
            "trades": np.where(still, 0, rng.integers(1, 50, count)),
            "taker_buy_volume": np.round(volume * 0.4, 5),
            "taker_buy_quote_volume": np.round(volume * (open_ + close) / 5, 8),
            "close_time": pl.Series(opens + length_us - 1000, dtype=pl.Int64).cast(TIME),
        }
    )
