"""Bars for the slots that have none, each marked as made up.

A made-up bar never claims a trade: carried, its four prices are the last known close and its
volumes zero; otherwise all of it is null but its times. A bar off the grid occupies the slot it
opens in and stays where it is.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from lakehouse_ray.kernels.grid import TIME, Times, as_times, ends, missing_opens, times_of

How = Literal["carry", "null"]

PRICES = ("open", "high", "low", "close")
VOLUMES = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
COUNTS = ("trades",)

# What a made-up bar has in common with the bar before it.
_SAME = (
    "market", "symbol", "interval", "segment", "offset", "offset_us", "source_interval", "partial_policy",
    "empty_policy",
)  # fmt: skip


def fill_gaps(
    bars: pl.DataFrame, interval: str, *, offset_us: int = 0, how: How = "carry"
) -> pl.DataFrame:
    """Return the bars with one for every slot between the first and the last, and `is_filled`.

    bars: One symbol's, ascending by `open_time`, each time once. Where the close of the bar before
        a gap is unknown, the last known one is carried; columns that are neither prices, volumes,
        times nor names become null.
    offset_us: By which the calendar is moved.
    Raises BadDataError for bars out of order. Memory: twice the result.
    """
    opens = times_of(bars)
    if "is_filled" not in bars.columns:
        bars = bars.with_columns(is_filled=pl.lit(False))
    missing = missing_opens(opens, interval, offset_us)
    if not missing.size:
        return bars
    before = np.searchsorted(opens, missing) - 1
    made = bars[before].with_columns(_made(bars, missing, before, interval, offset_us, how))
    return bars.merge_sorted(made.select(bars.columns), key="open_time")


def _made(
    bars: pl.DataFrame, opens: Times, before: Times, interval: str, offset_us: int, how: How
) -> list[pl.Series]:
    close = bars["close"].fill_nan(None).forward_fill()[before]
    columns: list[pl.Series] = []
    for name, dtype in bars.schema.items():
        if name == "open_time":
            column = as_times(opens)
        elif name == "close_time":
            ticks = tick_us(bars["close_time"])[before]
            column = as_times(ends(opens, interval, offset_us) - ticks)
        elif name == "is_filled":
            column = pl.repeat(True, opens.size, eager=True)
        elif name in _SAME:
            continue
        elif how == "carry" and name in PRICES:
            column = close
        elif how == "carry" and name in (*VOLUMES, *COUNTS):
            column = pl.repeat(0, opens.size, eager=True)
        else:
            column = pl.repeat(None, opens.size, dtype=dtype, eager=True)
        columns.append(column.cast(dtype).alias(name))
    return columns


def tick_us(close_times: pl.Series) -> Times:
    """The unit each close time is written in: 1 µs or 1 ms; a bar ends that much after it."""
    values = close_times.cast(TIME).to_physical().fill_null(0).to_numpy()
    return np.where(values % 1000 == 999, 1, 1000).astype(np.int64)
