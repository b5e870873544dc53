"""Bars: of trades, and of the mark price, the index price and the premium index."""

from __future__ import annotations

from lakehouse_ray.model.dataset import Cost, Dataset
from lakehouse_ray.model.table import Column

# 15m and above: a year of all symbols in one partition; below: a month of a sixteenth of them.
COARSE_INTERVALS = (
    "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1mo",
)  # fmt: skip

_PRICES = (
    Column("open_time", "timestamp", "When the bar begins", True, "delta"),
    Column("open", "double", "First price", True, zstd_level=1),
    Column("high", "double", "Highest price", True, zstd_level=1),
    Column("low", "double", "Lowest price", True, zstd_level=1),
    Column("close", "double", "Last price", True, zstd_level=1),
)

BAR_COLUMNS = (
    *_PRICES,
    Column("volume", "double", "Volume in the base asset; cm: in contracts", True, zstd_level=2),
    Column("quote_volume", "double", "Volume in the quote asset; cm: in the base asset", True),
    Column("trades", "long", "Number of trades", True, "delta"),
    Column("taker_buy_volume", "double", "Part of `volume` bought by takers", True, zstd_level=2),
    Column("taker_buy_quote_volume", "double", "Part of `quote_volume` bought by takers", True),
    Column("close_time", "timestamp", "When the bar ends, as the exchange wrote it", True, "delta"),
)

KLINES = Dataset(
    name="klines",
    view="klines",
    doc="Bars of trades. A minute without trades is a bar with zero volume; an outage has no bars.",
    columns=BAR_COLUMNS,
    key=("open_time",),
    time="open_time",
    archive={
        "spot": ("daily", "monthly"),
        "um": ("daily", "monthly"),
        "cm": ("daily", "monthly"),
    },
    bars=True,
    bytes_a_row=135,
    coarse_intervals=COARSE_INTERVALS,
    streamed=True,
)


def _price_bars(name: str, view: str, doc: str) -> Dataset:
    return Dataset(
        name=name,
        view=view,
        doc=doc + " The volume columns are zeros, as the archive has them.",
        columns=BAR_COLUMNS,
        key=("open_time",),
        time="open_time",
        archive={"um": ("daily", "monthly"), "cm": ("daily", "monthly")},
        bars=True,
        cost=Cost(0.055, 18),
        bytes_a_row=100,
        coarse_intervals=COARSE_INTERVALS,
    )


MARK_PRICE_KLINES = _price_bars(
    "markPriceKlines", "mark_price_klines", "Bars of the mark price, by which positions are valued."
)
INDEX_PRICE_KLINES = _price_bars(
    "indexPriceKlines", "index_price_klines", "Bars of the index of spot prices."
)
PREMIUM_INDEX_KLINES = _price_bars(
    "premiumIndexKlines",
    "premium_index_klines",
    "Bars of the premium of the contract over its index.",
)
