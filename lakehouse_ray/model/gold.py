"""The tables of gold that are made of bars."""

from __future__ import annotations

from lakehouse_ray.model.dataset import COARSE, FINE, INTERVAL, MARKET, SYMBOL
from lakehouse_ray.model.datasets.klines import COARSE_INTERVALS
from lakehouse_ray.model.table import Column, Partition, Table

_OPEN_TIME = Column("open_time", "timestamp", "When the bar begins", True, "delta")

_VALUES = (
    Column("open", "double", "First price"),
    Column("high", "double", "Highest price"),
    Column("low", "double", "Lowest price"),
    Column("close", "double", "Last price"),
    Column("volume", "double", "Volume in the base asset; cm: in contracts"),
    Column("quote_volume", "double", "Volume in the quote asset; cm: in the base asset"),
    Column("trades", "long", "Number of trades", False, "delta"),
    Column("taker_buy_volume", "double", "Part of `volume` bought by takers"),
    Column("taker_buy_quote_volume", "double", "Part of `quote_volume` bought by takers"),
    Column("close_time", "timestamp", "When the bar ends", True, "delta"),
    Column(
        "vwap",
        "double",
        "Volume-weighted average price; null without volume; cm: contracts times their size by "
        "base volume",
    ),
    Column(
        "funding_rate",
        "double",
        "Sum of the funding rates that fell due within the bar; null where none did",
    ),
    Column("funding_events", "int", "How many funding payments fell due within the bar", True, "delta"),
    Column("is_filled", "boolean", "Made up: the market has no such bar", True),
    Column(
        "segment",
        "string",
        "Part of the history between long gaps: `SP0_<symbol>` …, the last has the symbol's name",
        True,
        "dictionary",
    ),
)  # fmt: skip

_RESAMPLED = (
    Column("bars", "int", "Finer bars it was made from", True, "delta"),
    Column("bars_expected", "int", "Finer bars that it should consist of", True, "delta"),
    Column("is_partial", "boolean", "Finer bars are missing or off the grid, or a segment begins within", True),
    Column("source_interval", "string", "Interval of the finer bars", True, "dictionary"),
    Column("partial_policy", "string", "keep or drop: what was done with partial bars", True, "dictionary"),
    Column(
        "empty_policy",
        "string",
        "none, null or carry: what was done where no finer bar was",
        True,
        "dictionary",
    ),
)  # fmt: skip

_OFFSET = Column(
    "offset",
    "string",
    "By which the bars are moved against the clock: 0m, 5m …",
    True,
    "dictionary",
)

_KLINES_DOC = (
    "Bars with average price and funding; gaps are filled with marked bars, long ones split the "
    "history into segments."
)
_RESAMPLED_DOC = (
    "Bars made from finer ones, at one or more offsets; each says how complete it is and by which "
    "policy it was made."
)


def _klines(name: str, layout: tuple[Partition, ...]) -> Table:
    return Table(
        name=f"gold.{name}",
        columns=(MARKET, SYMBOL, INTERVAL, _OPEN_TIME, *_VALUES),
        key=("market", "symbol", "interval", "open_time"),
        time="open_time",
        partitions=_partitions(layout),
        sort=("symbol", "open_time"),
        doc=_KLINES_DOC,
    )


def _resampled(name: str, layout: tuple[Partition, ...]) -> Table:
    return Table(
        name=f"gold.{name}",
        columns=(MARKET, SYMBOL, INTERVAL, _OFFSET, _OPEN_TIME, *_VALUES, *_RESAMPLED),
        # Bars of one interval that open together have one offset.
        key=("market", "symbol", "interval", "offset", "open_time"),
        time="open_time",
        partitions=_partitions(layout),
        sort=("symbol", "offset", "open_time"),
        doc=_RESAMPLED_DOC,
    )


def _partitions(layout: tuple[Partition, ...]) -> tuple[Partition, ...]:
    cut = (Partition(part.transform, part.column or "open_time") for part in layout)
    return (Partition("identity", "market"), Partition("identity", "interval"), *cut)


KLINES_FINE = _klines("klines_fine", FINE)
KLINES_COARSE = _klines("klines_coarse", COARSE)
RESAMPLED_FINE = _resampled("resampled_klines_fine", FINE)
RESAMPLED_COARSE = _resampled("resampled_klines_coarse", COARSE)

# What is asked in SQL, and the tables it is the union of.
UNIONS = {
    "gold.klines": (KLINES_FINE, KLINES_COARSE),
    "gold.resampled_klines": (RESAMPLED_FINE, RESAMPLED_COARSE),
}


def klines_table(interval: str) -> Table:
    """The table that holds gold klines of this interval."""
    return KLINES_COARSE if interval in COARSE_INTERVALS else KLINES_FINE


def resampled_table(interval: str) -> Table:
    """The table that holds resampled bars of this interval."""
    return RESAMPLED_COARSE if interval in COARSE_INTERVALS else RESAMPLED_FINE
