"""All data sets, by name."""

from __future__ import annotations

import difflib

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.book_depth import BOOK_DEPTH
from lakehouse_ray.model.datasets.book_levels import BOOK_LEVELS
from lakehouse_ray.model.datasets.book_ticker import BOOK_TICKER
from lakehouse_ray.model.datasets.funding_rates import FUNDING_RATES
from lakehouse_ray.model.datasets.klines import (
    INDEX_PRICE_KLINES,
    KLINES,
    MARK_PRICE_KLINES,
    PREMIUM_INDEX_KLINES,
)
from lakehouse_ray.model.datasets.liquidation_snapshot import LIQUIDATION_SNAPSHOT
from lakehouse_ray.model.datasets.mark_prices import MARK_PRICES
from lakehouse_ray.model.datasets.metrics import METRICS
from lakehouse_ray.model.datasets.trades import TRADES

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        KLINES,
        AGG_TRADES,
        TRADES,
        FUNDING_RATES,
        METRICS,
        MARK_PRICE_KLINES,
        INDEX_PRICE_KLINES,
        PREMIUM_INDEX_KLINES,
        BOOK_TICKER,
        BOOK_DEPTH,
        LIQUIDATION_SNAPSHOT,
        MARK_PRICES,
        BOOK_LEVELS,
    )
}


def find_dataset(name: str) -> Dataset:
    """Return the data set of that name, in the archive's spelling or in SQL's (`agg_trades`)."""
    for dataset in DATASETS.values():
        if name in (dataset.name, dataset.view):
            return dataset
    near = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
    raise InvalidError(
        f"unknown data set {name!r}",
        f"did you mean {near[0]}?" if near else f"one of {', '.join(DATASETS)}",
    )
