"""Gold bars of every interval, and bars of an hour at every five minutes.

A unit is the whole history of a symbol: a long gap that comes to light renames the parts before it.
"""

from __future__ import annotations

from lakehouse_ray.model.datasets.funding_rates import FUNDING_RATES
from lakehouse_ray.model.datasets.klines import BAR_COLUMNS, COARSE_INTERVALS, KLINES
from lakehouse_ray.model.gold import (
    KLINES_COARSE,
    KLINES_FINE,
    RESAMPLED_COARSE,
    RESAMPLED_FINE,
)
from lakehouse_ray.model.product import Input, Parameter, Product
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.venue import INTERVALS

_BARS = tuple(column.name for column in BAR_COLUMNS)
_FUNDING = Input(
    "funding", FUNDING_RATES, tuple(column.name for column in FUNDING_RATES.columns)
)  # of spot there is none
# What resampled bars are made from.
SOURCE_INTERVAL = "1m"


def _klines(table: Table, intervals: tuple[str, ...]) -> Product:
    return Product(
        name=table.name.removeprefix("gold."),
        table=table,
        inputs=(Input("klines", KLINES, _BARS), _FUNDING),
        version=1,
        period="history",
        intervals=intervals,
    )


def _resampled(
    table: Table, intervals: tuple[str, ...], *parameters: tuple[str, Parameter]
) -> Product:
    return Product(
        name=table.name.removeprefix("gold."),
        table=table,
        inputs=(Input("klines", KLINES, _BARS, interval=SOURCE_INTERVAL), _FUNDING),
        version=2,
        period="history",
        intervals=intervals,
        parameters=(("partial", "keep"), ("empty", "none"), *parameters),
    )


GOLD_KLINES_FINE = _klines(
    KLINES_FINE, tuple(name for name in INTERVALS if name not in COARSE_INTERVALS)
)
GOLD_KLINES_COARSE = _klines(KLINES_COARSE, COARSE_INTERVALS)
# As BHDS's users have them: 5m, and 1h at every multiple of 5m.
RESAMPLED_KLINES_FINE = _resampled(RESAMPLED_FINE, ("5m",), ("offset_step", "5m"))
RESAMPLED_KLINES_COARSE = _resampled(RESAMPLED_COARSE, ("1h",), ("offset_step", "5m"))
